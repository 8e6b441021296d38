"""What stands: each engine's champion, its metrics, the gate line by line, the data checks, and where to look next.

A champion's own bundle answers, so this works while MLflow, the lake or the network are away.
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
from jobs.release import manifest, pointer
from jobs.settings.cold_start import METHODS as ORDER
from jobs.tracking.store import hide_password, tracking_uri

if TYPE_CHECKING:
    from rich.table import Table

METRICS = ("precision", "recall", "ndcg")
SHOWN = ("space", "method", "model", "split", "slice", "metric", "k", "n_users", "n", "value", "low", "high")
SKIP_METRICS = ("auc", "brier", "calibration_error")
AGREE = {True: "agree", False: "differ: run `overture release promote` again", None: "unknown, MLflow is away"}


def data(context: Context) -> dict[str, Any]:
    """All of it as one JSON object.

    `champion`, `week`, `verdict`, `revision`, `previous`: the pointer and the gate's word about that release;
    `evaluation`: rows {space, method, split, slice, metric, k, n_users, value, low, high}; `gate`: its lines; `checks`:
    table -> result; `versions`: libraries, commit; `latest`: the newest judged week when it is not the champion's;
    `published`; `mlflow`: address, parent run, and whether the aliases agree with the pointer (None while it is away);
    `skip`: the same of the skip engine, whose rows are {model, split, slice, metric, n, value, low, high}.
    """
    skip = replace(Context.for_engine(context.settings, context.week, "skip"), home=context.home)
    return {**of_engine(context), "skip": of_engine(skip)}


def of_engine(context: Context) -> dict[str, Any]:
    """What data() says of one engine."""
    home = context.release_home
    now = pointer.read(home)
    found: dict[str, Any] = {
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
    if now:
        folder = pointer.releases(home) / now.release
        found |= {"champion": now.release, "week": now.week, "revision": now.revision, "previous": now.previous}
        found |= {"path": str(folder)}
        try:
            manifest.verify(folder)
            provenance = json.loads((folder / "provenance.json").read_text())
            rows = json.loads((folder / "evaluation.json").read_text())
            found |= {
                "commit": provenance["commit"],
                "versions": provenance["versions"],
                "checks": json.loads((folder / "quality.json").read_text()),
                "contracts": json.loads((folder / "contracts.json").read_text()),
                "evaluation": [{key: row[key] for key in SHOWN if key in row} for row in rows],
            }
        except (OvertureError, OSError, ValueError, KeyError) as error:
            found["problem"] = f"the champion cannot be read: {error}; `{back(context)}` goes one release back"
        gate = _json(pointer.releases(home) / "verdicts" / f"{now.release}.json")
        if gate:
            found |= {"verdict": gate["verdict"], "gate": gate["lines"]}
    latest = _latest_gate(home)
    if latest and latest["release"] != found["champion"]:
        found["latest"] = {key: latest[key] for key in ("week", "release", "verdict", "lines")}
    found["mlflow"] = _mlflow(context, now)
    return found


def back(context: Context) -> str:
    """The command that returns to the engine's release before."""
    return "overture release rollback" + (" --engine skip" if context.engine == "skip" else "")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _latest_gate(home: Path) -> dict[str, Any] | None:
    """The verdict about the newest week, or day, that the gate has judged; backtests do not count."""
    found = [path for path in (home / "work").glob("????-??-??*/gate.json") if "backtest" not in path.parent.name]
    return _json(max(found, key=lambda path: path.parent.name)) if found else None


def _mlflow(context: Context, now: pointer.Pointer | None) -> dict[str, Any]:
    from jobs.tracking.tracker import Tracker

    if now and context.engine == "skip":  # a day's update is tracked beside the weeks
        at = Week.from_name(now.week)
        context = replace(context, week=at)
    uri = tracking_uri(context)
    said: dict[str, Any] = {
        "uri": hide_password(uri),
        "aliases_agree": None,
        "parent": None,
        "aliases": {},
        "away": None,
    }
    if uri.startswith("sqlite:///") and not Path(uri[len("sqlite:///") :]).exists():
        return said  # nothing was tracked yet: do not make a database by looking
    if now is None and context.engine == "skip":
        return said  # nor an experiment of an engine that nobody runs here
    try:
        from jobs.release import registry

        tracker = Tracker.connect(context)
        held = registry.aliases(context, tracker)
        said |= {"aliases": held, "aliases_agree": registry.agree(now, held)}
        said["parent"] = Tracker.latest_week_run(context, now.week if now else None)
    except OvertureError as error:
        said["away"] = str(error)
    return said


def render(found: dict[str, Any]) -> None:
    """Print it as tables on stdout."""
    console, skip = wide_console(), found["skip"]
    if not found["champion"]:
        which = "No champion of the cold start yet." if skip["champion"] else "No champion yet."
        console.print(f"{which} `make demo` runs a whole week on a made-up service and promotes its release.")
    if found["checks"] or skip["checks"]:
        console.print(checks_table(found["checks"] | skip["checks"]))
    if found["evaluation"]:
        console.print(evaluation_table(found["evaluation"]))
    if found["gate"]:
        console.print(gate_table(found["gate"], found["verdict"]))
    if found["latest"]:
        latest = found["latest"]
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
    if found["champion"]:
        console.print(champion_table(found))
    if skip["champion"]:
        console.print(champion_table(skip, "Champion of the skip engine"))
    console.print(engines_table(found))
    console.print(where_table(found))
    for engine in (found, skip):
        if engine["problem"]:
            console.print(engine["problem"], style="bold red", markup=False)


