"""Eight floats as one value of compiled code: what numba's own loops leave to chance is written out.

LLVM vectorises a numba loop only where it can prove that arrays do not overlap, and tests that at every entry
of a loop; and it never keeps a tile in registers. A `Float8` is an LLVM vector, so each function below is one
or a few instructions on a CPU with AVX2, and right (as two vectors of four) on any other.

Indices are elements of a C-contiguous array of any shape, counted flat, and are not checked.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 8
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_WORDS = ir.VectorType(ir.IntType(32), LANES)


class Float8(types.Type):
    """numba's type of eight float32."""

    def __init__(self) -> None:
        super().__init__(name="Float8")


float8 = Float8()


@register_model(Float8)
class Float8Model(models.PrimitiveModel):
    """Held as one LLVM vector."""

    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _FLOATS)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any, vector: Any) -> Any:
    """Where the vector that begins at this element lies."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _constants(kind: Any, value: float) -> Any:
    """A vector of one constant."""
    return ir.Constant(kind, [value] * LANES)


def _shuffled(builder: Any, first: Any, second: Any, lanes: Sequence[int]) -> Any:
    """The lanes chosen of two vectors; those of the second count from the length of the first."""
    return builder.shuffle_vector(
        first, second, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    )


def _call(builder: Any, name: str, args: Sequence[Any]) -> Any:
    """An LLVM intrinsic of vectors."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(args))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Eight float32 of an array, or eight uint8 as floats."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if array.dtype == types.float32:
            return builder.load(_pointer(context, builder, array, args[0], args[1], _FLOATS), align=4)
        stored = ir.VectorType(ir.IntType(8), LANES)
        pixels = builder.load(_pointer(context, builder, array, args[0], args[1], stored), align=1)
        return builder.sitofp(builder.zext(pixels, _WORDS), _FLOATS)

    if array.dtype not in (types.float32, types.uint8):
        return None
    return float8(array, types.intp), emit


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """One number in all lanes."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        single = builder.insert_element(
            ir.Constant(_FLOATS, ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0)
        )
        return _shuffled(builder, single, ir.Constant(_FLOATS, ir.Undefined), [0] * LANES)

    return float8(types.float32), emit


@intrinsic
def add(typing: Any, first: Any, second: Any) -> Any:
    """first + second."""
    return float8(float8, float8), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def subtract(typing: Any, first: Any, second: Any) -> Any:
    """first - second."""
    return float8(float8, float8), lambda context, builder, signature, args: builder.fsub(*args)


@intrinsic
def multiply(typing: Any, first: Any, second: Any) -> Any:
    """first * second."""
    return float8(float8, float8), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def multiply_add(typing: Any, first: Any, second: Any, third: Any) -> Any:
    """first * second + third, rounded once where the CPU has an instruction for it."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, "llvm.fmuladd.v8f32", args)

    return float8(float8, float8, float8), emit


@intrinsic
def clamp(typing: Any, value: Any) -> Any:
    """Into 0..255."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low, high = _constants(_FLOATS, 0.0), _constants(_FLOATS, 255.0)
        raised = builder.select(builder.fcmp_ordered(">", args[0], low), args[0], low)
        return builder.select(builder.fcmp_ordered("<", raised, high), raised, high)

    return float8(float8), emit


@intrinsic
def solarized(typing: Any, value: Any) -> Any:
    """255 - value from 128 on, else value."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        inverse = builder.fsub(_constants(_FLOATS, 255.0), args[0])
        bright = builder.fcmp_ordered(">=", args[0], _constants(_FLOATS, 128.0))
        return builder.select(bright, inverse, args[0])

    return float8(float8), emit


