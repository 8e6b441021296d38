"""Report of `overture status`: each engine's champion, its metrics, the gate's rules, the data checks, and links.

The report is read from the champion's bundle. It works while MLflow, the lake or the network are unavailable.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.errors import OvertureError
from jobs.platform.context import Context
from jobs.platform.tables import escape_markup, gate_table, make_table, wide_console
from jobs.platform.week import Week
from jobs.release import pointer
from jobs.release.destination import read_champion, release_folder
from jobs.settings.cold_start import METHODS as ORDER
from jobs.tracking.store import hide_password, tracking_uri
from serving.release import manifest
from serving.release.signature import signature_file

if TYPE_CHECKING:
    from rich.table import Table

METRICS = ("precision", "recall", "ndcg")
EVALUATION_KEYS = (
    "space",
    "method",
    "model",
    "split",
    "slice",
    "metric",
    "k",
    "n_users",
    "n",
    "value",
    "with_rules",
    "low",
    "high",
)
SKIP_METRICS = ("auc", "brier", "calibration_error")
ALIAS_STATES = {
    True: "agree",
    False: "differ: run `overture release promote` again",
    None: "unknown, MLflow is unavailable",
}


def build_report(context: Context) -> dict[str, Any]:
    """Return the whole report as one JSON object.

    Returns:
        The fields of the cold-start engine, and the same fields of the skip engine below `skip`:

        champion, week, revision, previous: The pointer.
        verdict, gate: The gate's verdict on the champion, and its rules.
        evaluation: Rows {space, method, split, slice, metric, k, n_users, value, with_rules, low, high}; of the skip
            engine {model, split, slice, metric, n, value, low, high}.
        checks: Table -> result of the data checks.
        versions, commit: Libraries and commit that built the champion.
        latest: The newest evaluated week, if it is not the champion's.
        published: The release that the store contains.
        mlflow: Address, parent run, aliases, whether they agree with the pointer (None while MLflow is unavailable).
        problem: Why the champion cannot be read, or None.
    """
    skip = replace(Context.for_engine(context.settings, context.week, "skip"), home=context.home)
    return {**engine_data(context), "skip": engine_data(skip)}


def engine_data(context: Context) -> dict[str, Any]:
    """Return the report of one engine."""
    home = context.release_home
    current = read_champion(context)
    report: dict[str, Any] = {
        "champion": None,
        "week": None,
        "verdict": None,
        "revision": 0,
        "previous": None,
        "path": None,
        "commit": None,
        "evaluation": [],
        "gate": [],
        "checks": {},
        "versions": {},
        "contracts": {},
        "problem": None,
        "published": _json(pointer.releases(home) / pointer.PUBLISHED),
        "latest": None,
        "home": str(home),
    }
    if current:
        report |= {
            "champion": current.release,
            "week": current.week,
            "revision": current.revision,
            "previous": current.previous,
        }
        try:
            folder = release_folder(context, current.release)
            report |= {"path": str(folder)}
            manifest.verify(folder)
            if not signature_file(folder).is_file():
                report["problem"] = f"the champion is not signed, services refuse it; run `{sign_command(context)}`"
            provenance = json.loads((folder / "provenance.json").read_text())
            rows = json.loads((folder / "evaluation.json").read_text())
            report |= {
                "commit": provenance["commit"],
                "versions": provenance["versions"],
                "checks": json.loads((folder / "quality.json").read_text()),
                "contracts": json.loads((folder / "contracts.json").read_text()),
                "evaluation": [{key: row[key] for key in EVALUATION_KEYS if key in row} for row in rows],
            }
        except (OvertureError, OSError, ValueError, KeyError) as error:
            report["problem"] = (
                f"the champion cannot be read: {error}; `{rollback_command(context)}` returns to the previous release"
            )
        gate = _json(pointer.releases(home) / "verdicts" / f"{current.release}.json")
        if gate:
            report |= {"verdict": gate["verdict"], "gate": gate["lines"]}
    latest = _latest_gate(home)
    if latest and latest["release"] != report["champion"]:
        report["latest"] = {key: latest[key] for key in ("week", "release", "verdict", "lines")}
    report["mlflow"] = _mlflow(context, current)
    return report


def sign_command(context: Context) -> str:
    """Return the command that signs the engine's champion."""
    return "overture release sign" + (" --engine skip" if context.engine == "skip" else "")


def rollback_command(context: Context) -> str:
    """Return the command that promotes the engine's previous release again."""
    return "overture release rollback" + (" --engine skip" if context.engine == "skip" else "")


