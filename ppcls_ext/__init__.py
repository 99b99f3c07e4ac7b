"""PP-LCNet toolkit: the core (backbone, configs, training, export, deployment) that every task builds on.

Importing this package is cheap and does not import Paddle. It makes PaddleClas's modules importable as
`ppcls`, and PaddleClas's `Arch: {name: PPLCNet_x1_0}` build the networks of this package.
"""

from typing import TYPE_CHECKING, Any

from ppcls_ext import upstream
from ppcls_ext.core.version import __version__

if TYPE_CHECKING:
    from ppcls_ext.runtime.predictor import Predictor

__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    """Load what this package offers when it is first asked for."""
    if name == "Predictor":
        from ppcls_ext.runtime.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _put_our_networks_into_paddleclas(arch: Any) -> None:
    """PaddleClas resolves `Arch.name` by attribute of `ppcls.arch`: ours go there, in place of its own."""
    from ppcls_ext.models.factory import register_with_paddleclas

    register_with_paddleclas(arch)


upstream.install({"ppcls.arch": _put_our_networks_into_paddleclas})
