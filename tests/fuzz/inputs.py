"""Strategies: odd values, and well-formed files that are then damaged."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
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


class _Call:
    """What a pickle that executes code is made of."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._made_of = (function, arguments)

    def __reduce__(self) -> Any:
        return self._made_of


# Parts of pickles: opcodes with arguments, names of functions that would do harm, and those that arrays need.
PICKLE_PARTS = [
    *(b"\x80\x02", b"\x80\x04", b"(", b")", b"}", b"]", b"N", b"\x88", b"K\x01", b"M\xff\xff", b"I5\n", b"L9L\n"),
    *(b"X\x01\x00\x00\x00a", b"\x8c\x01a", b"U\x01a", b"S'a'\n", b"C\x01a", b"B\x01\x00\x00\x00a", b"F1.5\n"),
    *(b"\x85", b"\x86", b"\x87", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"b", b"R", b"\x81", b"\x92", b"\x93", b"o"),
    *(b"q\x00", b"h\x00", b"r\x00\x00\x00\x00", b"j\x00\x00\x00\x00", b"p0\n", b"g0\n", b"\x94", b"0", b"1", b"2"),
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"ios\nsystem\n"),
    *(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy._core.multiarray\nscalar\n", b"c_codecs\nencode\n"),
    *(b"ccollections\nOrderedDict\n", b"P1\n", b"Q", b"\x82\x01", b"\x8a\x01\x05", b"\x8b\xff\xff\xff\x7f"),
    *(b"\x8e" + b"\xff" * 8, b"\x95" + b"\xff" * 8, b"\x8d" + b"\xff" * 8, b"\x96" + b"\xff" * 8, b"\x97", b"\x98"),
    *(b"T\x01\x00\x00\x00a", b"f4", b"O8", b"\x8f", b"\x90", b"."),
]


def pickles(content: Any) -> st.SearchStrategy[bytes]:
    """Pickles of every protocol: damaged ones of `content`, such as call a function, and parts in any order."""
    calls = [_Call(os.system, "exit 3"), _Call(eval, "1/0"), _Call(bytearray, 10**12), _Call(exec, "1/0")]
    bombs = [pickle.dumps(value, protocol) for protocol in range(6) for call in calls for value in (call, {"a": call})]
    whole = [pickle.dumps(content, protocol) for protocol in range(6)]
    parts = st.lists(st.sampled_from(PICKLE_PARTS), max_size=30).map(b"".join)
    return st.one_of(
        st.sampled_from(whole).flatmap(damaged),
        st.sampled_from(bombs),
        st.sampled_from(bombs).flatmap(damaged),
        parts.map(lambda data: data + b"."),
        st.binary(max_size=64),
    )


def headers() -> st.SearchStrategy[bytes]:
    """Files of safetensors whose header says odd things."""
    entry = {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}
    contents = st.one_of(
        json_texts({"a": entry, "__metadata__": {"b": "c"}}), json_texts({"a": {**entry, "dtype": "BF16"}})
    )
    lengths = st.one_of(st.just(0), st.integers(-3, 3), st.sampled_from([2**31, 2**62]))
    return st.builds(lambda text, off: struct.pack("<Q", max(0, len(text) + off)) + text + bytes(8), contents, lengths)
