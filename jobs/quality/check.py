"""Check tables against their contracts with Great Expectations, before a later task reads them.

Input   any tables of the lake          Output  quality/<week>/<table>.json and index.html under OVERTURE_HOME, MLflow
Grain   one verdict for each expectation of each table
Time    events: the days of the window, as_of - window_days <= day < as_of (a backtest: to the end of its ground truth)

Great Expectations validates measures, not rows: its own queries take seconds per column on Spark. One pass over the
rows computes the measures (arrow.py, or spark.py from `checks.spark_min_mb` on). The suite of the contract then runs
on a frame of measures, one row per unit, such as a space.
Whether days are missing or half-empty is measured by completeness.py, for sources that are ingested day by day.
A violated expectation of severity `fail` raises CheckFailed (exit 3) after the results are written; `warn` is only
reported.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import contracts
from contracts.errors import BadArgument, CheckFailed, OvertureError
from contracts.expectations import FILE_RULES, Expectation, expectations
from jobs.platform import files
from jobs.platform.context import Context
from jobs.quality import arrow, completeness
from jobs.quality.html_report import page
from jobs.quality.measures import N_EXAMPLES, TableMeasures, block_references, find_unreadable_files, inspect_files
from jobs.quality.quarantined import quarantined_rows
from jobs.quality.results import ExpectationResult, TableResult
from jobs.tracking.store import import_mlflow

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

LOGGED = ("rows", "failed", "warned")
# Rules whose observed value is a number of the whole table, not of bad rows.
TABLE_RULES = (
    "rows",
    "rows_vs_last_week",
    "complete_days",
    "null_share",
    "missing_share",
    "dense",
    "width",
    "present",
    "unique",
)


def run(context: Context, tables: list[str]) -> dict[str, object]:
    """Check the tables, write the results and log them to MLflow.

    Raises:
        BadArgument: A table has no contract.
        CheckFailed: An expectation of severity `fail` is violated. The message names table, column, rule, count and an
            example.
    """
    results = check(context, tables)
    folder = write_results(context, results)
    failed = [format_problem(result, c) for result in results for c in result["failed"]]
    for result in results:
        for c in result["warned"]:
            sys.stderr.write(f"overture: warning: {format_problem(result, c)}\n")
    count = f"{len(failed)} failed expectation{'s' if len(failed) > 1 else ''}"
    verdict = f"data checks of week {context.week.name}: {count}; see {folder / 'index.html'}\n" + "\n".join(failed)
    links: dict[str, object] = {}
    try:
        from jobs.tracking.tracker import Tracker

        with Tracker.task(context, "check") as run:
            links = run.links
            run.log_metrics({f"{r['table']}_{n}": r["statistics"][n] for r in results for n in LOGGED})
            for file in ("index.html", *(f"{r['table']}.json" for r in results)):
                run.log_artifact(folder / file)
            if failed:
                raise CheckFailed(verdict)
    except OvertureError as error:
        if failed and not isinstance(
            error, CheckFailed
        ):  # the failed checks are more important than the unavailable MLflow
            raise CheckFailed(f"{verdict}\n  not logged to MLflow: {error}") from None
        raise
    return {
        "tables": {r["table"]: {"success": r["success"], **r["statistics"]} for r in results},
        "page": str(folder / "index.html"),
        **links,
    }


def check(context: Context, tables: list[str]) -> list[TableResult]:
    """Measure and evaluate each table. Returns one result per table, in the order of `tables`."""
    unknown = [table for table in tables if table not in contracts.names()]
    if unknown or not tables:
        known = ", ".join(contracts.names())
        raise BadArgument(f"check: no contract for {', '.join(unknown) or 'nothing'}; tables are {known}")
    tables = list(dict.fromkeys(tables))
    threading.Thread(
        target=_import_libraries, daemon=True
    ).start()  # imports take seconds; they run while the files are read
    window = context.settings.matrix.window_days
    contracts_of = {table: contracts.load(table) for table in tables}
    expectations_by_table = {table: expectations(contract) for table, contract in contracts_of.items()}
    referenced = {
        expectation.args["table"]
        for rules in expectations_by_table.values()
        for expectation in rules
        if "table" in expectation.args
    }
    for table in sorted(referenced - set(tables)):
        contracts_of[table], expectations_by_table[table] = contracts.load(table), []
    measured = {
        t: inspect_files(context.lake, c, expectations_by_table[t], context.week, window)
        for t, c in contracts_of.items()
    }
    for table in tables:
        block_references(measured[table], measured)
        completeness.measure(context, measured[table])
        if measured[table].readable:
            _measure_rows(context, measured[table], measured)
    return [evaluate_table(context, measured[table]) for table in tables]


def _measure_rows(context: Context, measured: TableMeasures, referenced: dict[str, TableMeasures]) -> None:
    """Measure the rows with Arrow or with Spark, by size. If rows cannot be read, find the unreadable files."""
    try:
        if measured.n_bytes < context.settings.checks.spark_min_mb * 1_000_000:
            arrow.measure(context.lake, measured, referenced)
        else:
            from jobs.quality import spark

            spark.measure(context.spark, context.lake, measured, referenced)
    except Exception:
        find_unreadable_files(context.lake, measured)
        if measured.readable:
            raise


def _import_libraries() -> None:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations  # noqa: F401

    import_mlflow()


def build_suite(rules: list[Expectation]) -> ExpectationSuite:
    """Return the expectations as a Great Expectations suite over the frame of measures."""
    import great_expectations as gx
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    suite = gx.ExpectationSuite("contract")
    for expectation in rules:
        severity = {"fail": "critical", "warn": "warning"}[expectation.severity]
        meta = {"rule": expectation.rule, "columns": list(expectation.columns)}
        config = ExpectationConfiguration(
            type=expectation.type, kwargs=expectation.kwargs, meta=meta, description=expectation.text, severity=severity
        )
        suite.add_expectation_configuration(config)
    return suite


def evaluate_table(context: Context, measured: TableMeasures) -> TableResult:
    """Run the suite on the measures. An expectation that could not be measured never passes."""
    import great_expectations as gx
    import pandas as pd

    measured_rules = [
        expectation
        for expectation in measured.expectations
        if all(expectation.measure in unit for unit in measured.measures.values())
    ]
    rows = pd.DataFrame(
        [
            {expectation.measure: float(unit[expectation.measure]) for expectation in measured_rules}
            for unit in measured.measures.values()
        ]
    )
    gx_context = gx.get_context(mode="ephemeral")
    gx_context.variables.progress_bars = {"globally": False}
    asset = gx_context.data_sources.add_pandas("measures").add_dataframe_asset(measured.contract.table)
    batch = asset.add_batch_definition_whole_dataframe("week").get_batch({"dataframe": rows})
    verdict = batch.validate(build_suite(measured_rules), result_format="BOOLEAN_ONLY")
    kept = {r.expectation_config.kwargs["column"]: bool(r.success) for r in verdict.results}
    checks = [
        _expectation_result(measured, expectation, kept.get(expectation.measure))
        for expectation in measured.expectations
    ]
    by_verdict = {v: [c for c in checks if c["verdict"] == v] for v in ("failed", "warned", "passed", "not run")}
    return {
        "table": measured.contract.table,
        "version": measured.contract.version,
        "week": context.week.name,
        "scope": measured.scope,
        "success": not by_verdict["failed"],
        "failed": by_verdict["failed"],
        "warned": by_verdict["warned"],
        "statistics": {
            "rows": measured.n_rows,
            "partitions": len(measured.partitions),
            "files": measured.n_files,
            "bytes": measured.n_bytes,
            "expectations": len(checks),
            **{name.replace(" ", "_"): len(some) for name, some in by_verdict.items()},
        },
        "columns": measured.columns,
        "checks": checks,
        "quarantined": quarantined_rows(context.lake, measured.contract.table, measured.partitions),
        "great_expectations": {"version": gx.__version__, "statistics": dict(verdict.statistics)},
    }


def _expectation_result(measured: TableMeasures, expectation: Expectation, kept: bool | None) -> ExpectationResult:
    """Return the result of one expectation."""
    units = {
        unit: values[expectation.measure] for unit, values in measured.measures.items() if expectation.measure in values
    }
    bad = {unit: value for unit, value in units.items() if not expectation.is_met(value)}
    blocked = measured.blocked.get(expectation.measure)
    verdict = (
        "not run" if kept is None else "passed" if kept else "failed" if expectation.severity == "fail" else "warned"
    )
    if kept is None and "table" in expectation.args and blocked:
        verdict = "failed" if expectation.severity == "fail" else "warned"
    worst = max((bad or units).items(), key=lambda item: abs(item[1]), default=("", math.nan))
    observed = None if math.isnan(worst[1]) else worst[1]
    return {
        "measure": expectation.measure,
        "rule": expectation.rule,
        "columns": list(expectation.columns),
        "severity": expectation.severity,
        "expected": expectation.text,
        "type": expectation.type,
        "low": expectation.low,
        "high": expectation.high,
        "observed": observed,
        "units": sorted(bad) if "" not in bad else [],
        "text": blocked if verdict != "passed" and blocked else _describe(expectation, observed, measured),
        "verdict": verdict,
        "examples": measured.examples.get(expectation.args.get("count", expectation.measure), [])[:N_EXAMPLES],
    }


def _describe(expectation: Expectation, observed: float | None, measured: TableMeasures) -> str:
    """Describe the observed value in words."""
    if observed is None:
        return "the rows could not be read"
    seen = measured.columns.get(expectation.column or "", {})
    if expectation.rule == "null_share":
        return f"{observed:.1%} unknown"
    if expectation.rule == "missing_share":
        return f"{observed:.1%} missing"
    if expectation.rule == "rows_vs_last_week":
        return f"{observed:+.1%}"
    if expectation.rule in ("present", "rows"):
        return _count(observed, "partition" if expectation.rule == "present" else "row")
    if expectation.rule == "complete_days":
        return _count(observed, "incomplete day")
    if expectation.rule in FILE_RULES:
        files = _count(measured.n_files, "file")
        return f"{observed:.0f} of {files} invalid" if observed else files
    if expectation.rule == "width":
        return f"lengths {seen.get('min')} to {seen.get('max')}" if observed else f"length {seen.get('max')}"
    if expectation.rule == "dense":
        return f"{seen.get('min')} to {seen.get('max')} in {_count(measured.n_rows, 'row')}"
    if expectation.rule == "unique" and observed:
        return f"{_count(observed, 'duplicate row')}"
    if not observed:
        return (
            f"{seen['min']} to {seen['max']}"
            if expectation.rule == "range" and seen.get("min") is not None
            else "no bad row"
        )
    return _count(observed, "row")


def _count(n: float, what: str) -> str:
    return f"{n:,.0f} {what}{'' if n == 1 else 's'}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def format_problem(result: TableResult, c: ExpectationResult) -> str:
    """Return the message of one violated expectation, with examples."""
    name = ".".join([result["table"], *([", ".join(c["columns"])] if c["columns"] else [])])
    where = f" in {'; '.join(c['units'])}" if c["units"] else ""
    line = f"  {name}: {c['text']}{where} violate{'s' if c['observed'] == 1 else ''} '{c['expected']}'"
    if c["rule"] in FILE_RULES or c["observed"] is None:
        line = f"  {name}: {c['text']}; the contract: {c['expected']}"
    if c["rule"] in TABLE_RULES:
        line = f"  {name}: {c['text']}{where}; the contract: {c['expected']}"
    return "\n".join([line, *(f"    e.g. {format_example(values)}" for values in c["examples"])])


def format_example(values: dict[str, Any]) -> str:
    """Return one invalid row or file as a line."""
    if "problem" in values:
        return f"{values['file']} {values['problem']}"
    shown = " ".join(f"{k}={v}" for k, v in values.items() if k != "file")
    return f"{shown} in {values['file']}" if "file" in values else shown


def write_results(context: Context, results: list[TableResult]) -> Path:
    """Write each result and the week's page atomically. A lock serialises checks that run at the same time."""
    folder = context.release_home / "quality" / context.week.name
    folder.mkdir(parents=True, exist_ok=True)
    with _lock_folder(folder):
        for result in results:
            files.replace(folder / f"{result['table']}.json", json.dumps(result, indent=1).encode() + b"\n")
        kept = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
        files.replace(folder / "index.html", page(context.week.name, kept).encode())
    return folder


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
