"""Numbers as addresses, and addresses as arrays, in compiled code."""

from numba import types
from numba.extending import intrinsic


def _as_pointer(context, builder, signature, args):
    return builder.inttoptr(args[0], context.get_value_type(signature.return_type))


@intrinsic
def pointer(typing, address):
    """A number as an address of bytes."""
    return types.CPointer(types.uint8)(types.int64), _as_pointer


@intrinsic
def int64s(typing, address):
    """A number as an address of such numbers."""
    return types.CPointer(types.int64)(types.int64), _as_pointer


@intrinsic
def float64s(typing, address):
    """A number as an address of such numbers."""
    return types.CPointer(types.float64)(types.int64), _as_pointer


@intrinsic
def float32s(typing, address):
    """A number as an address of such numbers."""
    return types.CPointer(types.float32)(types.int64), _as_pointer
