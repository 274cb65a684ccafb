"""The hash kernels against known vectors, the standard library and plain Python versions."""

import hashlib
import os
import random
import subprocess
import sys
import uuid
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import sha
from schemas.hashing import hash128, hex_into, murmur2, partition_of, sha256_into, uuid5, uuid_text_into, write_int_into

MASK64 = 2**64 - 1


def view(text: bytes, before: bytes = b"") -> np.ndarray:
    return np.frombuffer(before + text, np.uint8).copy()


def on_any_processor(kernel: Any) -> Any:
    """Return a digest kernel compiled anew with the portable compression functions, whatever this processor has."""
    names = {**kernel.py_func.__globals__, "sha1_block": sha.sha1_block_portable, "sha256_block": sha.sha256_block_portable}
    return numba.njit(_nrt=False)(FunctionType(kernel.py_func.__code__, names, kernel.py_func.__name__))


def plain_murmur2(data: bytes) -> int:
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if len(data) > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    h ^= h >> 15
    return h - 2**32 if h >= 2**31 else h


def plain_hash128(data: bytes, seed: int) -> tuple[int, int]:
    c1, c2 = 0x87C37B91114253D5, 0x4CF5AD432745937F

    def rotl(x: int, r: int) -> int:
        return (x << r | x >> (64 - r)) & MASK64

    def mix(k: int) -> int:
        k = (k ^ (k >> 33)) * 0xFF51AFD7ED558CCD & MASK64
        k = (k ^ (k >> 33)) * 0xC4CEB9FE1A85EC53 & MASK64
        return k ^ (k >> 33)

    h1 = h2 = seed
    whole = len(data) // 16 * 16
    for i in range(0, whole, 16):
        k1 = int.from_bytes(data[i : i + 8], "little")
        k2 = int.from_bytes(data[i + 8 : i + 16], "little")
        h1 ^= rotl(k1 * c1 & MASK64, 31) * c2 & MASK64
        h1 = ((rotl(h1, 27) + h2) * 5 + 0x52DCE729) & MASK64
        h2 ^= rotl(k2 * c2 & MASK64, 33) * c1 & MASK64
        h2 = ((rotl(h2, 31) + h1) * 5 + 0x38495AB5) & MASK64
    k1 = int.from_bytes(data[whole : whole + 8], "little")
    k2 = int.from_bytes(data[whole + 8 :], "little")
    h2 ^= rotl(k2 * c2 & MASK64, 33) * c1 & MASK64
    h1 ^= rotl(k1 * c1 & MASK64, 31) * c2 & MASK64
    h1, h2 = h1 ^ len(data), h2 ^ len(data)
    h1 = (h1 + h2) & MASK64
    h2 = (h2 + h1) & MASK64
    h1, h2 = mix(h1), mix(h2)
    h1 = (h1 + h2) & MASK64
    return h1, (h2 + h1) & MASK64


# Kafka's own vectors: clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_kafka_vectors_match(text: bytes, expected: int) -> None:
    assert murmur2(view(text), 0, len(text)) == expected


@given(st.binary(max_size=80), st.binary(max_size=9), st.integers(1, 200))
def test_murmur2_any_bytes_equals_plain_version(text: bytes, before: bytes, n: int) -> None:
    data = view(text, before)
    assert murmur2(data, len(before), len(text)) == plain_murmur2(text)
    assert partition_of(data, len(before), len(text), n) == (plain_murmur2(text) & 0x7FFFFFFF) % n


@given(st.binary(max_size=80), st.binary(max_size=9), st.integers(0, 2**32 - 1))
def test_hash128_any_bytes_equals_plain_version(text: bytes, before: bytes, seed: int) -> None:
    h1, h2 = hash128(view(text, before), len(before), len(text), seed)
    assert (int(h1), int(h2)) == plain_hash128(text, seed)


def test_hash128_reference_vector_matches() -> None:
    # MurmurHash3 x64 128 of "hello", seed 0, as published with the reference implementation's ports
    h1, h2 = hash128(view(b"hello"), 0, 5, 0)
    assert (int(h1), int(h2)) == (0xCBD8A7B341BD9B02, 0x5B1E906A48AE1D19)


@given(st.uuids(), st.text(max_size=150), st.binary(max_size=9))
def test_uuid5_any_name_equals_standard_library(namespace: uuid.UUID, name: str, before: bytes) -> None:
    raw = name.encode()
    words = np.array([namespace.int >> 64, namespace.int & MASK64], np.uint64).view(np.int64)
    hi, lo = uuid5(words[0], words[1], view(raw, before), len(before), len(raw))
    assert ((int(hi) & MASK64) << 64 | (int(lo) & MASK64)) == uuid.uuid5(namespace, name).int


