"""Small machine tools for kernels: unaligned word loads and stores, a 64 x 64 -> 128 bit product, byte scans of 32, stack scratch.

None of them checks bounds: the caller proves that the bytes are there. No domain rules. Rules from the LLVM language
reference; everything here is portable LLVM, so x86-64 and aarch64 give the same results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

i64: Callable[[Any], int] = np.int64  # type: ignore[assignment]
"""`np.int64(x)` in kernels, where it is the int64 that Python calls int."""


def intrinsic(function: Any) -> Any:
    """Register code generation as numba's own `intrinsic` does; typed, because it is called without its first argument."""
    return _intrinsic(function)


PAD = 64
"""Bytes that must be readable (writable, for stores) after the last byte a word or block operation begins at."""

_I8 = ir.IntType(8)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_I128 = ir.IntType(128)
_BLOCK = ir.VectorType(_I8, 32)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, to: Any) -> Any:
    """Return a pointer of type `to` at byte `index` of a contiguous uint8 array, or of a pointer to uint8."""
    data = array
    if isinstance(array_type, types.Array):
        data = cgutils.create_struct_proxy(array_type)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [index]), to.as_pointer())


def _load(result: Any, width: Any) -> Any:
    def typed(typingctx: Any, data: Any, at: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            index = context.cast(builder, args[1], sig.args[1], types.int64)
            value = builder.load(_pointer(context, builder, sig.args[0], args[0], index, width), align=1)
            return builder.zext(value, _I64) if width is not _I64 else value

        return result(data, at), codegen

    return typed


@intrinsic
def pointer(typingctx: Any, array: Any) -> Any:
    """Return the address of a C-contiguous array's first element as a typed pointer, which `p[i]` reads and writes.

    Inside kernels only. An array is passed on as 7 arguments and indexed with a test for negative positions, a pointer as one
    and with none: worth a factor of 2 in the JSON decoder. The array must outlive the pointer.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return cgutils.create_struct_proxy(sig.args[0])(context, builder, value=args[0]).data

    return types.CPointer(array.dtype)(array), codegen


def _address(element: Any) -> Any:
    def typed(typingctx: Any, address: Any) -> Any:
        kind = types.CPointer(element)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(kind))

        return kind(types.int64), codegen

    return typed


@intrinsic
def bytes_at(typingctx: Any, address: Any) -> Any:
    """Return a pointer to the uint8 at an address (`array.ctypes.data`): one kernel for writable and read-only arrays."""
    return _address(types.uint8)(typingctx, address)


@intrinsic
def ints_at(typingctx: Any, address: Any) -> Any:
    """Return a pointer to the int64 at an address."""
    return _address(types.int64)(typingctx, address)


@intrinsic
def load64(typingctx: Any, data: Any, at: Any) -> Any:
    """Return the 8 bytes of `data` at byte `at` as a little-endian uint64."""
    return _load(types.uint64, _I64)(typingctx, data, at)


@intrinsic
def load32(typingctx: Any, data: Any, at: Any) -> Any:
    """Return the 4 bytes of `data` at byte `at` as a little-endian number, in a uint64."""
    return _load(types.uint64, _I32)(typingctx, data, at)


@intrinsic
def copy32(typingctx: Any, out: Any, to: Any, data: Any, at: Any) -> Any:
    """Copy a block of 32 bytes: `out[to:to + 32] = data[at:at + 32]`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target = context.cast(builder, args[1], sig.args[1], types.int64)
        origin = context.cast(builder, args[3], sig.args[3], types.int64)
        block = builder.load(_pointer(context, builder, sig.args[2], args[2], origin, _BLOCK), align=1)
        builder.store(block, _pointer(context, builder, sig.args[0], args[0], target, _BLOCK), align=1)
        return context.get_dummy_value()

    return types.void(out, to, data, at), codegen


@intrinsic
def move(typingctx: Any, out: Any, to: Any, data: Any, at: Any, length: Any) -> Any:
    """Copy bytes that do not overlap: `out[to:to + length] = data[at:at + length]`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        to, at, length = (context.cast(builder, args[i], sig.args[i], types.int64) for i in (1, 3, 4))
        target = _pointer(context, builder, sig.args[0], args[0], to, _I8)
        cgutils.raw_memcpy(builder, target, _pointer(context, builder, sig.args[2], args[2], at, _I8), length, 1)
        return context.get_dummy_value()

    return types.void(out, to, data, at, length), codegen


@intrinsic
def mulhi(typingctx: Any, a: Any, b: Any) -> Any:
    """Return the high 64 bits of the 128 bit product of two uint64."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = builder.mul(builder.zext(args[0], _I128), builder.zext(args[1], _I128))
        return builder.trunc(builder.lshr(wide, ir.Constant(_I128, 64)), _I64)

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic
def float_of_bits(typingctx: Any, bits: Any) -> Any:
    """Return the float64 whose bits an int64 holds."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def bits_of_float(typingctx: Any, value: Any) -> Any:
    """Return the bits of a float64 as an int64."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _I64)

    return types.int64(types.float64), codegen


def _count(name: str) -> Any:
    def typed(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            count = getattr(builder, name)(args[0], ir.Constant(ir.IntType(1), 0))
            return count

        return types.int64(types.uint64), codegen

    return typed


@intrinsic
def trailing_zeros(typingctx: Any, value: Any) -> Any:
    """Return how many low bits of a uint64 are 0; 64 for 0."""
    return _count("cttz")(typingctx, value)


@intrinsic
def leading_zeros(typingctx: Any, value: Any) -> Any:
    """Return how many high bits of a uint64 are 0; 64 for 0."""
    return _count("ctlz")(typingctx, value)


def _outside(ranges: tuple[tuple[int, int], ...]) -> Any:
    """Return the typing of a scan: a uint64 with bit k set when byte `at + k` (k < 32) is in none of the inclusive ranges."""

    def constant(value: int) -> Any:
        return ir.Constant(_BLOCK, [value] * 32)

    def typed(typingctx: Any, data: Any, at: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            index = context.cast(builder, args[1], sig.args[1], types.int64)
            block = builder.load(_pointer(context, builder, sig.args[0], args[0], index, _BLOCK), align=1)
            inside = None
            for low, high in ranges:
                hit = builder.icmp_unsigned("<=", builder.sub(block, constant(low)), constant(high - low))
                inside = hit if inside is None else builder.or_(inside, hit)
            return builder.zext(builder.bitcast(builder.not_(inside), _I32), _I64)

        return types.uint64(data, at), codegen

    return typed


@intrinsic
def not_plain32(typingctx: Any, data: Any, at: Any) -> Any:
    """Return which of 32 bytes cannot stand for themselves in a JSON string: control, quote, backslash, beyond ASCII."""
    return _outside(((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7F)))(typingctx, data, at)


@intrinsic
def to_escape32(typingctx: Any, data: Any, at: Any) -> Any:
    """Return which of 32 bytes must be escaped in a JSON string: control, quote, backslash."""
    return _outside(((0x20, 0x21), (0x23, 0x5B), (0x5D, 0xFF)))(typingctx, data, at)


@intrinsic
def not_base64_32(typingctx: Any, data: Any, at: Any) -> Any:
    """Return which of 32 bytes are outside the standard base64 alphabet (padding included)."""
    return _outside(((0x41, 0x5A), (0x61, 0x7A), (0x2F, 0x39), (0x2B, 0x2B)))(typingctx, data, at)


@intrinsic
def not_hex32(typingctx: Any, data: Any, at: Any) -> Any:
    """Return which of 32 bytes are not hexadecimal digits of either case."""
    return _outside(((0x30, 0x39), (0x41, 0x46), (0x61, 0x66)))(typingctx, data, at)


def _stack(element: Any, width: Any, n: int) -> Any:
    def typed(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            # alloca_once stands in the entry block: one piece of stack per call, however often the line is passed
            return cgutils.alloca_once(builder, width, size=n)

        return types.CPointer(element)(), codegen

    return typed


@intrinsic
def stack_u32x16(typingctx: Any) -> Any:
    """Return 16 uint32 on the stack, uninitialised, as a pointer; do not return it."""
    return _stack(types.uint32, _I32, 16)(typingctx)


@intrinsic
def stack_u32x8(typingctx: Any) -> Any:
    """Return 8 uint32 on the stack, uninitialised, as a pointer; do not return it."""
    return _stack(types.uint32, _I32, 8)(typingctx)


@intrinsic
def stack_u8x128(typingctx: Any) -> Any:
    """Return 128 uint8 on the stack, uninitialised, as a pointer; do not return it."""
    return _stack(types.uint8, _I8, 128)(typingctx)


@intrinsic
def stack_u64x40(typingctx: Any) -> Any:
    """Return 40 uint64 on the stack, uninitialised, as a pointer; do not return it."""
    return _stack(types.uint64, _I64, 40)(typingctx)


@intrinsic
def clear_row(typingctx: Any, rows: Any, row: Any) -> Any:
    """Set all bytes of one element of a one-dimensional, contiguous array of records to zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        size = ir.Constant(_I64, signature.args[0].dtype.size)
        cgutils.memset(builder, place, size, 0)
        return context.get_dummy_value()

    return types.void(rows, types.int64), generate
