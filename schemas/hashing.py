"""Hashes and digests as kernels: partitioner, index hash, UUIDv5, SHA-256, and the texts of ids and integers.

All are called from other kernels on the hot path and allocate nothing. No I/O, no domain rules. Rules: the Kafka Java client's
murmur2, MurmurHash3 (x64, 128 bit), FIPS 180-4 (SHA-1, SHA-256), RFC 9562 (UUIDv5).
"""

from __future__ import annotations

import numpy as np

from schemas.chunk import Bytes
from schemas.jit import bare
from schemas.words import load32, load64, stack_u32x16

_M32 = np.uint64(0xFFFFFFFF)
_MUL = np.uint64(0x5BD1E995)


@bare
def murmur2(data: Bytes, start: int, length: int) -> int:
    """Return the Kafka Java client's murmur2 of `data[start:start + length]` as a signed 32 bit number (in an int64)."""
    h = (np.uint64(0x9747B28C) ^ np.uint64(length)) & _M32
    words = length >> 2
    for i in range(words):
        at = start + 4 * i
        k = load32(data, at)
        k = (k * _MUL) & _M32
        k ^= k >> np.uint64(24)
        k = (k * _MUL) & _M32
        h = ((h * _MUL) & _M32) ^ k
    at = start + 4 * words
    rest = length & 3
    if rest == 3:
        h ^= np.uint64(data[at + 2]) << np.uint64(16)
    if rest >= 2:
        h ^= np.uint64(data[at + 1]) << np.uint64(8)
    if rest >= 1:
        h ^= np.uint64(data[at])
        h = (h * _MUL) & _M32
    h ^= h >> np.uint64(13)
    h = (h * _MUL) & _M32
    h ^= h >> np.uint64(15)
    return int(np.int32(np.uint32(h)))


@bare
def partition_of(data: Bytes, start: int, length: int, n: int) -> int:
    """Return the partition of a key among `n`: `(murmur2 & 0x7fffffff) % n`, as the Java producer places it."""
    return (murmur2(data, start, length) & 0x7FFFFFFF) % n


_C1 = np.uint64(0x87C37B91114253D5)
_C2 = np.uint64(0x4CF5AD432745937F)


@bare
def _rotl64(x: np.uint64, r: int) -> np.uint64:
    return (x << np.uint64(r)) | (x >> np.uint64(64 - r))


@bare
def _fmix64(k: np.uint64) -> np.uint64:
    k ^= k >> np.uint64(33)
    k *= np.uint64(0xFF51AFD7ED558CCD)
    k ^= k >> np.uint64(33)
    k *= np.uint64(0xC4CEB9FE1A85EC53)
    k ^= k >> np.uint64(33)
    return k


@bare
def hash128(data: Bytes, start: int, length: int, seed: int) -> tuple[np.uint64, np.uint64]:
    """Return MurmurHash3 x64 128 of `data[start:start + length]` as two uint64; `seed` is a 32 bit number."""
    h1 = np.uint64(seed)
    h2 = np.uint64(seed)
    blocks = length >> 4
    for i in range(blocks):
        at = start + 16 * i
        k1 = _rotl64(load64(data, at) * _C1, 31) * _C2
        h1 = (_rotl64(h1 ^ k1, 27) + h2) * np.uint64(5) + np.uint64(0x52DCE729)
        k2 = _rotl64(load64(data, at + 8) * _C2, 33) * _C1
        h2 = (_rotl64(h2 ^ k2, 31) + h1) * np.uint64(5) + np.uint64(0x38495AB5)
    at = start + 16 * blocks
    rest = length & 15
    k1 = np.uint64(0)
    k2 = np.uint64(0)
    for i in range(min(rest, 8)):
        k1 |= np.uint64(data[at + i]) << np.uint64(8 * i)
    for i in range(8, rest):
        k2 |= np.uint64(data[at + i]) << np.uint64(8 * (i - 8))
    if rest > 8:
        h2 ^= _rotl64(k2 * _C2, 33) * _C1
    if rest > 0:
        h1 ^= _rotl64(k1 * _C1, 31) * _C2
    h1 ^= np.uint64(length)
    h2 ^= np.uint64(length)
    h1 += h2
    h2 += h1
    h1 = _fmix64(h1)
    h2 = _fmix64(h2)
    h1 += h2
    return h1, h2 + h1


