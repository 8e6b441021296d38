"""Tables for a terminal or a log, made with rich.

rich is imported inside the functions: commands without a table do not pay for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LOG_WIDTH = 140  # columns, where the output is not a terminal
VERDICT_COLOURS = {"pass": "green", "grey": "yellow", "fail": "bold red", "skip": "dim"}


def wide_console(stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, or `LOG_WIDTH` columns wide if the output is not a terminal."""
    from rich.console import Console as RichConsole

    console = RichConsole(stderr=stderr)
    return console if console.is_terminal else RichConsole(stderr=stderr, width=LOG_WIDTH)


def make_table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table in the style that all commands share.

    Args:
        title: The title above the table.
        columns: The column heads, from left to right.
        right: The columns that contain numbers. They are aligned right and not wrapped.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    table = RichTable(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        is_number = column in right
        table.add_column(column, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    return table


def gate_table(lines: Sequence[Mapping[str, Any]], verdict: str | None, title: str = "Gate") -> Table:
    """Return the gate's lines and its verdict as a table.

    Args:
        lines: One mapping per rule, with the keys `rule`, `measured`, `bound`, `verdict` and `why`.
        verdict: The verdict over all lines. None: unknown.
        title: The title above the table.
    """
    table = make_table(title, "rule", "measured", "bound", "verdict", "why", right=("measured", "bound"))
    for line in lines:
        colour = VERDICT_COLOURS.get(line["verdict"], "")
        numbers = [format_number(line[key]) for key in ("measured", "bound")]
        table.add_row(line["rule"], *numbers, f"[{colour}]{line['verdict']}[/]", escape_markup(line["why"]))
    table.add_section()
    table.add_row("verdict", "", "", f"[{VERDICT_COLOURS.get(str(verdict), 'dim')}]{verdict}[/]", "")
    return table


def format_number(value: float | None) -> str:
    """Return a number with four significant digits, below 0.001 in scientific notation; None as an empty text."""
    if value is None:
        return ""
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"


def escape_markup(text: str) -> str:
    """Return the text with rich's markup escaped, so that square brackets are printed."""
    from rich.markup import escape

    return escape(text)
