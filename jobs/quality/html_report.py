"""The week's data checks as one self-contained HTML page: no script, no network.

Violated expectations come first, then each table with its columns, every expectation, the observed value and the
verdict. Every colour is accompanied by a symbol and a word. The page follows the browser's light or dark theme and can
be printed.
"""

from __future__ import annotations

from html import escape
from typing import Any

import contracts
from contracts.expectations import allowed_values
from jobs.quality.results import ExpectationResult, TableResult

MARK = {"passed": "✓", "failed": "✕", "warned": "!", "not run": "–"}
WORD = {"passed": "passed", "failed": "failed", "warned": "warning", "not run": "not run"}
ORDER = {"failed": 0, "warned": 1, "not run": 2, "passed": 3}

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f5f2; --card: #ffffff; --ink: #1b1d22; --soft: #5b606b; --line: #e2e0da; --faint: #f0eee9; --link:
  #2b4fc7;
  --good: #1b6e43; --good-bg: #e2f2e8; --bad: #ab1f2d; --bad-bg: #fce6e7; --warn: #7d5200; --warn-bg: #fdf0d3;
  --idle: #5b606b; --idle-bg: #eceae5; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14161a; --card: #1d2026; --ink: #e9e8e4; --soft: #a6abb6; --line: #32363f; --faint: #252932; --link:
  #9db4ff;
  --good: #83d8a6; --good-bg: #17352a; --bad: #ff9aa2; --bad-bg: #43191f; --warn: #f2c76b; --warn-bg: #3a2d10;
  --idle: #a6abb6; --idle-bg: #2a2e37; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "Helvetica Neue",
  "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 2rem; line-height: 1.15; letter-spacing: -.02em; margin: .15rem 0 .5rem; }
h2 { font-size: 1.3rem; letter-spacing: -.01em; margin: 0; }
h3 { font-size: .95rem; margin: 1.5rem 0 .5rem; }
p { margin: .25rem 0; max-width: 68ch; }
a { color: var(--link); } a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 3px solid
  var(--link); outline-offset: 2px; border-radius: 4px; }
code, .num { font-variant-numeric: tabular-nums; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .86em;
  overflow-wrap: anywhere; }
.over { color: var(--soft); font-size: .8rem; font-weight: 600; letter-spacing: .08em; text-transform: uppercase;
  margin: 0; }
.soft { color: var(--soft); }
.strip { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); margin: 1.5rem 0; padding: 0;
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
.strip div { padding: .9rem 1.2rem; box-shadow: 1px 0 0 var(--line); }
.strip dt { color: var(--soft); font-size: .82rem; } .strip dd { margin: 0; font-size: 1.55rem; font-weight: 650;
  letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.strip .bad dd { color: var(--bad); } .strip .warn dd { color: var(--warn); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .5rem; padding: 0; margin: 0 0 1.75rem; }
nav a { display: inline-flex; align-items: center; gap: .5rem; padding: .3rem .8rem .3rem .4rem; border: 1px solid
  var(--line); border-radius: 99px; background: var(--card); color: var(--ink); text-decoration: none; font-weight:
  550; }
nav a:hover { border-color: var(--link); }
.dot { display: inline-grid; place-items: center; width: 1.35rem; height: 1.35rem; border-radius: 50%; font-size:
  .8rem; font-weight: 800; flex: none; }
.pill { display: inline-flex; align-items: center; gap: .4rem; border-radius: 99px; padding: .08rem .65rem .08rem
  .5rem; font-size: .82rem; font-weight: 650; white-space: nowrap; }
.passed { color: var(--good); background: var(--good-bg); } .failed { color: var(--bad); background: var(--bad-bg); }
.warned { color: var(--warn); background: var(--warn-bg); } .not-run { color: var(--idle); background: var(--idle-bg);
  }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.4rem 1.5rem 1.5rem;
  margin: 0 0 1.5rem; }
.head { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .8rem; margin-bottom: .35rem; }
.facts { color: var(--soft); font-size: .9rem; margin: .4rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap:
  .1rem 1.4rem; list-style: none; }
.problem { border: 1px solid var(--line); border-left: 5px solid var(--bad); border-radius: 10px; background:
  var(--card); padding: .9rem 1.2rem 1rem; margin: 0 0 .8rem; }