def _json(path: Path) -> Any:
    """Return the content of a JSON file, or None if it is missing or invalid."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _latest_gate(home: Path) -> dict[str, Any] | None:
    """Return the gate's report of the newest evaluated week or day, without backtests."""
    paths = [path for path in (home / "work").glob("????-??-??*/gate.json") if "backtest" not in path.parent.name]
    return _json(max(paths, key=lambda path: path.parent.name)) if paths else None


def _mlflow(context: Context, current: pointer.Pointer | None) -> dict[str, Any]:
    """Return the state of MLflow: address, aliases, parent run. Creates neither a database nor an experiment."""
    from jobs.tracking.tracker import Tracker

    if current and context.engine == "skip":  # a daily update is tracked in its own week
        context = replace(context, week=Week.from_name(current.week))
    uri = tracking_uri(context)
    state: dict[str, Any] = {
        "uri": hide_password(uri),
        "aliases_agree": None,
        "parent": None,
        "aliases": {},
        "unavailable": None,
    }
    if uri.startswith("sqlite:///") and not Path(uri[len("sqlite:///") :]).exists():
        return state  # nothing was tracked yet
    if current is None and context.engine == "skip":
        return state  # the skip engine was never used here
    try:
        from jobs.release import registry

        tracker = Tracker.connect(context)
        aliases = registry.read_aliases(context, tracker)
        state |= {"aliases": aliases, "aliases_agree": registry.aliases_match(current, aliases)}
        state["parent"] = Tracker.latest_week_run(context, current.week if current else None)
    except OvertureError as error:
        state["unavailable"] = str(error)
    return state


def render(report: dict[str, Any]) -> None:
    """Print the report as tables on stdout."""
    console, skip = wide_console(), report["skip"]
    if not report["champion"]:
        message = "The cold-start engine has no champion yet." if skip["champion"] else "There is no champion yet."
        console.print(f"{message} `make demo` runs a whole week on a simulated service and promotes its release.")
    if report["checks"] or skip["checks"]:
        console.print(checks_table(report["checks"] | skip["checks"]))
    if report["evaluation"]:
        console.print(evaluation_table(report["evaluation"]))
    if report["gate"]:
        console.print(gate_table(report["gate"], report["verdict"]))
    if report["latest"]:
        latest = report["latest"]
        title = f"Gate of week {latest['week']}: not the champion"
        console.print(gate_table(latest["lines"], latest["verdict"], title))
    if skip["evaluation"]:
        console.print(skip_table(skip["evaluation"]))
    if skip["gate"]:
        console.print(gate_table(skip["gate"], skip["verdict"], "Gate of the skip engine"))
    if skip["latest"]:
        latest = skip["latest"]
        title = f"Gate of the skip engine, {latest['week']}: not the champion"
        console.print(gate_table(latest["lines"], latest["verdict"], title))
    if report["champion"]:
        console.print(champion_table(report))
    if skip["champion"]:
        console.print(champion_table(skip, "Champion of the skip engine"))
    console.print(engines_table(report))
    console.print(where_table(report))
    for engine in (report, skip):
        if engine["problem"]:
            console.print(engine["problem"], style="bold red", markup=False)


def checks_table(checks: dict[str, Any]) -> Table:
    """Return the table of data checks."""
    table = make_table("Data checks", "table", "verdict", "problems")
    for name, result in checks.items():
        problems = [*result["failed"], *result["warned"]]
        verdict = "fail" if not result["success"] else "warn" if result["warned"] else "pass"
        text = "; ".join(str(check.get("expected", check)) for check in problems) or "none"
        table.add_row(name, verdict, text, style={"fail": "bold red", "warn": "yellow"}.get(verdict))
    return table


def evaluation_table(rows: list[dict[str, Any]]) -> Table:
    """Return the table of all methods and spaces on the test cohort: metrics in % with 95 % intervals.

    The last two columns are the NDCG of the lists under the rules, as they are served, and the mean number of distinct
    artists without and with the rules.
    """
    chosen = [row for row in rows if row["split"] == "test" and row["slice"] == "all"]
    k = 50 if any(row["k"] == 50 for row in chosen) else max((row["k"] for row in chosen), default=0)
    n_users = max((row.get("n_users", 0) for row in chosen), default=0)
    title = f"Test cohort, {n_users} listeners, @{k}, % and 95 % interval"
    ruled = ("ndcg with rules", "artists: without, with rules")
    table = make_table(title, "space", "method", *METRICS, *ruled, right=(*METRICS, *ruled))
    by_key = {(row["space"], row["method"], row["metric"]): row for row in chosen if row["k"] == k}
    order: dict[str, int] = {name: place for place, name in enumerate(ORDER)}
    pairs = sorted({key[:2] for key in by_key}, key=lambda p: (p[0], order.get(p[1], len(order)), p[1]))
    for place, (space, method) in enumerate(pairs):
        if place and pairs[place - 1][0] != space:
            table.add_section()
        cells = [by_key.get((space, method, metric)) for metric in METRICS]
        table.add_row(
            space,
            method.replace("_", " "),
            *[_percent(cell) for cell in cells],
            _with_rules(by_key.get((space, method, "ndcg")), 100, 2),
            _artists(by_key.get((space, method, "artists")), k),
        )
    return table


