"""Eight float32 as one value in compiled loops, for loops that LLVM does not turn into vector code by itself.

Its own vectorizer leaves the ends of rows to scalar code, and rows of the networks are as short as seven numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

# mypy: disable-error-code="no-untyped-def"
# Numba asks for functions of its typing context; arrays are flat float32, places in them int64.

LANES = 8
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_PAIR = ir.VectorType(ir.FloatType(), 2 * LANES)
_UNALIGNED = 4  # bytes
_inlined: Any = intrinsic  # whose type does not say that callers leave the typing context out


class Vector(types.Type):  # type: ignore[misc]
    """Eight float32."""

    def __init__(self) -> None:
        super().__init__(name="pplcnet_float32x8")


VECTOR = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any, vector: Any = _VECTOR) -> Any:
    """A pointer to the vector that begins at an index of an array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _mask(lanes: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))


@_inlined
def zeros(typing_context):
    """Eight zeros."""

    def code(context, builder, signature, arguments):
        return ir.Constant(_VECTOR, [0.0] * LANES)

    return VECTOR(), code


@_inlined
def splat(typing_context, number):
    """Eight times the same float32."""

    def code(context, builder, signature, arguments):
        one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, one, _mask([0] * LANES))

    return VECTOR(types.float32), code


@_inlined
def load(typing_context, array, index):
    """array[index : index + 8]."""

    def code(context, builder, signature, arguments):
        return builder.load(_place(context, builder, signature.args[0], *arguments), align=_UNALIGNED)

    return VECTOR(array, types.int64), code


@_inlined
def store(typing_context, array, index, vector):
    """array[index : index + 8] = vector."""

    def code(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], place, align=_UNALIGNED)
        return context.get_dummy_value()

    return types.void(array, types.int64, VECTOR), code


@_inlined
def multiply_add(typing_context, a, b, c):
    """a * b + c."""

    def code(context, builder, signature, arguments):
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        return builder.call(function, arguments)

    return VECTOR(VECTOR, VECTOR, VECTOR), code


@_inlined
def add(typing_context, a, b):
    """a + b."""

    def code(context, builder, signature, arguments):
        return builder.fadd(*arguments)

    return VECTOR(VECTOR, VECTOR), code


@_inlined
def total(typing_context, vector):
    """The sum of the eight."""

    def code(context, builder, signature, arguments):
        lanes = [builder.extract_element(arguments[0], ir.Constant(ir.IntType(32), i)) for i in range(LANES)]
        while len(lanes) > 1:
            lanes = [builder.fadd(a, b) for a, b in zip(lanes[::2], lanes[1::2], strict=True)]
        return lanes[0]

    return types.float32(VECTOR), code


@_inlined
def first(typing_context, vector, count):
    """The vector with zeros from place `count` on."""

    def code(context, builder, signature, arguments):
        counts = ir.VectorType(ir.IntType(64), LANES)
        one = builder.insert_element(ir.Constant(counts, ir.Undefined), arguments[1], ir.Constant(ir.IntType(32), 0))
        wanted = builder.shuffle_vector(one, one, _mask([0] * LANES))
        inside = builder.icmp_signed("<", ir.Constant(counts, list(range(LANES))), wanted)
        return builder.select(inside, arguments[0], ir.Constant(_VECTOR, [0.0] * LANES))

    return VECTOR(VECTOR, types.int64), code


@_inlined
def load_evens(typing_context, array, index):
    """array[index : index + 16 : 2]; all 16 are read."""

    def code(context, builder, signature, arguments):
        pair = builder.load(
            _place(context, builder, signature.args[0], arguments[0], arguments[1], _PAIR), align=_UNALIGNED
        )
        return builder.shuffle_vector(pair, pair, _mask(range(0, 2 * LANES, 2)))

    return VECTOR(array, types.int64), code


@_inlined
def store_in_turn(typing_context, array, index, evens, odds):
    """array[index : index + 16] = one of `evens`, one of `odds`, in turn."""

    def code(context, builder, signature, arguments):
        order = [place for i in range(LANES) for place in (i, LANES + i)]
        pair = builder.shuffle_vector(arguments[2], arguments[3], _mask(order))
        builder.store(
            pair, _place(context, builder, signature.args[0], arguments[0], arguments[1], _PAIR), align=_UNALIGNED
        )
        return context.get_dummy_value()

    return types.void(array, types.int64, VECTOR, VECTOR), code
