"""Judge tables by their contracts with Great Expectations, before anything downstream sees them.

Input   any tables of the lake          Output  quality/<week>/<table>.json and index.html under OVERTURE_HOME, MLflow
Grain   one verdict for each expectation of each table
Time    events: the days of the window, as_of - window_days <= day < as_of (a backtest: to the end of its ground truth)

Great Expectations judges what was counted. Its own queries cost seconds a column on Spark, so the rows are measured in
one pass (`quality_arrow`, or `quality_spark` from `checks.spark_min_mb` on), and its suite, made from the contract,
runs on the frame of measures: one row for each unit, such as a space.
A broken promise of severity `fail` ends in CheckFailed (exit 3) after the result was kept; `warn` is only reported.
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
from jobs.quality import arrow
from jobs.quality.html_report import page
from jobs.quality.measures import N_EXAMPLES, Measured, block, inspect_files, read_through
from jobs.tracking.store import import_mlflow

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

LOGGED = ("rows", "failed", "warned")


def run(context: Context, tables: list[str]) -> dict[str, object]:
    """Check the tables, keep and log the results.

    Raises:
        BadArgument: a table has no contract.
        CheckFailed: a promise of severity `fail` is broken; names table, column, rule, count and an example.
    """
    results = check(context, tables)
    folder = keep(context, results)
    failed = [problem(result, c) for result in results for c in result["failed"]]
    for result in results:
        for c in result["warned"]:
            sys.stderr.write(f"overture: warning: {problem(result, c)}\n")
    many = f"{len(failed)} broken promise{'s' if len(failed) > 1 else ''}"
    verdict = f"data checks of week {context.week.name}: {many}; see {folder / 'index.html'}\n" + "\n".join(failed)
    links: dict[str, object] = {}
    try:
        from jobs.tracking.tracker import Tracker

        with Tracker.task(context, "check") as found:
            links = found.links
            found.log_metrics({f"{r['table']}_{n}": r["statistics"][n] for r in results for n in LOGGED})
            for file in ("index.html", *(f"{r['table']}.json" for r in results)):
                found.log_artifact(folder / file)
            if failed:
                raise CheckFailed(verdict)
    except OvertureError as error:
        if failed and not isinstance(error, CheckFailed):  # what is wrong with the data matters more
            raise CheckFailed(f"{verdict}\n  not logged to MLflow: {error}") from None
        raise
    return {
        "tables": {r["table"]: {"success": r["success"], **r["statistics"]} for r in results},
        "page": str(folder / "index.html"),
        **links,
    }


def check(context: Context, tables: list[str]) -> list[dict[str, Any]]:
    """Measure and judge each table; returns one result a table, in the order asked for."""
    unknown = [table for table in tables if table not in contracts.names()]
    if unknown or not tables:
        known = ", ".join(contracts.names())
        raise BadArgument(f"check: no contract for {', '.join(unknown) or 'nothing'}; tables are {known}")
    tables = list(dict.fromkeys(tables))
    threading.Thread(target=_import, daemon=True).start()  # seconds of Python while the files are read
    window = context.settings.matrix.window_days
    wanted = {table: contracts.load(table) for table in tables}
    promises = {table: expectations(contract) for table, contract in wanted.items()}
    referenced = {e.args["table"] for found in promises.values() for e in found if "table" in e.args}
    for table in sorted(referenced - set(tables)):
        wanted[table], promises[table] = contracts.load(table), []
    found = {t: inspect_files(context.lake, c, promises[t], context.week, window) for t, c in wanted.items()}
    for table in tables:
        block(found[table], found)
        if found[table].readable:
            _measure_rows(context, found[table], found)
    return [judge(context, found[table]) for table in tables]


def _measure_rows(context: Context, found: Measured, keys: dict[str, Measured]) -> None:
    """Measure with Arrow or with Spark, by size; where rows cannot be read, find the file that is to blame."""
    try:
        if found.n_bytes < context.settings.checks.spark_min_mb * 1_000_000:
            arrow.measure(context.lake, found, keys)
        else:
            from jobs.quality import spark

            spark.measure(context.spark, context.lake, found, keys)
    except Exception:
        read_through(context.lake, found)
        if found.readable:
            raise


def _import() -> None:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations  # noqa: F401

    import_mlflow()


def suite(promises: list[Expectation]) -> ExpectationSuite:
    """The contract's promises as a suite of Great Expectations over the frame of measures."""
    import great_expectations as gx
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    found = gx.ExpectationSuite("contract")
    for e in promises:
        severity = {"fail": "critical", "warn": "warning"}[e.severity]
        meta = {"rule": e.rule, "columns": list(e.columns)}
        config = ExpectationConfiguration(
            type=e.type, kwargs=e.kwargs, meta=meta, description=e.text, severity=severity
        )
        found.add_expectation_configuration(config)
    return found


