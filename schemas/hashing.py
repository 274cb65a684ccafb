"""Hashes and digests as kernels: partitioner, index hash, UUIDv5, SHA-256, and the texts of ids and integers.

All are called from other kernels on the hot path and allocate nothing. No I/O, no domain rules. Rules: the Kafka Java client's
murmur2, MurmurHash3 (x64, 128 bit), FIPS 180-4 (SHA-1, SHA-256), RFC 9562 (UUIDv5).
"""

from __future__ import annotations

import numpy as np

from schemas.chunk import Bytes
from schemas.jit import bare
from schemas.sha import sha1_block, sha256_block
from schemas.words import load32, load64, pointer, stack_u8x128, stack_u32x8, stack_u32x16

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
def uuid5(ns_hi: int, ns_lo: int, data: Bytes, start: int, length: int) -> tuple[int, int]:
    """Return the UUIDv5 of a name in the namespace (ns_hi, ns_lo), as two int64 holding the high and low 64 bits."""
    state = stack_u32x8()
    state[0], state[1], state[2] = np.uint32(0x67452301), np.uint32(0xEFCDAB89), np.uint32(0x98BADCFE)
    state[3], state[4] = np.uint32(0x10325476), np.uint32(0xC3D2E1F0)
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
        sha1_block(state, w)
    out_hi = (np.uint64(state[0]) << np.uint64(32)) | np.uint64(state[1])
    out_lo = (np.uint64(state[2]) << np.uint64(32)) | np.uint64(state[3])
    out_hi = (out_hi & ~np.uint64(0xF000)) | np.uint64(0x5000)
    out_lo = (out_lo & np.uint64(0x3FFFFFFFFFFFFFFF)) | np.uint64(0x8000000000000000)
    return int(np.int64(out_hi)), int(np.int64(out_lo))


@bare
def sha256_into(data: Bytes, start: int, length: int, out: Bytes, out_start: int) -> None:
    """Write the 32 bytes of the SHA-256 of `data[start:start + length]` to `out[out_start:]`."""
    state = stack_u32x8()
    state[0], state[1], state[2], state[3] = np.uint32(0x6A09E667), np.uint32(0xBB67AE85), np.uint32(0x3C6EF372), np.uint32(0xA54FF53A)
    state[4], state[5], state[6], state[7] = np.uint32(0x510E527F), np.uint32(0x9B05688C), np.uint32(0x1F83D9AB), np.uint32(0x5BE0CD19)
    source = pointer(data)
    whole = length >> 6
    for block in range(whole):
        sha256_block(state, source, start + 64 * block)
    last = stack_u8x128()
    rest = length & 63
    size = 64 if rest < 56 else 128
    for i in range(rest):
        last[i] = source[start + 64 * whole + i]
    last[rest] = np.uint8(0x80)
    for i in range(rest + 1, size - 8):
        last[i] = np.uint8(0)
    for i in range(8):
        last[size - 1 - i] = np.uint8((np.uint64(length * 8) >> np.uint64(8 * i)) & np.uint64(255))
    sha256_block(state, last, 0)
    if size > 64:
        sha256_block(state, last, 64)
    for i in range(8):
        for j in range(4):
            out[out_start + 4 * i + j] = np.uint8((state[i] >> np.uint32(24 - 8 * j)) & np.uint32(0xFF))


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
