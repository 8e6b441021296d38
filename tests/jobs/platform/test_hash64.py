"""The 64-bit hash: equal to arithmetic on Python integers, one to one, and each bit of the input changes half of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.platform.hash64 import splitmix64

MASK = 2**64 - 1
numbers = st.integers(0, MASK)
quick = settings(derandomize=True, deadline=None, max_examples=100)


def naive(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def inverse(x: int) -> int:
    """Return the number with this hash, by the inverse of each step."""
    x ^= (x >> 31) ^ (x >> 62)
    x = x * pow(0x94D049BB133111EB, -1, 2**64) & MASK
    x ^= (x >> 27) ^ (x >> 54)
    x = x * pow(0xBF58476D1CE4E5B9, -1, 2**64) & MASK
    return x ^ (x >> 30) ^ (x >> 60)


@quick
@given(st.lists(numbers, max_size=50))
def test_hash_equals_arithmetic_on_integers_and_has_an_inverse(values):
    hashed = splitmix64(np.array(values, np.uint64)).tolist()
    assert hashed == [naive(value) for value in values]
    assert [inverse(value) for value in hashed] == values


@quick
@given(st.lists(numbers, min_size=64, max_size=64, unique=True), st.integers(0, 63))
def test_one_bit_of_the_input_changes_about_half_of_the_bits(values, bit):
    one = np.array(values, np.uint64)
    changed = np.bitwise_count(splitmix64(one) ^ splitmix64(one ^ np.uint64(1 << bit)))
    assert 28 < changed.mean() < 36  # of 64; the standard error of the mean of 64 is 0.5
