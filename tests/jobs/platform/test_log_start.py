"""Test the first day of the log: few rows with a wrong time do not move it, a growing or a sparse log has one."""

from datetime import date, timedelta

import pytest

from jobs.platform.log_start import find_log_start


def log(*sizes, first="2026-01-01"):
    start = date.fromisoformat(first)
    return {str(start + timedelta(days=n)): size for n, size in enumerate(sizes)}


@pytest.mark.parametrize(
    ("rows_by_day", "expected"),
    [
        (log(500, 600, 700), "2026-01-01"),
        (log(500, 600, 700) | {"2001-05-05": 1, "2025-12-31": 40}, "2026-01-01"),
        (log(500, 600, 700) | {"2025-12-31": 200}, "2025-12-31"),
        (log(1, 1, 1, 1), "2026-01-01"),
        (log(1, 4), "2026-01-01"),
        (log(7), "2026-01-01"),
        (log(5, 80, 400, 1000, 1000), "2026-01-03"),
        (log(*[90] * 100, 100_000), "2026-01-01"),
    ],
)
def test_log_start(rows_by_day, expected):
    assert str(find_log_start(rows_by_day)) == expected
