"""Reading arrays by name from a pickle without running anything of it.

Python's own unpickler calls what a file names and hashes whatever it uses as a key. This one is a small machine for the
opcodes that arrays by name are made of. It builds plain values, knows by name the few functions that NumPy stores its
arrays with, and does itself what they would do; all else is refused. Each opcode does a bounded amount of work, and
their number is bounded, so that no file keeps it busy for long or takes more memory than a few times its own size.
"""

from __future__ import annotations

import mmap
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

MOST_OPCODES = 500_000  # the largest networks of PaddleClas have 50,000 in a file
MOST_ITEMS = 200_000  # on the stack at once, and in the memo
MOST_DIMENSIONS = 32
LONGEST_NAME = 1000  # characters of a key
MOST_ARGUMENTS = 8  # of a call, and parts of what a BUILD sets; the type of an array's numbers has eight

_CORES = ("numpy.core", "numpy._core")  # NumPy 1 and 2 name it so
_FUNCTIONS = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("collections", "OrderedDict"): "OrderedDict",
    ("__builtin__", "bytes"): "bytes",  # how the older protocols store no bytes
    ("builtins", "bytes"): "bytes",
    **{(f"{core}.multiarray", "_reconstruct"): "_reconstruct" for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): "scalar" for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): "_frombuffer" for core in _CORES},
}


class Refused(Exception):
    """What is in the file is not plain arrays. The text says why, in one line."""


class _Function:
    """A function of NumPy or Python that a pickle may name."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Array:
    """An array whose content a BUILD still has to give."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None


class _Dtype:
    """The type of an array's numbers, which a BUILD may give a byte order."""

    def __init__(self, text: Any) -> None:
        if not isinstance(text, str) or len(text) > 3 or text.lstrip("<>|=")[:1] not in tuple("biufc"):
            raise Refused("an array of something else than numbers")
        try:
            self.value = np.dtype(text)
        except TypeError as error:
            raise Refused(f"no type of numbers is called {text[:20]!r}") from error