@pytest.mark.parametrize("length", [0, 1, 3, 31, 32, 39, 40, 47, 48, 54, 55, 56, 57, 63, 64, 65, 118, 119, 120, 127, 128, 129, 1000])
def test_digests_block_boundary_lengths_equal_hashlib(length: int) -> None:
    text = bytes((7 * i + 3) & 255 for i in range(length))
    data, out, digits = view(text, b"xyz"), np.zeros(40, np.uint8), np.zeros(70, np.uint8)
    sha256_into(data, 3, length, out, 5)
    hex_into(out, 5, 32, digits, 2)
    assert out[5:37].tobytes() == hashlib.sha256(text).digest()
    assert digits[2:66].tobytes().decode() == hashlib.sha256(text).hexdigest()
    assert not out[:5].any()
    assert not out[37:].any()
    name = "n" * length
    ns = np.array([uuid.NAMESPACE_URL.int >> 64, uuid.NAMESPACE_URL.int & MASK64], np.uint64).view(np.int64)
    hi, lo = uuid5(ns[0], ns[1], view(name.encode()), 0, length)
    assert ((int(hi) & MASK64) << 64 | (int(lo) & MASK64)) == uuid.uuid5(uuid.NAMESPACE_URL, name).int


@given(st.uuids())
def test_uuid_text_any_uuid_is_the_36_character_form(value: uuid.UUID) -> None:
    words = np.array([value.int >> 64, value.int & MASK64], np.uint64).view(np.int64)
    out = np.zeros(40, np.uint8)
    uuid_text_into(words[0], words[1], out, 2)
    assert out.tobytes() == b"\0\0" + str(value).encode() + b"\0\0"


@given(st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 9, 10, 99, 100, 10**18 - 1, 10**18, -(2**63), 2**63 - 1]))
def test_write_int_any_int64_is_its_decimal_text(value: int) -> None:
    out = np.zeros(24, np.uint8)
    n = write_int_into(value, out, 1)
    assert out[: n + 1].tobytes() == b"\0" + str(value).encode()


@pytest.mark.parametrize("kind", ["chosen", "portable"])
def test_sha256_every_short_length_and_long_ones_equal_hashlib(kind: str) -> None:
    digest = sha256_into if kind == "chosen" else on_any_processor(sha256_into)
    rng = random.Random(1)
    text = rng.randbytes(120_000)
    data, out = view(text), np.zeros(40, np.uint8)
    for length in [*range(301), *(rng.randrange(301, 100_000) for _ in range(100))]:
        start = rng.randrange(len(text) - length)
        digest(data, start, length, out, 5)
        assert out[5:37].tobytes() == hashlib.sha256(text[start : start + length]).digest(), length
    assert not out[:5].any()
    assert not out[37:].any()


@pytest.mark.parametrize("kind", ["chosen", "portable"])
def test_uuid5_every_short_length_and_long_ones_equal_hashlib(kind: str) -> None:
    digest = uuid5 if kind == "chosen" else on_any_processor(uuid5)
    rng = random.Random(2)
    text = rng.randbytes(20_000)
    data = view(text)
    for length in [*range(301), *(rng.randrange(301, 10_000) for _ in range(100))]:
        start, space = rng.randrange(len(text) - length), uuid.UUID(int=rng.getrandbits(128))
        words = np.array([space.int >> 64, space.int & MASK64], np.uint64).view(np.int64)
        hi, lo = digest(words[0], words[1], data, start, length)
        raw = hashlib.sha1(space.bytes + text[start : start + length], usedforsecurity=False).digest()[:16]
        assert (int(hi) & MASK64) << 64 | (int(lo) & MASK64) == uuid.UUID(bytes=raw, version=5).int, length


_DIGEST = """
import hashlib, numpy as np
from schemas import hashing, sha
out = np.zeros(32, np.uint8)
hashing.sha256_into(np.frombuffer(b"abc" * 100, np.uint8).copy(), 0, 300, out, 0)
assert out.tobytes() == hashlib.sha256(b"abc" * 100).digest()
stats = hashing.sha256_into.stats
print(sha.has_sha(), sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_cached_machine_code_is_not_used_where_features_differ(tmp_path: Path) -> None:
    def run(**more: str) -> str:
        env = {**os.environ, "HEDGEROW_NUMBA_CACHE": str(tmp_path), **more}
        told = subprocess.run([sys.executable, "-c", _DIGEST], env=env, cwd=Path(sha.__file__).parents[1], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        return told.stdout.strip()

    has = str(sha.has_sha())
    assert run() == f"{has} 0 1"
    assert run(NUMBA_CPU_FEATURES="") == "False 0 1"
    assert run() == f"{has} 1 0"
    assert run(NUMBA_CPU_FEATURES="") == "False 1 0"
