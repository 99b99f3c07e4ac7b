"""Strategies: odd values, and well-formed files that are then damaged."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st
from PIL import Image

NASTY = [
    "",
    " ",
    "\0",
    "a\nb",
    "[/b]",
    "²",
    "١",
    "\x1b[31m",
    "\u2028",
    "\ud800",
    "\udcff",
    "🙂",
    "a" * 300,
    "../..",
    "/dev/zero",
    "~",
    "{{x}}",
]
NUMBERS = [
    0,
    -1,
    1,
    2,
    255,
    256,
    2**31,
    2**63,
    2**64,
    10**20,
    10**400,
    -(10**400),
    1e-300,
    1e308,
    float("nan"),
    float("inf"),
]

texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=8))
numbers = st.one_of(st.sampled_from(NUMBERS), st.integers(-3, 3), st.floats(width=32))
leaves = st.one_of(st.none(), st.booleans(), numbers, texts)
odd = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(texts, st.integers(-1, 3)), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """A value in which some part, at any depth, is replaced by an odd one, left out or given twice."""
    if draw(st.integers(0, 3)) == 0 or not isinstance(value, (dict, list)) or not value:
        return draw(odd)
    if isinstance(value, list):
        index = draw(st.integers(0, len(value) - 1))
        kept = list(value)
        what = draw(st.integers(0, 4))
        if what == 0:
            kept.pop(index)
        elif what == 1:
            kept.append(kept[index])
        else:
            kept[index] = draw(changed(kept[index]))
        return kept
    key = draw(st.sampled_from(sorted(value, key=str)))
    rest = dict(value)
    what = draw(st.integers(0, 5))
    if what == 0:
        del rest[key]
    elif what == 1:
        rest[draw(st.one_of(texts, st.integers(-1, 3)))] = draw(odd)
    else:
        rest[key] = draw(changed(value[key]))
    return rest


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """A file's content with bytes changed, left out, repeated or cut off."""
    content = bytearray(data)
    for _ in range(draw(st.integers(0, 4))):
        if not content:
            break
        place = draw(st.integers(0, len(content) - 1))
        what = draw(st.integers(0, 4))
        if what == 0:
            content[place] = draw(st.integers(0, 255))
        elif what == 1:
            del content[place:]
        elif what == 2:
            del content[place : place + draw(st.integers(1, 16))]
        elif what == 3:
            content[place:place] = draw(st.binary(max_size=16))
        else:
            size = draw(st.sampled_from([2, 4]))
            content[place : place + size] = draw(
                st.sampled_from([b"\xff" * size, b"\0" * size, b"\x7f" + b"\xff" * (size - 1)])
            )
    return bytes(content)


YAML_PARTS = [
    "a: ",
    "b",
    "\n",
    "  ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "&x ",
    "*x",
    "<<: ",
    "!!int ",
    "!!set ",
    "!!python/name:os.system ",
    '"',
    "'",
    "|",
    ">",
    "#",
    "%YAML 1.1\n",
    "---\n",
    "? ",
    "2023-02-31",
    "1e999",
    ".nan",
    "0x" + "f" * 40,
    "9" * 50,
    "1:60:3",
    "\t",
    "\0",
    "\ufeff",
    "=",
    "yes: ",
]


def yaml_texts(content: Any) -> st.SearchStrategy[bytes]:
    """Files of YAML: of changed content, damaged, or pieces of YAML in any order."""
    pieces = st.lists(st.one_of(st.sampled_from(YAML_PARTS), texts), max_size=30).map("".join)
    return st.one_of(
        changed(content).map(dumped),
        damaged(dumped(content)),
        pieces.map(lambda text: text.encode(errors="surrogatepass")),
        st.binary(max_size=64),
    )


def dumped(value: Any) -> bytes:
    """YAML of any value; what YAML has no text for is left as Python shows it."""
    try:
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode(errors="surrogatepass")
    except (yaml.YAMLError, ValueError):
        return repr(value)[:10_000].encode(errors="backslashreplace") if _is_short(value) else b"9" * 5000


def _is_short(value: Any) -> bool:
    try:
        repr(value)
    except ValueError:  # an integer of too many digits
        return False
    return True


def json_texts(content: Any) -> st.SearchStrategy[bytes]:
    """Files of JSON: of changed content, damaged, deep, or of no meaning."""
    depths = st.builds(lambda opening, depth: opening * depth, st.sampled_from(["[", '{"a":']), st.integers(1, 30_000))
    return st.one_of(
        changed(content).map(lambda value: json.dumps(value, default=str, skipkeys=True).encode()),
        damaged(json.dumps(content).encode()),
        depths.map(str.encode),
        st.binary(max_size=64),
    )


def image_file(kind: str, mode: str) -> bytes:
    """A small image file of a kind, such as PNG, and a mode of Pillow."""
    values = (np.arange(12 * 9) % 3).astype(np.uint8).reshape(9, 12)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0])
    else:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


IMAGES = [
    image_file(kind, mode)
    for kind, mode in [
        ("PNG", "L"),
        ("PNG", "P"),
        ("PNG", "RGB"),
        ("PNG", "I;16"),
        ("JPEG", "RGB"),
        ("BMP", "RGB"),
        ("TIFF", "L"),
        ("GIF", "P"),
        ("PPM", "RGB"),
        ("WEBP", "RGB"),
    ]
]
image_files = st.one_of(st.sampled_from(IMAGES).flatmap(damaged), st.binary(max_size=64))
