"""Field types of the contracts: each is a pydantic type and, beside it, the `Spec` the columnar codec is compiled from.

One definition serves both, so the codec and pydantic cannot drift apart in what they mean by a field. Decimal strings carry
prices and quantities (DESIGN §4); JSON numbers are int64 or finite float64.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from schemas.reasons import Reason

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
NULL = INT64_MIN
"""How a null integer, enum, bool or time is written in a slot of a batch."""

TS_MIN_NS = 946_684_800_000_000_000
"""2000-01-01T00:00:00Z: earlier machine times are taken for another unit (s, ms, µs) and rejected."""
TS_MAX_NS = 4_102_444_800_000_000_000
"""2100-01-01T00:00:00Z."""

MAX_DECIMAL_DIGITS = 18
"""Significant digits of a decimal string: what always fits an int64."""


@dataclass(frozen=True)
class Spec:
    """What is checked of one scalar field; used as `Annotated[str, string(64)]`, it is also what pydantic validates with.

    kind: `text`, `token`, `int`, `float`, `bool`, `enum`, `decimal`, `uuid`, `rfc3339`, `base64`, `json`.
    charset: for `token`, the bytes allowed (all ASCII). prefix: bytes the value must begin with (before the charset applies).
    min_len, max_len: in code points, after the prefix; of a list, in elements (0 for no upper bound). lo, hi: inclusive bounds of `int` and
    `float`; of `decimal`, `lo` 0 means not negative and `lo` 1 means above zero. reason: the code a bad value is rejected with.
    """

    kind: str
    charset: bytes = b""
    prefix: bytes = b""
    min_len: int = 0
    max_len: int = 0
    lo: float | int | None = None
    hi: float | int | None = None
    reason: Reason = Reason.field_invalid

    @property
    def pattern(self) -> str:
        """Return the regular expression of a `token`."""
        allowed = "".join(re.escape(chr(c)) for c in sorted(set(self.charset)))
        return f"^{re.escape(self.prefix.decode())}[{allowed}]{{{self.min_len},{self.max_len}}}$"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the pydantic validator of this field."""
        if self.kind == "text":
            return core_schema.str_schema(strict=True, min_length=self.min_len, max_length=self.max_len)
        if self.kind == "token":
            return core_schema.str_schema(strict=True, pattern=self.pattern)
        if self.kind == "int":
            return core_schema.int_schema(strict=True, ge=cast(int, self.lo), le=cast(int, self.hi))
        if self.kind == "float":
            return core_schema.float_schema(strict=True, ge=self.lo, le=self.hi, allow_inf_nan=False)
        if self.kind in _CHECKS:
            check = _CHECKS[self.kind]
            return core_schema.no_info_after_validator_function(lambda value: check(value, self), core_schema.str_schema(strict=True))
        return handler(source)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the JSON Schema of this field."""
        found = handler(schema)
        if self.kind in _PATTERNS:
            found["pattern"] = _PATTERNS[self.kind].pattern.replace("\\Z", "$").join(("^", ""))
            if self.kind == "decimal":
                found["pattern"] = DECIMAL_PATTERNS[0 if self.lo is None else 1 + int(self.lo)]
            found["format"] = {"rfc3339": "date-time", "base64": "byte"}.get(self.kind, self.kind)
        return found


def string(max_len: int, min_len: int = 1) -> Spec:
    """Any Unicode text of `min_len` to `max_len` code points."""
    return Spec("text", min_len=min_len, max_len=max_len)


_UPPER = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_LOWER = b"abcdefghijklmnopqrstuvwxyz0123456789"
_ALNUM = _UPPER + b"abcdefghijklmnopqrstuvwxyz"


def token(charset: bytes, max_len: int, min_len: int = 1, prefix: bytes = b"", reason: Reason = Reason.field_invalid) -> Spec:
    """ASCII text over `charset` of `min_len` to `max_len` characters after `prefix`."""
    return Spec("token", charset=charset, prefix=prefix, min_len=min_len, max_len=max_len, reason=reason)


def integer(lo: int, hi: int, reason: Reason = Reason.field_invalid) -> Spec:
    """A JSON integer in `[lo, hi]` (`hi` ≤ int64 max, `lo` > int64 min: that value means null in a batch)."""
    return Spec("int", lo=lo, hi=hi, reason=reason)


def real(lo: float | None = None, hi: float | None = None) -> Spec:
    """A finite JSON number in `[lo, hi]`."""
    return Spec("float", lo=lo, hi=hi)


_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?\Z", re.ASCII)


def decimal_parts(value: str) -> tuple[int, int]:
    """Return (mantissa, scale) of a decimal string, trailing zeros of the fraction dropped: `"1.50"` is (15, 1).

    Raises ValueError for anything but plain notation (no exponent, no plus sign, no leading zeros), and for more than
    18 significant digits.
    """
    if not _DECIMAL.match(value):
        raise ValueError('must be a decimal string in plain notation, as "-12.50"')
    whole, _, fraction = value.partition(".")
    fraction = fraction.rstrip("0")
    digits = (whole.lstrip("-") + fraction).lstrip("0")
    if len(digits) > MAX_DECIMAL_DIGITS:
        raise ValueError(f"must have at most {MAX_DECIMAL_DIGITS} significant digits")
    mantissa = int(digits or "0")
    return (-mantissa if whole.startswith("-") else mantissa), len(fraction)


def _check_decimal(value: str, spec: Spec) -> str:
    mantissa, _ = decimal_parts(value)
    if spec.lo is not None and mantissa < spec.lo:
        raise ValueError("must be above zero" if spec.lo else "must not be negative")
    return value


_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\Z", re.ASCII)


def _check_uuid(value: str, spec: Spec) -> str:
    if not _UUID.match(value):
        raise ValueError("must be a UUID in the 8-4-4-4-12 form")
    if not value.replace("-", "").strip("0"):
        raise ValueError("must not be the nil UUID")
    return value.lower()


_RFC3339 = re.compile(
    r"20[0-9]{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?Z\Z",
    re.ASCII,
)


def _check_rfc3339(value: str, spec: Spec) -> str:
    if not _RFC3339.match(value):
        raise ValueError("must be an RFC 3339 UTC time, as 2026-01-31T23:59:59.123Z")
    year, month, day = int(value[:4]), int(value[5:7]), int(value[8:10])
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    last = (31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]
    if day > last:
        raise ValueError(f"day {day} is not in month {month}")
    return value


_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\Z", re.ASCII)


def _check_base64(value: str, spec: Spec) -> str:
    if not _BASE64.match(value):
        raise ValueError("must be padded base64")
    return value


_PATTERNS = {"decimal": _DECIMAL, "uuid": _UUID, "rfc3339": _RFC3339, "base64": _BASE64}
_UNSIGNED = r"(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?"
DECIMAL_PATTERNS = (f"^-?{_UNSIGNED}$", rf"^(?:-0(?:\.0{{1,18}})?|{_UNSIGNED})$", rf"^(?!0(?:\.0+)?$){_UNSIGNED}$")
"""The same in JSON Schema: any sign, not negative, above zero; each accepts less than the one before. (The 18 digits it cannot count.)"""
_CHECKS: dict[str, Callable[[str, Spec], str]] = {
    "decimal": _check_decimal,
    "uuid": _check_uuid,
    "rfc3339": _check_rfc3339,
    "base64": _check_base64,
}

Decimal = Annotated[str, Spec("decimal")]
"""A decimal string of any sign."""
NonNegativeDecimal = Annotated[str, Spec("decimal", lo=0)]
PositiveDecimal = Annotated[str, Spec("decimal", lo=1)]
Uuid = Annotated[str, Spec("uuid")]
"""A UUID in the 8-4-4-4-12 form, either case on input, lower case after; the nil UUID is refused (it means null in a batch)."""
Rfc3339 = Annotated[str, Spec("rfc3339", reason=Reason.timestamp_invalid)]
Base64 = Annotated[str, Spec("base64")]
"""Padded standard base64. Decoding a batch gives the text; encoding a batch takes the raw bytes."""

JsonObject = Annotated[dict[str, Any], Spec("json")]
"""A free-form object; a batch keeps its JSON text."""

TimestampNs = Annotated[int, integer(TS_MIN_NS, TS_MAX_NS, reason=Reason.timestamp_invalid)]
"""Integer nanoseconds since the epoch, 2000 to 2100."""

Symbol = Annotated[str, token(_UPPER + b"_.-", 20)]
Venue = Annotated[str, token(_UPPER + b"_.-", 20)]
Account = Annotated[str, token(_ALNUM + b"_.:@/-", 48)]
Book = Annotated[str, token(_ALNUM + b"_.:@/-", 48)]
Currency = Annotated[str, token(_UPPER, 12)]
Leg = Annotated[str, token(_ALNUM, 3)]
Sender = Annotated[str, token(_LOWER + b"_.-", 64, prefix=b"agent.")]
ReasonName = Annotated[str, token(_LOWER + b"_-", 64)]
HexDigest = Annotated[str, token(b"0123456789abcdef", 64, min_len=64)]
Id64 = Annotated[str, string(64)]
"""An identifier of a venue: up to 64 code points, kept as sent (case and leading zeros matter)."""