def read_pickle(path: Path) -> Any:
    """The content of a pickle: numbers, texts, lists, tuples, mappings with texts as keys, and arrays of numbers.

    Raises:
        Refused: it holds or asks for anything else, or is damaged. OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise Refused("the file is empty") from error
        with data:
            return _Machine(data).run()


class _Machine:
    """A stack, marks in it, and what the pickle wants to refer to again."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._encoded = 0  # characters of texts that were made bytes
        self._paired = 0  # pairs that were made mappings by a call

    def run(self) -> Any:
        """Go through the file; gives what it leaves on the stack."""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], self._data))):
                if count >= MOST_OPCODES or len(self._stack) > MOST_ITEMS or len(self._memo) > MOST_ITEMS:
                    raise Refused(f"more than {MOST_OPCODES} steps or {MOST_ITEMS} values to build")
                if opcode.name == "STOP":
                    return _finished(self._pop())
                self._do(opcode.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise Refused(f"damaged ({' '.join(str(error).split())[:100] or type(error).__name__})") from error
        raise Refused("damaged (it has no end)")

    def _do(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self._stack.append(argument)
        elif name in _IGNORED:
            pass
        else:
            step = _STEPS.get(name)
            if step is None:
                raise Refused(f"it uses {name}, which arrays do not need")
            step(self, argument)

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise Refused("damaged (nothing is left to take)")
        return self._stack.pop()

    def _top(self) -> Any:
        self._stack.append(value := self._pop())
        return value

    def _from_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _pop_mark(self, _: Any) -> None:
        self._from_mark()

    def _discard(self, _: Any) -> None:
        self._pop()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._top())

    def _memoize(self, number: int | None) -> None:
        self._memo[len(self._memo) if number is None else number] = self._top()

    def _recall(self, number: int) -> None:
        self._stack.append(self._memo[number])

    def _tuple(self, length: int | None) -> None:
        values = self._from_mark() if length is None else [self._pop() for _ in range(length)][::-1]
        self._stack.append(tuple(values))

    def _list(self, _: Any) -> None:
        self._stack.append(self._from_mark())

    def _dict(self, _: Any) -> None:
        values = self._from_mark()
        self._stack.append({})
        self._put(values)

    def _append(self, _: Any) -> None:
        self._extend([self._pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._from_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise Refused("damaged (it appends to what is no list)")
        target.extend(values)

    def _set(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._put([key, value])

    def _sets(self, _: Any) -> None:
        self._put(self._from_mark())

    def _put(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(values) % 2:
            raise Refused("damaged (it sets a key of what has none)")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str) or len(key) > LONGEST_NAME:
                raise Refused(f"a key is a {type(key).__name__}, not a name of up to {LONGEST_NAME} characters")
            target[key] = value

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._name(module, name)

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in _FUNCTIONS:
            raise Refused(f"it wants to run {_shown(module)}.{_shown(name)}")
        self._stack.append(_Function(_FUNCTIONS[module, name]))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise Refused("it calls what is no function")
        if function.name not in _CALLS:
            raise Refused(f"it calls {function.name}")
        self._count_encoded(arguments)
        if function.name == "OrderedDict" and arguments:
            # A list that is referred to again costs the file two bytes, and its whole length each time.
            self._paired += len(arguments[0]) if isinstance(arguments[0], (list, tuple)) else 0
            if self._paired > MOST_ITEMS:
                raise Refused(f"more than {MOST_ITEMS} values to build")
        self._stack.append(_CALLS[function.name](*arguments))

    def _count_encoded(self, values: tuple[Any, ...]) -> None:
        """Each text of the file is made bytes once; a file that asks for more of them is after our memory."""
        if len(values) > MOST_ARGUMENTS:
            raise Refused(f"it hands {len(values)} values to a function")
        self._encoded += sum(len(value) for value in values if isinstance(value, str))
        if self._encoded > len(self._data) + LONGEST_NAME:
            raise Refused("it uses the same text again and again")

    def _build(self, _: Any) -> None:
        state, target = self._pop(), self._top()
        self._count_encoded(state if isinstance(state, tuple) else ())
        if isinstance(target, _Dtype):
            _build_dtype(target, state)
        elif isinstance(target, _Array):
            _build_array(target, state)
        else:
            raise Refused(f"it sets attributes of a {type(_finished(target)).__name__}")


def _shown(value: Any) -> str:
    """A name from a file as a part of one line; nothing that is no text is shown."""
    text = value if isinstance(value, str) else type(value).__name__
    return text[:60] if text[:60].isprintable() else repr(text[:60])


def _finished(value: Any) -> Any:
    """What a value of the machine is outside of it; of containers, the first level."""
    if isinstance(value, _Array):
        if value.value is None:
            raise Refused("an array has no content")
        return value.value
    if isinstance(value, dict):
        return {key: _finished_item(item) for key, item in value.items()}
    return value


def _finished_item(value: Any) -> Any:
    if isinstance(value, tuple) and len(value) <= 2:  # a name and an array
        return tuple(_finished(item) if isinstance(item, _Array) else item for item in value)
    return _finished(value) if isinstance(value, _Array) else value


def _build_dtype(target: _Dtype, state: Any) -> None:
    """`(version, byte order, subtype, names, fields, size, alignment, flags)`, of which numbers have the first two."""
    if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
        raise Refused("an array of something else than numbers")
    order = _text(state[1])
    if order not in ("<", ">", "|", "="):
        raise Refused(f"no byte order is called {order[:20]!r}")
    target.value = target.value.newbyteorder(order) if order in "<>" else target.value  # type: ignore[arg-type]


def _build_array(target: _Array, state: Any) -> None:
    """`(version, shape, dtype, whether by columns, bytes)`."""
    if target.value is not None or not isinstance(state, tuple) or len(state) != 5:
        raise Refused("it sets attributes of an array")
    _, shape, dtype, by_columns, data = state
    target.value = _array(data, dtype, shape, "F" if by_columns else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise Refused("an array of something else than numbers")
    if not isinstance(shape, tuple) or len(shape) > MOST_DIMENSIONS or not all(type(n) is int for n in shape):
        raise Refused("the shape of an array is no list of numbers")
    if order not in ("C", "F"):
        raise Refused("an array is stored by neither rows nor columns")
    content = _bytes(data)
    count = 1
    for side in shape:
        count *= side if 0 <= side < 2**40 else -1
        if not 0 <= count < 2**40:
            raise Refused("the shape of an array has a side that cannot be")
    if count * dtype.value.itemsize != len(content):
        raise Refused(f"an array of shape {list(shape)} has {len(content)} bytes")
    return np.frombuffer(content, dtype.value).reshape(shape, order=order)


def _bytes(value: Any) -> bytes | bytearray:
    if isinstance(value, str):  # as Python 2 wrote bytes
        return value.encode("latin1")
    if not isinstance(value, (bytes, bytearray)):
        raise Refused("the content of an array is no bytes")
    return value


def _text(value: Any) -> str:
    text = value.decode("latin1") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise Refused("a name is no text")
    return text


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("it encodes what is no text")
    return text.encode("latin1")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if not isinstance(kind, _Function) or kind.name != "ndarray":
        raise Refused("it makes something else than an array")
    return _Array()


def _dtype(text: Any, align: Any = False, copy: Any = False) -> _Dtype:
    return _Dtype(_text(text))


def _scalar(dtype: Any, data: Any) -> np.ndarray:
    return _array(data, dtype, (), "C")


def _mapping(items: Any = ()) -> dict[str, Any]:
    """An OrderedDict; Python 2 gave it its items as a list of pairs."""
    if not isinstance(items, (list, tuple)):
        raise Refused("a mapping is made of no pairs")
    for pair in items:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise Refused("a key is not a name")
    return dict(items)


_CALLS: Mapping[str, Callable[..., Any]] = {
    "_reconstruct": _reconstruct,
    "dtype": _dtype,
    "encode": _encode,
    "scalar": _scalar,
    "_frombuffer": _array,
    "OrderedDict": _mapping,
    "bytes": lambda: b"",
}
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_IGNORED = ("PROTO", "FRAME", "READONLY_BUFFER")
_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._discard,
    "POP_MARK": _Machine._pop_mark,
    "DUP": _Machine._duplicate,
    "PUT": _Machine._memoize,
    "BINPUT": _Machine._memoize,
    "LONG_BINPUT": _Machine._memoize,
    "MEMOIZE": _Machine._memoize,
    "GET": _Machine._recall,
    "BINGET": _Machine._recall,
    "LONG_BINGET": _Machine._recall,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "LIST": _Machine._list,
    "EMPTY_LIST": lambda machine, _: machine._stack.append([]),
    "DICT": _Machine._dict,
    "EMPTY_DICT": lambda machine, _: machine._stack.append({}),
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set,
    "SETITEMS": _Machine._sets,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
}
