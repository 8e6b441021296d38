"""What stands: the champion, its metrics, the gate line by line, the data checks, and where to look next.

The champion's own bundle answers, so this works while MLflow, the lake or the network are away.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.cold_start.settings import METHODS as ORDER
from jobs.context import Context
from jobs.errors import OvertureError
from jobs.release import manifest, pointer
from jobs.tracking_store import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LOG_WIDTH = 140
METRICS = ("precision", "recall", "ndcg")
SHOWN = ("space", "method", "split", "slice", "metric", "k", "n_users", "value", "low", "high")
COLOURS = {"pass": "green", "grey": "yellow", "fail": "bold red", "skip": "dim"}


def data(context: Context) -> dict[str, Any]:
    """All of it as one JSON object.

    `champion`, `week`, `verdict`, `revision`, `previous`: the pointer and the gate's word about that release;
    `evaluation`: rows {space, method, split, slice, metric, k, n_users, value, low, high}; `gate`: its lines; `checks`:
    table -> result; `versions`: libraries, commit; `latest`: the newest judged week when it is not the champion's;
    `published`; `mlflow`: address, parent run, and whether the aliases agree with the pointer (None while it is away).
    """
    now = pointer.read(context.home)
    found: dict[str, Any] = {
        "champion": None, "week": None, "verdict": None, "revision": 0, "previous": None, "path": None,
        "commit": None, "evaluation": [], "gate": [], "checks": {}, "versions": {}, "contracts": {}, "problem": None,
        "published": _json(pointer.releases(context.home) / pointer.PUBLISHED),
        "latest": None, "home": str(context.home),
    }  # fmt: skip
    if now:
        folder = pointer.releases(context.home) / now.release
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
            found["problem"] = (
                f"the champion cannot be read: {error}; `overture release rollback` goes one release back"
            )
        gate = _json(pointer.releases(context.home) / "verdicts" / f"{now.release}.json")
        if gate:
            found |= {"verdict": gate["verdict"], "gate": gate["lines"]}
    latest = _latest_gate(context.home)
    if latest and latest["release"] != found["champion"]:
        found["latest"] = {key: latest[key] for key in ("week", "release", "verdict", "lines")}
    found["mlflow"] = _mlflow(context, now)
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _latest_gate(home: Path) -> dict[str, Any] | None:
    """The verdict about the newest week that the gate has judged; backtests have none."""
    found = sorted((home / "work").glob("????-??-??/gate.json"), key=lambda path: path.parent.name)
    return _json(found[-1]) if found else None


def _mlflow(context: Context, now: pointer.Pointer | None) -> dict[str, Any]:
    from jobs import tracking

    uri = tracking.tracking_uri(context)
    said: dict[str, Any] = {"uri": shown(uri), "aliases_agree": None, "parent": None, "aliases": {}, "away": None}
    if uri.startswith("sqlite:///") and not Path(uri[len("sqlite:///") :]).exists():
        return said  # nothing was tracked yet: do not make a database by looking
    try:
        from jobs.release import registry

        tracker = tracking.connect(context)
        held = registry.aliases(context, tracker)
        said |= {"aliases": held, "aliases_agree": registry.agree(now, held)}
        said["parent"] = tracking.latest_parent(context, now.week if now else None)
    except OvertureError as error:
        said["away"] = str(error)
    return said


def render(found: dict[str, Any]) -> None:
    """Print it as tables on stdout."""
    console = wide_console()
    if not found["champion"]:
        console.print("No champion yet. `make demo` runs a whole week on a made-up service and promotes its release.")
    if found["checks"]:
        console.print(checks_table(found["checks"]))
    if found["evaluation"]:
        console.print(evaluation_table(found["evaluation"]))
    if found["gate"]:
        console.print(gate_table(found["gate"], found["verdict"]))
    if found["latest"]:
        latest = found["latest"]
        title = f"Gate of week {latest['week']}: not the champion"
        console.print(gate_table(latest["lines"], latest["verdict"], title))
    if found["champion"]:
        console.print(champion_table(found))
    console.print(where_table(found))
    if found["problem"]:
        console.print(found["problem"], style="bold red", markup=False)


def wide_console(stderr: bool = False) -> Console:
    """A console as wide as the terminal; in a log, wide enough for a table."""
    from rich.console import Console as RichConsole

    console = RichConsole(stderr=stderr)
    return console if console.is_terminal else RichConsole(stderr=stderr, width=LOG_WIDTH)


def checks_table(checks: dict[str, Any]) -> Table:
    """Data checks by table."""
    table = make_table("Data checks", "table", "verdict", "what")
    for name, result in checks.items():
        said = [*result["failed"], *result["warned"]]
        verdict = "fail" if not result["success"] else "warn" if result["warned"] else "pass"
        what = "; ".join(str(one.get("says", one)) for one in said) or "all promises kept"
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


def gate_table(lines: list[dict[str, Any]], verdict: str | None, title: str = "Gate") -> Table:
    """The gate's lines and its verdict."""
    table = make_table(title, "rule", "measured", "bound", "verdict", "why", right=("measured", "bound"))
    for line in lines:
        colour = COLOURS.get(line["verdict"], "")
        numbers = [_short(line[key]) for key in ("measured", "bound")]
        table.add_row(line["rule"], *numbers, f"[{colour}]{line['verdict']}[/]", _plain(line["why"]))
    table.add_section()
    table.add_row("verdict", "", "", f"[{COLOURS.get(str(verdict), 'dim')}]{verdict}[/]", "")
    return table


def champion_table(found: dict[str, Any]) -> Table:
    """Which release serves."""
    table = make_table("Champion", "what", "value")
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    agree = {True: "agree", False: "differ: run `overture release promote` again", None: "unknown, MLflow is away"}
    for name, value in {
        "release": found["champion"],
        "week": found["week"],
        "verdict": found["verdict"] or "unknown: the week was not judged here",
        "revision": found["revision"],
        "previous": found["previous"] or "none",
        "commit": found["commit"],
        "published": "yes" if (found["published"] or {}).get("release") == found["champion"] else "not yet",
        "MLflow aliases": agree[found["mlflow"]["aliases_agree"]],
        "versions": versions,
    }.items():
        table.add_row(name, _plain(str(value)))
    return table


def where_table(found: dict[str, Any]) -> Table:
    """Where to look next."""
    table = make_table("Where to look next", "what", "where")
    home, week = found["home"], found["week"]
    if found["champion"]:
        table.add_row("the release", found["path"])
        table.add_row("data checks, as a page", f"{home}/quality/{week}/index.html")
    parent = found["mlflow"]["parent"]
    if parent:
        table.add_row("the week in MLflow", parent["url"])
    if found["mlflow"]["away"]:
        table.add_row("MLflow", _plain(found["mlflow"]["away"]))
    table.add_row("Airflow's and MLflow's pages", "make up")
    table.add_row("all of this as JSON", "overture status --json")
    if found["previous"]:
        table.add_row("go back one release", "overture release rollback")
    return table


def make_table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table in the house style; columns in `right` hold numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    table = RichTable(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        number = column in right
        table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number)
    return table


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
