"""What is at `/`: a page to try the models in a browser, and a list of the addresses for everything else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from importlib.resources import files

from ppcls_ext.core.version import __version__

INDEX = """\
pplcnet {version}: {models}

GET  /                             in a browser: a page to try the models
POST /predict                      an image; ?model=NAME where there are several, and options as GET /models lists them
GET  /models                       what they are, and the options of each
GET  /v2                           the open inference protocol, version 2
GET  /v2/health/live, /ready       whether the service lives, and is ready for work
GET  /v2/models/NAME, /ready
POST /v2/models/NAME/infer
GET  /metrics                      for Prometheus

curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg {address}predict
"""

PAGE = files(__package__).joinpath("page.html").read_text(encoding="utf-8").replace("{{version}}", __version__)


def _hashes(tag: str) -> str:
    """The sources that a policy allows: what stands in the page's elements of a name, and nothing else."""
    texts = re.findall(f"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


# The browser runs nothing that is not in the page as it was shipped, and asks no other origin for anything.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}


def wants_page(accept: str) -> bool:
    """Whether a client that accepts this is a browser: `curl` and its like do not name HTML."""
    return any(kind.partition(";")[0].strip().lower() == "text/html" for kind in accept.split(","))


def index(models: Iterable[str], address: str) -> str:
    """The list of addresses as text."""
    return INDEX.format(version=__version__, models=", ".join(models), address=address)
