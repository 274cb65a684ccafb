"""The one door to numba: a typed `njit` and a cache that cannot go stale.

numba keys a cached kernel on the file that defines it, not on the files of the kernels it calls, so an edit to a callee
would silently keep the old machine code in its callers. The cache folder is therefore named after a digest of every
source file that may hold kernels (a few milliseconds at import).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

_ROOT = Path(__file__).resolve().parent.parent
_KERNEL_PACKAGES = ("schemas", "state", "operators")


def kernel_digest() -> str:
    """Return 16 hex digits that change whenever a file that may hold a kernel changes."""
    digest = hashlib.sha256(numba.__version__.encode())
    for package in _KERNEL_PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            source = path.read_bytes()
            if b"schemas.jit" in source or b"get_args" in source or b"Literal[" in source or b"row_type" in source or b"Enum" in source:
                digest.update(path.relative_to(_ROOT).as_posix().encode())
                digest.update(source)
    return digest.hexdigest()[:16]


def cache_dir() -> Path:
    """Return the folder compiled kernels are kept in: `HEDGEROW_NUMBA_CACHE` or the user's cache folder."""
    base = os.environ.get("HEDGEROW_NUMBA_CACHE")
    if base is None:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        base = str(Path(home) / "hedgerow" / "numba")
    return Path(base) / kernel_digest()


os.environ["NUMBA_CACHE_DIR"] = str(cache_dir())
numba.config.reload_config()


def njit(function: F) -> F:
    """Compile `function` in nopython mode, without the GIL; what Python calls is cached on disk (schemas/parts.py).

    For kernels that create arrays, or return a view. No `fastmath`: results must be the same bits on every machine and at every replay.
    """
    return cast(F, _kernel(function, _nrt=True))


def bare(function: F) -> F:
    """As `njit`, for kernels that create no array and return none: without the run time that counts references to arrays.

    Counting is an atomic operation per array and call; in the JSON decoder it was half of the time.
    """
    return cast(F, _kernel(function, _nrt=False))


def _kernel(function: Any, **options: Any) -> Any:
    from schemas.parts import Kernel

    kernel = Kernel(function, targetoptions={"nopython": True, "nogil": True, **options})
    kernel.enable_caching()
    return kernel