def judge(context: Context, found: Measured) -> dict[str, Any]:
    """Run the suite on the measures; a promise that could not be measured is never counted as kept."""
    import great_expectations as gx
    import pandas as pd

    promises = [e for e in found.expectations if all(e.measure in unit for unit in found.measures.values())]
    rows = pd.DataFrame([{e.measure: float(unit[e.measure]) for e in promises} for unit in found.measures.values()])
    gx_context = gx.get_context(mode="ephemeral")
    gx_context.variables.progress_bars = {"globally": False}
    asset = gx_context.data_sources.add_pandas("measures").add_dataframe_asset(found.contract.table)
    batch = asset.add_batch_definition_whole_dataframe("week").get_batch({"dataframe": rows})
    verdict = batch.validate(suite(promises), result_format="BOOLEAN_ONLY")
    kept = {r.expectation_config.kwargs["column"]: bool(r.success) for r in verdict.results}
    checks = [_check(found, e, kept.get(e.measure)) for e in found.expectations]
    by_verdict = {v: [c for c in checks if c["verdict"] == v] for v in ("failed", "warned", "passed", "not run")}
    return {
        "table": found.contract.table,
        "version": found.contract.version,
        "week": context.week.name,
        "scope": found.scope,
        "success": not by_verdict["failed"],
        "failed": by_verdict["failed"],
        "warned": by_verdict["warned"],
        "statistics": {
            "rows": found.n_rows,
            "partitions": len(found.partitions),
            "files": found.n_files,
            "bytes": found.n_bytes,
            "expectations": len(checks),
            **{name.replace(" ", "_"): len(some) for name, some in by_verdict.items()},
        },
        "columns": found.columns,
        "checks": checks,
        "great_expectations": {"version": gx.__version__, "statistics": dict(verdict.statistics)},
    }


def _check(found: Measured, e: Expectation, kept: bool | None) -> dict[str, Any]:
    """One expectation's verdict, for people and for the gate."""
    units = {unit: values[e.measure] for unit, values in found.measures.items() if e.measure in values}
    bad = {unit: value for unit, value in units.items() if not e.is_met(value)}
    blocked = found.blocked.get(e.measure)
    verdict = "not run" if kept is None else "passed" if kept else "failed" if e.severity == "fail" else "warned"
    if kept is None and "table" in e.args and blocked:
        verdict = "failed" if e.severity == "fail" else "warned"
    worst = max((bad or units).items(), key=lambda item: abs(item[1]), default=("", math.nan))
    observed = None if math.isnan(worst[1]) else worst[1]
    return {
        "measure": e.measure,
        "rule": e.rule,
        "columns": list(e.columns),
        "severity": e.severity,
        "says": e.text,
        "type": e.type,
        "low": e.low,
        "high": e.high,
        "observed": observed,
        "units": sorted(bad) if "" not in bad else [],
        "text": blocked if verdict != "passed" and blocked else _text(e, observed, found),
        "verdict": verdict,
        "examples": found.examples.get(e.measure, [])[:N_EXAMPLES],
    }


def _text(e: Expectation, observed: float | None, found: Measured) -> str:
    """What was seen, in words."""
    if observed is None:
        return "the rows could not be read"
    seen = found.columns.get(e.column or "", {})
    if e.rule == "null_share":
        return f"{observed:.1%} unknown"
    if e.rule == "rows_vs_last_week":
        return f"{observed:+.1%}"
    if e.rule in ("present", "rows"):
        return _count(observed, "partition" if e.rule == "present" else "row")
    if e.rule in FILE_RULES:
        files = _count(found.n_files, "file")
        return f"{observed:.0f} of {files} at fault" if observed else files
    if e.rule == "width":
        return f"lengths {seen.get('min')} to {seen.get('max')}" if observed else f"length {seen.get('max')}"
    if e.rule == "dense":
        return f"{seen.get('min')} to {seen.get('max')} in {_count(found.n_rows, 'row')}"
    if e.rule == "unique" and observed:
        return f"{_count(observed, 'row')} too many"
    if not observed:
        return f"{seen['min']} to {seen['max']}" if e.rule == "range" and seen.get("min") is not None else "no bad row"
    return _count(observed, "row")


def _count(n: float, what: str) -> str:
    return f"{n:,.0f} {what}{'' if n == 1 else 's'}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def problem(result: dict[str, Any], c: dict[str, Any]) -> str:
    """One broken promise as a line that a person can act on."""
    name = ".".join([result["table"], *([", ".join(c["columns"])] if c["columns"] else [])])
    where = f" in {'; '.join(c['units'])}" if c["units"] else ""
    line = f"  {name}: {c['text']}{where} break{'s' if c['observed'] == 1 else ''} '{c['says']}'"
    if c["rule"] in FILE_RULES or c["observed"] is None:
        line = f"  {name}: {c['text']}; the contract: {c['says']}"
    if c["rule"] in ("rows", "rows_vs_last_week", "null_share", "dense", "width", "present", "unique"):
        line = f"  {name}: {c['text']}{where}; the contract: {c['says']}"
    return "\n".join([line, *(f"    e.g. {example(e)}" for e in c["examples"])])


def example(values: dict[str, Any]) -> str:
    """One bad row, or one bad file, on a line."""
    if "problem" in values:
        return f"{values['file']} {values['problem']}"
    shown = " ".join(f"{k}={v}" for k, v in values.items() if k != "file")
    return f"{shown} in {values['file']}" if "file" in values else shown


def keep(context: Context, results: list[dict[str, Any]]) -> Path:
    """Write each result and the week's page, each in one step; tasks that check at once take turns."""
    folder = context.release_home / "quality" / context.week.name
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for result in results:
            files.replace(folder / f"{result['table']}.json", json.dumps(result, indent=1).encode() + b"\n")
        kept = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
        files.replace(folder / "index.html", page(context.week.name, kept).encode())
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
