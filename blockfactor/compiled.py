"""Compilation of kernels with numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile a function with numba; the result is cached beside the module and releases the GIL.

    Fast math is on (fused multiply-adds, reordered sums), so a kernel must not receive NaN or infinity.
    """
    compiled: F = numba.njit(cache=True, fastmath=True, nogil=True)(function)
    return compiled