@bare
def _rotl32(x: np.uint32, r: int) -> np.uint32:
    return np.uint32((x << np.uint32(r)) | (x >> np.uint32(32 - r)))


@bare
def uuid5(ns_hi: int, ns_lo: int, data: Bytes, start: int, length: int) -> tuple[int, int]:
    """Return the UUIDv5 of a name in the namespace (ns_hi, ns_lo), as two int64 holding the high and low 64 bits."""
    a0, b0, c0, d0, e0 = np.uint32(0x67452301), np.uint32(0xEFCDAB89), np.uint32(0x98BADCFE), np.uint32(0x10325476), np.uint32(0xC3D2E1F0)
    w = stack_u32x16()
    hi = np.uint64(ns_hi)
    lo = np.uint64(ns_lo)
    total = length + 16
    n_blocks = (total + 8) // 64 + 1
    for block in range(n_blocks):
        for i in range(16):
            at = block * 64 + 4 * i - 16
            if at >= 0 and at + 4 <= length:
                p = start + at
                w[i] = np.uint32(
                    (np.uint32(data[p]) << np.uint32(24))
                    | (np.uint32(data[p + 1]) << np.uint32(16))
                    | (np.uint32(data[p + 2]) << np.uint32(8))
                    | np.uint32(data[p + 3])
                )
            elif at < 0:
                half = hi if at < -8 else lo
                w[i] = np.uint32((half >> np.uint64(32 if (at & 7) == 0 else 0)) & _M32)
            else:
                word = np.uint32(0)
                for j in range(4):
                    byte = np.uint32(0)
                    if at + j < length:
                        byte = np.uint32(data[start + at + j])
                    elif at + j == length:
                        byte = np.uint32(0x80)
                    word = np.uint32((word << np.uint32(8)) | byte)
                w[i] = word
        if block == n_blocks - 1:
            w[14] = np.uint32(np.uint64(total * 8) >> np.uint64(32))
            w[15] = np.uint32(np.uint64(total * 8) & _M32)
        a, b, c, d, e = a0, b0, c0, d0, e0
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
        a0 = np.uint32(a0 + a)
        b0 = np.uint32(b0 + b)
        c0 = np.uint32(c0 + c)
        d0 = np.uint32(d0 + d)
        e0 = np.uint32(e0 + e)
    out_hi = (np.uint64(a0) << np.uint64(32)) | np.uint64(b0)
    out_lo = (np.uint64(c0) << np.uint64(32)) | np.uint64(d0)
    out_hi = (out_hi & ~np.uint64(0xF000)) | np.uint64(0x5000)
    out_lo = (out_lo & np.uint64(0x3FFFFFFFFFFFFFFF)) | np.uint64(0x8000000000000000)
    return int(np.int64(out_hi)), int(np.int64(out_lo))


_K256 = np.array(
    [
        0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5, 0xD807AA98, 0x12835B01,
        0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174, 0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC,
        0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA, 0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147,
        0x06CA6351, 0x14292967, 0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
        0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070, 0x19A4C116, 0x1E376C08,
        0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3, 0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208,
        0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2,
    ],
    dtype=np.uint32,
)  # fmt: skip


