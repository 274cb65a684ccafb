"""The compression functions of SHA-1 and SHA-256: portable, and by x86's own instructions where the processor has them.

`sha1_block` and `sha256_block` are one or the other, chosen when the module is loaded by the features numba compiles for; its cache
keys machine code by processor name and features, so a cache carried to another processor is compiled anew, not run. Both give
the same bits (tests/schemas/test_hashing.py). No padding, no byte order of results: that is schemas/hashing.py. Rules: FIPS 180-4.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.codegen import get_host_cpu_features

from schemas.jit import bare
from schemas.words import intrinsic, stack_u32x16

K256 = (
    0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5, 0xD807AA98, 0x12835B01,
    0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174, 0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC,
    0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA, 0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147,
    0x06CA6351, 0x14292967, 0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
    0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070, 0x19A4C116, 0x1E376C08,
    0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3, 0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208,
    0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2,
)  # fmt: skip
_K = np.array(K256, np.uint32)


def has_sha() -> bool:
    """Return whether numba compiles for a processor with x86's SHA instructions."""
    chosen = numba.config.CPU_FEATURES  # type: ignore[attr-defined]  # its names are made when it is loaded
    features = get_host_cpu_features() if chosen is None else chosen
    return "+sha" in features.split(",")


@bare
def _rotl32(x: np.uint32, r: int) -> np.uint32:
    return np.uint32((x << np.uint32(r)) | (x >> np.uint32(32 - r)))


@bare
def sha1_block_portable(state: Any, w: Any) -> None:
    """Fold 16 words at `w` into the 5 words at `state`: pointers to uint32. `w` is used up."""
    a, b, c, d, e = state[0], state[1], state[2], state[3], state[4]
    for t in range(80):
        if t >= 16:
            w[t & 15] = _rotl32(w[(t + 13) & 15] ^ w[(t + 8) & 15] ^ w[(t + 2) & 15] ^ w[t & 15], 1)
        if t < 20:
            f = np.uint32((b & c) | (~b & d))
            k = np.uint32(0x5A827999)
        elif t < 40:
            f = np.uint32(b ^ c ^ d)
            k = np.uint32(0x6ED9EBA1)
        elif t < 60:
            f = np.uint32((b & c) | (b & d) | (c & d))
            k = np.uint32(0x8F1BBCDC)
        else:
            f = np.uint32(b ^ c ^ d)
            k = np.uint32(0xCA62C1D6)
        nxt = np.uint32(_rotl32(a, 5) + f + e + k + w[t & 15])
        e = d
        d = c
        c = _rotl32(b, 30)
        b = a
        a = nxt
    state[0] = np.uint32(state[0] + a)
    state[1] = np.uint32(state[1] + b)
    state[2] = np.uint32(state[2] + c)
    state[3] = np.uint32(state[3] + d)
    state[4] = np.uint32(state[4] + e)


@bare
def sha256_block_portable(state: Any, data: Any, at: int) -> None:
    """Fold the 64 bytes at `data[at:]` (pointer to uint8) into the 8 words at `state` (pointer to uint32)."""
    w = stack_u32x16()
    for i in range(16):
        p = at + 4 * i
        w[i] = np.uint32(
            (np.uint32(data[p]) << np.uint32(24))
            | (np.uint32(data[p + 1]) << np.uint32(16))
            | (np.uint32(data[p + 2]) << np.uint32(8))
            | np.uint32(data[p + 3])
        )
    a, b, c, d, e, f, g, h = state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7]
    for t in range(64):
        if t >= 16:
            x = w[(t + 1) & 15]
            y = w[(t + 14) & 15]
            s0 = _rotl32(x, 25) ^ _rotl32(x, 14) ^ np.uint32(x >> np.uint32(3))
            s1 = _rotl32(y, 15) ^ _rotl32(y, 13) ^ np.uint32(y >> np.uint32(10))
            w[t & 15] = np.uint32(w[t & 15] + s0 + w[(t + 9) & 15] + s1)
        big1 = _rotl32(e, 26) ^ _rotl32(e, 21) ^ _rotl32(e, 7)
        t1 = np.uint32(h + big1 + ((e & f) ^ (~e & g)) + _K[t] + w[t & 15])
        big0 = _rotl32(a, 30) ^ _rotl32(a, 19) ^ _rotl32(a, 10)
        t2 = np.uint32(big0 + ((a & b) ^ (a & c) ^ (b & c)))
        h = g
        g = f
        f = e
        e = np.uint32(d + t1)
        d = c
        c = b
        b = a
        a = np.uint32(t1 + t2)
    state[0] = np.uint32(state[0] + a)
    state[1] = np.uint32(state[1] + b)
    state[2] = np.uint32(state[2] + c)
    state[3] = np.uint32(state[3] + d)
    state[4] = np.uint32(state[4] + e)
    state[5] = np.uint32(state[5] + f)
    state[6] = np.uint32(state[6] + g)
    state[7] = np.uint32(state[7] + h)