def checks_table(checks: dict[str, Any]) -> Table:
    """Data checks by table."""
    table = make_table("Data checks", "table", "verdict", "what")
    for name, result in checks.items():
        said = [*result["failed"], *result["warned"]]
        verdict = "fail" if not result["success"] else "warn" if result["warned"] else "pass"
        what = "; ".join(str(one.get("expected", one)) for one in said) or "all promises kept"
        table.add_row(name, verdict, what, style={"fail": "bold red", "warn": "yellow"}.get(verdict))
    return table


def evaluation_table(rows: list[dict[str, Any]]) -> Table:
    """Every method on the whole test cohort: precision, recall and NDCG in % with 95 % intervals, both spaces."""
    chosen = [row for row in rows if row["split"] == "test" and row["slice"] == "all"]
    k = 50 if any(row["k"] == 50 for row in chosen) else max((row["k"] for row in chosen), default=0)
    n_users = max((row.get("n_users", 0) for row in chosen), default=0)
    title = f"Test cohort, {n_users} listeners, @{k}, % and 95 % interval"
    table = make_table(title, "space", "method", *METRICS, right=METRICS)
    by_key = {(row["space"], row["method"], row["metric"]): row for row in chosen if row["k"] == k}
    order: dict[str, int] = {name: place for place, name in enumerate(ORDER)}
    pairs = sorted({key[:2] for key in by_key}, key=lambda p: (p[0], order.get(p[1], len(order)), p[1]))
    for place, (space, method) in enumerate(pairs):
        if place and pairs[place - 1][0] != space:
            table.add_section()
        cells = [by_key.get((space, method, metric)) for metric in METRICS]
        table.add_row(space, method.replace("_", " "), *[_percent(cell) for cell in cells])
    return table


def _percent(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{100 * row['value']:.2f} [dim]({100 * row['low']:.2f}-{100 * row['high']:.2f})[/dim]"


def skip_table(rows: list[dict[str, Any]]) -> Table:
    """Every skip model, and the blend, on the plays that judge: AUC with its interval first, best first."""
    split = "day" if any(row["split"] == "day" for row in rows) else "test"
    chosen = [row for row in rows if row["split"] == split and row["slice"] == "all"]
    by_key = {(row["model"], row["metric"]): row for row in chosen}
    auc = sorted((row for row in chosen if row["metric"] == "auc"), key=lambda row: -row["value"])
    plays = "plays of the day" if split == "day" else "test plays"
    title = f"Skip engine, {max((row['n'] for row in auc), default=0)} {plays}, 95 % interval"
    table = make_table(title, "model", *SKIP_METRICS, right=SKIP_METRICS)
    for best in auc:
        cells = [by_key.get((best["model"], metric)) for metric in SKIP_METRICS]
        table.add_row(best["model"].replace("_", " "), *[_number(cell) for cell in cells])
    return table


def _number(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    interval = "" if row["low"] is None else f" [dim]({row['low']:.4f}-{row['high']:.4f})[/dim]"
    return f"{row['value']:.4f}{interval}"


def engines_table(found: dict[str, Any]) -> Table:
    """Both engines, a line each: what serves."""
    table = make_table("Engines", "engine", "release", "week", "verdict", "revision", "previous", right=("revision",))
    for name, one in (("cold start", found), ("skip", found["skip"])):
        if one["champion"]:
            verdict, previous = one["verdict"] or "not judged here", (one["previous"] or "none")[:12]
            table.add_row(name, one["champion"][:12], one["week"], verdict, str(one["revision"]), previous)
        else:
            table.add_row(name, "none yet", "", "", "", "")
    return table


def champion_table(found: dict[str, Any], title: str = "Champion") -> Table:
    """Which release serves."""
    table = make_table(title, "what", "value")
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    for name, value in {
        "release": found["champion"],
        "week": found["week"],
        "verdict": found["verdict"] or "unknown: the week was not judged here",
        "revision": found["revision"],
        "previous": found["previous"] or "none",
        "commit": found["commit"],
        "published": "yes" if (found["published"] or {}).get("release") == found["champion"] else "not yet",
        "MLflow aliases": AGREE[found["mlflow"]["aliases_agree"]],
        "versions": versions,
    }.items():
        if name != "published" or "skip" in found:  # only listeners of the cold-start engine go into a store
            table.add_row(name, escape_markup(str(value)))
    return table


def where_table(found: dict[str, Any]) -> Table:
    """Where to look next."""
    table = make_table("Where to look next", "what", "where")
    for of, one in (("", found), (" of the skip engine", found["skip"])):
        if one["champion"]:
            table.add_row(f"the release{of}", one["path"])
            table.add_row(f"data checks{of}, as a page", f"{one['home']}/quality/{one['week']}/index.html")
        if one["mlflow"]["parent"]:
            table.add_row(f"the week{of} in MLflow", one["mlflow"]["parent"]["url"])
    if found["mlflow"]["away"]:
        table.add_row("MLflow", escape_markup(found["mlflow"]["away"]))
    table.add_row("Airflow's and MLflow's pages", "make up")
    table.add_row("all of this as JSON", "overture status --json")
    if found["previous"]:
        table.add_row("go back one release", "overture release rollback")
    return table