@bare
def sha256_into(data: Bytes, start: int, length: int, out: Bytes, out_start: int) -> None:
    """Write the 32 bytes of the SHA-256 of `data[start:start + length]` to `out[out_start:]`."""
    h0, h1, h2, h3 = np.uint32(0x6A09E667), np.uint32(0xBB67AE85), np.uint32(0x3C6EF372), np.uint32(0xA54FF53A)
    h4, h5, h6, h7 = np.uint32(0x510E527F), np.uint32(0x9B05688C), np.uint32(0x1F83D9AB), np.uint32(0x5BE0CD19)
    w = stack_u32x16()
    n_blocks = (length + 8) // 64 + 1
    for block in range(n_blocks):
        for i in range(16):
            at = block * 64 + 4 * i
            if at + 4 <= length:
                p = start + at
                w[i] = np.uint32(
                    (np.uint32(data[p]) << np.uint32(24))
                    | (np.uint32(data[p + 1]) << np.uint32(16))
                    | (np.uint32(data[p + 2]) << np.uint32(8))
                    | np.uint32(data[p + 3])
                )
            else:
                word = np.uint32(0)
                for j in range(4):
                    byte = np.uint32(0)
                    if at + j < length:
                        byte = np.uint32(data[start + at + j])
                    elif at + j == length:
                        byte = np.uint32(0x80)
                    word = np.uint32((word << np.uint32(8)) | byte)
                w[i] = word
        if block == n_blocks - 1:
            w[14] = np.uint32(np.uint64(length * 8) >> np.uint64(32))
            w[15] = np.uint32(np.uint64(length * 8) & _M32)
        a, b, c, d, e, f, g, h = h0, h1, h2, h3, h4, h5, h6, h7
        for t in range(64):
            if t >= 16:
                x = w[(t + 1) & 15]
                y = w[(t + 14) & 15]
                s0 = _rotl32(x, 25) ^ _rotl32(x, 14) ^ np.uint32(x >> np.uint32(3))
                s1 = _rotl32(y, 15) ^ _rotl32(y, 13) ^ np.uint32(y >> np.uint32(10))
                w[t & 15] = np.uint32(w[t & 15] + s0 + w[(t + 9) & 15] + s1)
            big1 = _rotl32(e, 26) ^ _rotl32(e, 21) ^ _rotl32(e, 7)
            t1 = np.uint32(h + big1 + ((e & f) ^ (~e & g)) + _K256[t] + w[t & 15])
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
        h0 = np.uint32(h0 + a)
        h1 = np.uint32(h1 + b)
        h2 = np.uint32(h2 + c)
        h3 = np.uint32(h3 + d)
        h4 = np.uint32(h4 + e)
        h5 = np.uint32(h5 + f)
        h6 = np.uint32(h6 + g)
        h7 = np.uint32(h7 + h)
    _store_be32(out, out_start, h0)
    _store_be32(out, out_start + 4, h1)
    _store_be32(out, out_start + 8, h2)
    _store_be32(out, out_start + 12, h3)
    _store_be32(out, out_start + 16, h4)
    _store_be32(out, out_start + 20, h5)
    _store_be32(out, out_start + 24, h6)
    _store_be32(out, out_start + 28, h7)


@bare
def _store_be32(out: Bytes, at: int, value: np.uint32) -> None:
    for i in range(4):
        out[at + i] = np.uint8((value >> np.uint32(24 - 8 * i)) & np.uint32(0xFF))


_HEX = np.frombuffer(b"0123456789abcdef", np.uint8).copy()


@bare
def hex_into(data: Bytes, start: int, length: int, out: Bytes, out_start: int) -> None:
    """Write `length` bytes as `2 * length` lower case hexadecimal digits to `out[out_start:]`. `out` may not overlap the input."""
    for i in range(length):
        byte = data[start + i]
        out[out_start + 2 * i] = _HEX[byte >> 4]
        out[out_start + 2 * i + 1] = _HEX[byte & 15]


@bare
def uuid_text_into(hi: int, lo: int, out: Bytes, start: int) -> None:
    """Write the 36 characters of a UUID given as high and low 64 bits, lower case, to `out[start:]`."""
    at = start
    for half in range(2):
        bits = np.uint64(hi) if half == 0 else np.uint64(lo)
        for i in range(16):
            if (half == 0 and (i == 8 or i == 12)) or (half == 1 and (i == 0 or i == 4)):
                out[at] = 45
                at += 1
            out[at] = _HEX[np.int64((bits >> np.uint64(60 - 4 * i)) & np.uint64(15))]
            at += 1


_PAIRS = np.frombuffer("".join(f"{i:02d}" for i in range(100)).encode(), np.uint8).copy()


@bare
def write_int_into(value: int, out: Bytes, start: int) -> int:
    """Write an int64 in decimal to `out[start:]` and return how many bytes it took (1 to 20)."""
    magnitude = np.uint64(value)
    at = start
    if value < 0:
        magnitude = np.uint64(0) - magnitude
        out[at] = 45
        at += 1
    digits = 1
    bound = np.uint64(10)
    while digits < 19 and magnitude >= bound:
        digits += 1
        bound *= np.uint64(10)
    end = at + digits
    i = end
    while i - at >= 2:
        quotient = magnitude // np.uint64(100)
        pair = np.int64(magnitude - quotient * np.uint64(100)) * 2
        out[i - 2] = _PAIRS[pair]
        out[i - 1] = _PAIRS[pair + 1]
        magnitude = quotient
        i -= 2
    if i > at:
        out[at] = np.uint8(np.uint64(48) + magnitude)
    return end - start