@intrinsic
def interleaved(typing: Any, red: Any, green: Any, blue: Any) -> Any:
    """Three planes of eight pixels as (R G B R G B R G) (B ...) (...)."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        two = _shuffled(builder, args[0], args[1], range(2 * LANES))
        padded = _shuffled(builder, args[2], args[2], [*range(LANES), *range(LANES)])
        both = [plane * LANES + pixel for pixel in range(LANES) for plane in range(3)]
        parts = (
            _shuffled(builder, two, padded, both[start : start + LANES]) for start in range(0, 24, LANES)
        )
        return context.make_tuple(builder, signature.return_type, list(parts))

    return types.UniTuple(float8, 3)(float8, float8, float8), emit


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Into a float32 array."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, array, args[0], args[1], _FLOATS), align=4)
        return context.get_dummy_value()

    return (types.void(array, types.intp, float8), emit) if array.dtype == types.float32 else None


def _store_bytes(context: Any, builder: Any, kind: Any, args: Any, value: Any) -> Any:
    """Write a vector to bytes, whatever its type, where a byte stands at index."""
    builder.store(value, _pointer(context, builder, kind, args[0], args[1], value.type), align=1)
    return context.get_dummy_value()


@intrinsic
def store_float32(typing: Any, memory: Any, index: Any, value: Any) -> Any:
    """32 bytes of an uint8 array."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _store_bytes(context, builder, memory, args, args[2])

    return types.void(memory, types.intp, float8), emit


@intrinsic
def store_float16(typing: Any, memory: Any, index: Any, value: Any) -> Any:
    """16 bytes of an uint8 array, rounded to IEEE halves."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        halves = builder.fptrunc(args[2], ir.VectorType(ir.HalfType(), LANES))
        return _store_bytes(context, builder, memory, args, halves)

    return types.void(memory, types.intp, float8), emit


@intrinsic
def store_bfloat16(typing: Any, memory: Any, index: Any, value: Any) -> Any:
    """16 bytes of an uint8 array: the upper halves of the numbers, rounded to the nearest, ties to even."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[2], _WORDS)
        sixteen = _constants(_WORDS, 16)
        odd = builder.and_(builder.lshr(bits, sixteen), _constants(_WORDS, 1))
        rounded = builder.add(bits, builder.add(odd, _constants(_WORDS, 0x7FFF)))
        upper = builder.trunc(builder.lshr(rounded, sixteen), ir.VectorType(ir.IntType(16), LANES))
        return _store_bytes(context, builder, memory, args, upper)

    return types.void(memory, types.intp, float8), emit


@intrinsic
def store_uint8(typing: Any, memory: Any, index: Any, value: Any) -> Any:
    """8 bytes of an uint8 array, rounded to the nearest, ties to even; the lanes lie in 0..255."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rounded = _call(builder, "llvm.rint.v8f32", [args[2]])
        whole = builder.trunc(builder.fptosi(rounded, _WORDS), ir.VectorType(ir.IntType(8), LANES))
        return _store_bytes(context, builder, memory, args, whole)

    return types.void(memory, types.intp, float8), emit


@intrinsic
def transpose(typing: Any, target: Any, at: Any, stride: Any, source: Any, start: Any, step: Any) -> Any:
    """An 8 x 8 tile: target[at + stride j + i] = source[start + step i + j] for float32 arrays."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows = [
            builder.load(
                _pointer(context, builder, source, args[3], _nth(builder, args[4], args[5], row), _FLOATS),
                align=4,
            )
            for row in range(LANES)
        ]
        for row, column in enumerate(_columns(builder, rows)):
            place = _pointer(context, builder, target, args[0], _nth(builder, args[1], args[2], row), _FLOATS)
            builder.store(column, place, align=4)
        return context.get_dummy_value()

    return types.void(target, types.intp, types.intp, source, types.intp, types.intp), emit


def _nth(builder: Any, first: Any, step: Any, number: int) -> Any:
    return builder.add(first, builder.mul(step, ir.Constant(step.type, number)))


def _columns(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of an 8 x 8 tile of rows: by pairs of lanes, of pairs, of fours."""
    low, high = (0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)
    pairs = [
        _shuffled(builder, rows[row], rows[row + 1], lanes) for row in range(0, 8, 2) for lanes in (low, high)
    ]
    first, second = (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)
    fours = [
        _shuffled(builder, pairs[pair], pairs[pair + 2], lanes)
        for pair in (0, 1, 4, 5)
        for lanes in (first, second)
    ]
    left, right = (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)
    return [
        _shuffled(builder, fours[four], fours[four + 4], half) for half in (left, right) for four in range(4)
    ]
