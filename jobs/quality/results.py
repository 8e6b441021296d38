"""Types of the data checks' results, as they are written to quality/<week>/<table>.json."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

CheckVerdict = Literal["passed", "warned", "failed", "not run"]


class ExpectationResult(TypedDict):
    """Result of one expectation of a contract.

    Attributes:
        measure: Name of the measure that was compared.
        rule: Rule of the contract.
        columns: Columns of the rule; empty for a rule of the table.
        severity: `fail` or `warn`.
        expected: The rule in words.
        type: Type of the expectation in Great Expectations.
        low: Lower bound of the measure, or None.
        high: Upper bound of the measure, or None.
        observed: The measured value, the worst over all units; None if it was not measured.
        units: Units, such as `space tt_svd`, that violate the expectation.
        text: The observed value, or the reason why it is missing, in words.
        verdict: Verdict of the expectation.
        examples: Some rows or files that violate the expectation.
    """

    measure: str
    rule: str
    columns: list[str]
    severity: str
    expected: str
    type: str
    low: float | None
    high: float | None
    observed: float | None
    units: list[str]
    text: str
    verdict: str
    examples: list[dict[str, Any]]


class QuarantinedRows(TypedDict):
    """Number of rows that ingestion put into the quarantine for one reason."""

    reason: str
    n_rows: int


class TableResult(TypedDict):
    """Result of all expectations of one table.

    Attributes:
        table: Name of the table.
        version: Version of its contract.
        week: Name of the week.
        scope: The partitions that were checked, in words.
        success: True if no expectation failed.
        failed: Expectations of severity `fail` that are violated.
        warned: Expectations of severity `warn` that are violated.
        statistics: Counts of rows, partitions, files, bytes and expectations by verdict.
        columns: Nulls, minimum and maximum of each column.
        checks: All expectations.
        quarantined: Rows in the quarantine by reason, the largest number first.
        great_expectations: Version and statistics of Great Expectations.
    """

    table: str
    version: int
    week: str
    scope: str
    success: bool
    failed: list[ExpectationResult]
    warned: list[ExpectationResult]
    statistics: dict[str, int]
    columns: dict[str, dict[str, Any]]
    checks: list[ExpectationResult]
    quarantined: list[QuarantinedRows]
    great_expectations: dict[str, Any]