.problem.w { border-left-color: var(--warn); }
.problem p { margin: .3rem 0 0; }
.scroll { overflow-x: auto; margin-top: .6rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; color: var(--soft); font-size: .82rem; padding-bottom: .3rem; }
th, td { text-align: left; vertical-align: top; padding: .42rem .9rem .42rem 0; border-top: 1px solid var(--line); }
thead th { color: var(--soft); font-size: .78rem; font-weight: 600; border-top: 0; white-space: nowrap; }
tbody th { font-weight: 600; } th code { overflow-wrap: normal; white-space: nowrap; }
h1 .dot { width: 2.1rem; height: 2.1rem; font-size: 1.15rem; vertical-align: .12em; margin-right: .25rem; }
td.num { white-space: nowrap; } td.about { min-width: 12rem; color: var(--soft); }
td:last-child, th:last-child { padding-right: 0; }
summary { cursor: pointer; font-weight: 600; font-size: .95rem; margin-top: 1.4rem; width: fit-content; }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 3rem; }
@media print { body { background: #fff; } .card, .problem { break-inside: avoid; } nav { display: none; } }
"""


def page(week: str, results: list[TableResult]) -> str:
    """Return the page as HTML.

    Args:
        week: Name of the week.
        results: Results of `jobs.quality.check.check`, in any order. Tables with failed expectations come first.
    """
    results = sorted(results, key=lambda r: (r["success"], not r["warned"], r["table"]))
    checks = [c for result in results for c in result["checks"]]
    failed = sum(c["verdict"] == "failed" for c in checks)
    warned = sum(c["verdict"] == "warned" for c in checks)
    verdict = "failed" if failed else "warned" if warned else "passed"
    title = {
        "failed": "Data checks failed",
        "warned": "Data checks passed with warnings",
        "passed": "Data checks passed",
    }[verdict]
    summary = {
        "failed": "The run stopped here. No later task has read these tables.",
        "warned": "The run continues. The owners of the tables should read the warnings.",
        "passed": "All expectations were checked before a later task read the tables.",
    }[verdict]
    facts = [
        ("tables", _count(len(results)), ""),
        ("rows checked", _count(sum(r["statistics"]["rows"] for r in results)), ""),
        ("expectations checked", _count(sum(c["verdict"] != "not run" for c in checks)), ""),
        ("failed", _count(failed), "bad" if failed else ""),
        ("warnings", _count(warned), "warn" if warned else ""),
    ]
    strip = "".join(f'<div class="{kind}"><dt>{name}</dt><dd>{value}</dd></div>' for name, value, kind in facts)
    links = "".join(
        f'<li><a href="#{escape(r["table"])}">{_dot(_state(r))}{escape(r["table"])}'
        f'<span class="soft">{WORD[_state(r)]}</span></a></li>'
        for r in results
    )
    problem_list = "".join(_problem(r, c) for v in ("failed", "warned") for r in results for c in r[v])
    problems = (
        f'<section aria-label="Failed expectations and warnings">{problem_list}</section>' if problem_list else ""
    )
    version = next((r["great_expectations"]["version"] for r in results), "")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} · week {escape(week)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header><p class="over">Data checks · week {escape(week)}</p><h1>{_dot(verdict)} {title}</h1>'
        f'<p class="soft">{summary}</p><dl class="strip">{strip}</dl>'
        f'<nav aria-label="Tables"><ul>{links}</ul></nav></header>\n'
        f"<main>{problems}{''.join(_table(r) for r in results)}</main>\n"
        f"<footer><p>Expectations come from contracts/*.yaml. Great Expectations {escape(version)} validated measures "
        "of all rows.</p></footer>\n</body>\n</html>\n"
    )


def _problem(result: TableResult, c: ExpectationResult) -> str:
    name = ".".join([result["table"], *([", ".join(c["columns"])] if c["columns"] else [])])
    where = f" in {escape('; '.join(c['units']))}" if c["units"] else ""
    return (
        f'<article class="problem{"" if c["verdict"] == "failed" else " w"}"><div class="head">{_pill(c["verdict"])}'
        f"<h2><code>{escape(name)}</code></h2></div><p><strong>{escape(c['text'])}</strong>{where}. "
        f"The contract: {escape(c['expected'])}.</p>{_examples(c['examples'])}</article>"
    )


def _examples(examples: list[dict[str, Any]]) -> str:
    if not examples:
        return ""
    names = list(examples[0])
    head = "".join(f'<th scope="col">{escape(n)}</th>' for n in names)
    rows = "".join(
        "<tr>" + "".join(f"<td><code>{escape(_shown(e.get(n)))}</code></td>" for n in names) + "</tr>" for e in examples
    )
    return _scroll("Examples", f"<caption>Examples</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>")


def _table(result: TableResult) -> str:
    contract, stats = contracts.load(result["table"]), result["statistics"]
    facts = [
        result["scope"],
        f"{_count(stats['rows'])} rows",
        f"{_count(stats['files'])} file{'' if stats['files'] == 1 else 's'}, {_size(stats['bytes'])}",
        f"one row per {', '.join(contract.grain)}",
        f"contract version {result['version']}, owner {contract.owner}",
    ]
    own = [c for c in result["checks"] if len(c["columns"]) != 1]
    rows = "".join(_column(result, name) for name in contract.columns)
    head = "".join(
        f'<th scope="col">{h}</th>' for h in ("column", "type", "null", "allowed", "observed", "description", "verdict")
    )
    return (
        f'<section class="card" id="{escape(result["table"])}" aria-labelledby="h-{escape(result["table"])}">'
        f'<div class="head"><h2 id="h-{escape(result["table"])}">{escape(result["table"])}</h2>'
        f"{_pill(_state(result))}</div>"
        f'<p>{escape(contract.about)}</p><ul class="facts">{"".join(f"<li>{escape(f)}</li>" for f in facts)}</ul>'
        f"<h3>Table</h3>{_checks('Expectations about the table', own)}<h3>Columns</h3>"
        + _scroll("Columns", f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>")
        + f"<details{'' if result['success'] else ' open'}><summary>All {len(result['checks'])} expectations</summary>"
        + _checks("All expectations of the contract", result["checks"])
        + "</details>"
        + _quarantined(result)
        + "</section>\n"
    )


def _quarantined(result: TableResult) -> str:
    if not result["quarantined"]:
        return ""
    rows = "".join(
        f'<tr><td>{escape(q["reason"])}</td><td class="num">{_count(q["n_rows"])}</td></tr>'
        for q in result["quarantined"]
    )
    head = '<thead><tr><th scope="col">reason</th><th scope="col">rows</th></tr></thead>'
    note = "Ingestion left these rows out. They are in the table quarantine, with their files."
    return f"<h3>In quarantine</h3><p>{note}</p>" + _scroll("Rows in quarantine", f"{head}<tbody>{rows}</tbody>")


def _column(result: TableResult, name: str) -> str:
    column, seen = contracts.load(result["table"]).columns[name], result["columns"].get(name)
    checks = [c for c in result["checks"] if c["columns"] == [name]]
    verdict = min((c["verdict"] for c in checks), key=lambda v: ORDER[v], default="not run")
    kind = escape(column.type) + (f'<br><span class="soft">{escape(column.unit)}</span>' if column.unit else "")
    about = escape(column.about) + (f" · {escape(column.pii)} data" if column.pii else "")
    return (
        f'<tr><th scope="row"><code>{escape(name)}</code></th><td>{kind}</td><td>{escape(column.null)}</td>'
        f"<td>{escape(allowed_values(column))}</td>"
        f'<td class="num">{_seen(column.type, seen, result["statistics"]["rows"])}</td>'
        f'<td class="about">{about}</td><td>{_pill(verdict)}</td></tr>'
    )


def _seen(kind: str, seen: dict[str, Any] | None, n_rows: int) -> str:
    if not seen:
        return "–"
    low, high = escape(_shown(seen["min"])[:19]), escape(_shown(seen["max"])[:19])
    if kind in ("int", "long", "short"):
        low, high = (_count(seen[k]) if isinstance(seen[k], int) else "–" for k in ("min", "max"))
    text = f"length {low} to {high}<br>" if kind.startswith("list<") else f"{low} to {high}<br>"
    if kind in ("string", "bool"):
        text = ""
    elif kind == "timestamp":
        text = f"{low} to<br>{high}<br>"
    unknown = f"{seen['nulls'] / n_rows:.1%} null" if seen["nulls"] and n_rows else "no null"
    return f'{text}<span class="soft">{unknown}</span>'


def _checks(caption: str, checks: list[ExpectationResult]) -> str:
    ordered = sorted(checks, key=lambda c: ORDER[c["verdict"]])
    rows = "".join(
        f"<tr><td>{_pill(c['verdict'])}</td>"
        f'<th scope="row"><code>{escape(", ".join(c["columns"]) or "table")}</code></th>'
        f'<td>{escape(c["expected"])}</td><td class="num">{escape(c["text"])}</td>'
        f"<td>{'stops the run' if c['severity'] == 'fail' else 'warns'}</td></tr>"
        for c in ordered
    )
    head = "".join(f'<th scope="col">{h}</th>' for h in ("verdict", "column", "expectation", "observed", "if violated"))
    return _scroll(caption, f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>")


def _scroll(label: str, inner: str) -> str:
    return f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0"><table>{inner}</table></div>'


def _state(result: TableResult) -> str:
    return "failed" if not result["success"] else "warned" if result["warned"] else "passed"


def _dot(verdict: str) -> str:
    return f'<span class="dot {verdict.replace(" ", "-")}" aria-hidden="true">{MARK[verdict]}</span>'


def _pill(verdict: str) -> str:
    kind = verdict.replace(" ", "-")
    return f'<span class="pill {kind}"><span aria-hidden="true">{MARK[verdict]}</span>{WORD[verdict]}</span>'


def _count(value: float) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"


def _shown(value: object) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)
