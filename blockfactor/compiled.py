"""How kernels are compiled: numba, cached beside the module, the interpreter's lock released."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile with fused multiply-adds and reordered sums: inputs are checked for NaN before they get here."""
    compiled: F = numba.njit(cache=True, fastmath=True, nogil=True)(function)
    return compiled