_I32 = ir.IntType(32)
_FOUR = ir.VectorType(_I32, 4)


class _Code:
    """Writes LLVM instructions on vectors of four uint32."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def load(self, words: Any, first: int) -> Any:
        """Four words of a pointer to uint32, or to bytes, from word `first` on."""
        place = self.builder.bitcast(words, _FOUR.as_pointer())
        return self.builder.load(self.builder.gep(place, [ir.Constant(_I32, first // 4)]), align=1)

    def store(self, value: Any, words: Any, first: int) -> None:
        place = self.builder.bitcast(words, _FOUR.as_pointer())
        self.builder.store(value, self.builder.gep(place, [ir.Constant(_I32, first // 4)]), align=1)

    def pick(self, one: Any, other: Any, lanes: list[int]) -> Any:
        """Four lanes of two vectors, numbered 0 to 7."""
        return self.builder.shuffle_vector(one, other, ir.Constant(_FOUR, lanes))

    def call(self, name: str, *args: Any) -> Any:
        kind = ir.FunctionType(_FOUR, [arg.type for arg in args])
        function = self.builder.module.globals.get(name) or ir.Function(self.builder.module, kind, name)
        return self.builder.call(function, args)

    def add(self, one: Any, other: Any) -> Any:
        return self.builder.add(one, other)


@intrinsic
def sha1_block_x86(typingctx: Any, state: Any, w: Any) -> Any:
    """As `sha1_block_portable`, four rounds an instruction; only for processors that have it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        code = _Code(builder)
        down = [3, 2, 1, 0]  # the instructions want the first word in the highest lane
        words = [code.load(args[1], 4 * i) for i in range(4)]
        words = [code.pick(word, word, down) for word in words]
        begun = code.load(args[0], 0)
        abcd = begun = code.pick(begun, begun, down)
        fifth = builder.gep(args[0], [ir.Constant(_I32, 4)])
        e = begun_e = builder.insert_element(ir.Constant(_FOUR, [0] * 4), builder.load(fifth, align=4), ir.Constant(_I32, 3))
        for i in range(20):
            if i >= 4:
                mixed = builder.xor(code.call("llvm.x86.sha1msg1", words[i - 4], words[i - 3]), words[i - 2])
                words.append(code.call("llvm.x86.sha1msg2", mixed, words[i - 1]))
            e = code.add(e, words[i]) if i == 0 else code.call("llvm.x86.sha1nexte", e, words[i])
            e, abcd = abcd, code.call("llvm.x86.sha1rnds4", abcd, e, ir.Constant(ir.IntType(8), i // 5))
        e = code.call("llvm.x86.sha1nexte", e, begun_e)
        abcd = code.add(abcd, begun)
        code.store(code.pick(abcd, abcd, down), args[0], 0)
        builder.store(builder.extract_element(e, ir.Constant(_I32, 3)), fifth, align=4)
        return context.get_dummy_value()

    return types.void(state, w), codegen


@intrinsic
def sha256_block_x86(typingctx: Any, state: Any, data: Any, at: Any) -> Any:
    """As `sha256_block_portable`, two rounds an instruction; only for processors that have it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        code = _Code(builder)
        block = builder.gep(args[1], [context.cast(builder, args[2], sig.args[2], types.int64)])
        words = [code.call("llvm.bswap.v4i32", code.load(block, 4 * i)) for i in range(4)]
        abcd, efgh = code.load(args[0], 0), code.load(args[0], 4)
        abef = begun_abef = code.pick(abcd, efgh, [5, 4, 1, 0])
        cdgh = begun_cdgh = code.pick(abcd, efgh, [7, 6, 3, 2])
        for i in range(16):
            if i >= 4:
                middle = code.pick(words[i - 2], words[i - 1], [1, 2, 3, 4])
                mixed = code.add(code.call("llvm.x86.sha256msg1", words[i - 4], words[i - 3]), middle)
                words.append(code.call("llvm.x86.sha256msg2", mixed, words[i - 1]))
            keyed = code.add(words[i], ir.Constant(_FOUR, list(K256[4 * i : 4 * i + 4])))
            cdgh = code.call("llvm.x86.sha256rnds2", cdgh, abef, keyed)
            abef = code.call("llvm.x86.sha256rnds2", abef, cdgh, code.pick(keyed, keyed, [2, 3, 0, 0]))
        abef, cdgh = code.add(abef, begun_abef), code.add(cdgh, begun_cdgh)
        code.store(code.pick(abef, cdgh, [3, 2, 7, 6]), args[0], 0)
        code.store(code.pick(abef, cdgh, [1, 0, 5, 4]), args[0], 4)
        return context.get_dummy_value()

    return types.void(state, data, at), codegen


sha1_block: Any = sha1_block_x86 if has_sha() else sha1_block_portable
sha256_block: Any = sha256_block_x86 if has_sha() else sha256_block_portable
