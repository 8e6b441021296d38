"""Tables for a terminal or a log."""

from __future__ import annotations

import pytest

from jobs.platform.tables import LOG_WIDTH, escape_markup, format_number, gate_table, wide_console


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0, "0"), (0.12345678, "0.1235"), (0.00012345, "1.23e-04"), (12345.6, "1.235e+04")]
)
def test_numbers_have_few_digits(value, text):
    assert format_number(value) == text


def test_gate_table_has_every_line_and_the_verdict():
    lines = [
        {"rule": "latency", "measured": 4.2, "bound": 10.0, "verdict": "pass", "why": "p99 [1 000 answers]"},
        {"rule": "against champion", "measured": None, "bound": None, "verdict": "skip", "why": "no champion"},
    ]
    console = wide_console()
    with console.capture() as output:
        console.print(gate_table(lines, "pass"))
    rows = [line.split() for line in output.get().splitlines()]
    assert ["latency", "4.2", "10", "pass", "p99", "[1", "000", "answers]"] in rows
    assert ["against", "champion", "skip", "no", "champion"] in rows
    assert ["verdict", "pass"] in rows


def test_log_is_wide_enough_for_a_table():
    assert wide_console().width == LOG_WIDTH


def test_square_brackets_are_not_markup():
    assert escape_markup("[red]") == r"\[red]"