def _with_rules(row: dict[str, Any] | None, scale: float, digits: int) -> str:
    value = None if row is None else row.get("with_rules")  # None: evaluated by an older version
    return "" if value is None else f"{scale * value:.{digits}f}"


def _artists(row: dict[str, Any] | None, k: int) -> str:
    return "" if row is None else f"{k * row['value']:.1f}, {_with_rules(row, k, 1)}"


def _percent(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{100 * row['value']:.2f} [dim]({100 * row['low']:.2f}-{100 * row['high']:.2f})[/dim]"


def skip_table(rows: list[dict[str, Any]]) -> Table:
    """Return the table of the skip models and the blend on the test plays, sorted by AUC."""
    split = "day" if any(row["split"] == "day" for row in rows) else "test"
    chosen = [row for row in rows if row["split"] == split and row["slice"] == "all"]
    by_key = {(row["model"], row["metric"]): row for row in chosen}
    auc = sorted((row for row in chosen if row["metric"] == "auc"), key=lambda row: -row["value"])
    plays = "plays of the day" if split == "day" else "test plays"
    title = f"Skip engine, {max((row['n'] for row in auc), default=0)} {plays}, 95 % interval"
    table = make_table(title, "model", *SKIP_METRICS, right=SKIP_METRICS)
    for auc_row in auc:
        cells = [by_key.get((auc_row["model"], metric)) for metric in SKIP_METRICS]
        table.add_row(auc_row["model"].replace("_", " "), *[_number(cell) for cell in cells])
    return table


def _number(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    interval = "" if row["low"] is None else f" [dim]({row['low']:.4f}-{row['high']:.4f})[/dim]"
    return f"{row['value']:.4f}{interval}"


def engines_table(report: dict[str, Any]) -> Table:
    """Return the table of engines and the release that each serves."""
    table = make_table("Engines", "engine", "release", "week", "verdict", "revision", "previous", right=("revision",))
    for name, engine in (("cold start", report), ("skip", report["skip"])):
        if engine["champion"]:
            verdict, previous = engine["verdict"] or "not evaluated here", (engine["previous"] or "none")[:12]
            table.add_row(name, engine["champion"][:12], engine["week"], verdict, str(engine["revision"]), previous)
        else:
            table.add_row(name, "none yet", "", "", "", "")
    return table


def champion_table(report: dict[str, Any], title: str = "Champion") -> Table:
    """Return the table of a champion's properties."""
    table = make_table(title, "property", "value")
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    for name, value in {
        "release": report["champion"],
        "week": report["week"],
        "verdict": report["verdict"] or "unknown: the week was not evaluated here",
        "revision": report["revision"],
        "previous": report["previous"] or "none",
        "anchor": report["mlflow"]["aliases"].get("anchor", "none, or MLflow is unavailable"),
        "commit": report["commit"],
        "published": "yes" if (report["published"] or {}).get("release") == report["champion"] else "not yet",
        "MLflow aliases": ALIAS_STATES[report["mlflow"]["aliases_agree"]],
        "versions": versions,
    }.items():
        if name != "published" or "skip" in report:  # only the cold-start engine publishes listeners
            table.add_row(name, escape_markup(str(value)))
    return table


def where_table(report: dict[str, Any]) -> Table:
    """Return the table of files, pages and commands."""
    table = make_table("Where to look next", "subject", "location")
    for suffix, engine in (("", report), (" of the skip engine", report["skip"])):
        if engine["champion"]:
            table.add_row(f"the release{suffix}", engine["path"])
            table.add_row(f"data checks{suffix}, as a page", f"{engine['home']}/quality/{engine['week']}/index.html")
        if engine["mlflow"]["parent"]:
            table.add_row(f"the week{suffix} in MLflow", engine["mlflow"]["parent"]["url"])
    if report["mlflow"]["unavailable"]:
        table.add_row("MLflow", escape_markup(report["mlflow"]["unavailable"]))
    table.add_row("Airflow and MLflow UI", "make up")
    table.add_row("this report as JSON", "overture status --json")
    if report["previous"]:
        table.add_row("return to the previous release", "overture release rollback")
    return table
