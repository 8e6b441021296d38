"""Render the experiment as one self-contained HTML page: no script, no network access, figures embedded.

The page follows the reader's light or dark theme and has a print style. Every number on it is also in report.json.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from scipy.stats import spearmanr

from jobs.paper.published_numbers import METRICS, NO_INTERACTION_SHARE, SECONDS

Report = Mapping[str, Any]
SPACES = {"tt_svd": "TT-SVD", "ut_als": "UT-ALS"}
SEGMENTS_SHOWN, MIN_LIFT = 12, 1.1
STYLE = """
:root { color-scheme: light dark;
  --page: #f6f5f2; --card: #ffffff; --ink: #1b1d22; --soft: #5b606b; --line: #e2e0da; --ours: #1f5f86; --ours-bg:
  #e3eef5; --theirs: #8a5a00; --theirs-bg: #fbf0dc; --good: #1b6e43; --good-bg: #e2f2e8; --warn: #7d5200; --warn-bg:
  #fdf0d3; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14161a; --card: #1d2026; --ink: #e9e8e4; --soft: #a6abb6; --line: #32363f; --ours: #8cc4ea; --ours-bg:
  #1b3342; --theirs: #f2c76b; --theirs-bg: #3a2d10; --good: #83d8a6; --good-bg: #17352a; --warn: #f2c76b; --warn-bg:
  #3a2d10; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue",
  "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 74rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 2.6rem; }
h1 { font-size: 2.1rem; line-height: 1.15; letter-spacing: -.02em; margin: .2rem 0 .6rem; }
h2 { font-size: 1.3rem; letter-spacing: -.01em; margin: 0 0 .35rem; }
h3 { font-size: .98rem; margin: 1.4rem 0 .3rem; }
p { margin: .3rem 0; max-width: 74ch; } .soft { color: var(--soft); } small { font-size: .84rem; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .87em; }
.over { color: var(--soft); font-size: .8rem; font-weight: 600; letter-spacing: .08em; text-transform: uppercase;
  margin: 0; }
.note { border-radius: 10px; padding: .75rem 1.1rem; margin: 1.2rem 0 0; border: 1px solid var(--line); }
.note.good { background: var(--good-bg); color: var(--good); } .note.warn { background: var(--warn-bg);
  color: var(--warn); }
.note p { max-width: none; }
.strip { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); margin: 1.2rem 0 1.8rem;
  padding: 0;
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
.strip div { padding: .85rem 1.1rem; box-shadow: 1px 0 0 var(--line); }
.strip dt { color: var(--soft); font-size: .82rem; } .strip dd { margin: 0; font-size: 1.5rem; font-weight: 650;
  letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.4rem 1.5rem 1.5rem;
  margin: 0 0 1.5rem; }
.scroll { overflow-x: auto; margin-top: .8rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .84rem; padding-bottom: .3rem; }
th, td { text-align: right; padding: .42rem .7rem; border-top: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
  th:first-child, td:first-child { padding-left: 0; }
.words td { white-space: normal; vertical-align: top; }
thead th { color: var(--soft); font-size: .8rem; font-weight: 600; border-top: 0; }
thead tr:first-child th[colspan] { text-align: center; border-bottom: 2px solid var(--line); color: var(--ink); }
tbody th { font-weight: 600; } .words th { vertical-align: top; } .words span { white-space: nowrap; }
thead td { border-top: 0; } tr.absent th, tr.absent td { color: var(--soft); font-weight: 400; }
td.ours { font-weight: 650; } td.theirs { color: var(--theirs); } .best { background: var(--ours-bg);
  border-radius: 5px; }
td small { color: var(--soft); font-weight: 400; }
.bar { display: inline-block; height: .55rem; border-radius: 3px; background: var(--ours); vertical-align: middle; }
figure { margin: 1rem 0 0; background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: .6rem; }
figure img { display: block; width: 100%; height: auto; }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 3rem; }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""


def page(report: Report, drawn: Mapping[str, str]) -> str:
    """Return the page as HTML.

    Args:
        report: the report of `run.run`, published numbers included.
        drawn: figures as SVG by name; table_1, figure_4, figure_5 and loss are shown in their sections.
    """
    data, k = report["data"], report["k"]
    space = SPACES[report["space"]]
    facts = [
        ("warm users", _count(data["train"])),
        ("test listeners", _count(data["test"])),
        ("songs", _count(data["songs"])),
        ("segments", _count(report["segments"]["k"])),
        ("inputs per listener", _count(data["features"])),
        ("seconds in total", _count(round(sum(report["seconds"].values())))),
    ]
    strip = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    sections = [
        _table_1(report, drawn),
        _lengths(report),
        _figure_4(report, drawn),
        _figure_5(report, drawn),
        _no_interaction(report),
        _table_2(report),
        _seconds(report, drawn),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>User cold start, {space}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><p class=\"over\">Overture · the paper's experiment</p><h1>A new listener's first list, {space}</h1>"
        f"<p>{_summary(report)}</p>{_banner(report)}"
        f'<dl class="strip">{strip}</dl></header>\n<main>\n' + "\n".join(sections) + "</main>\n"
        f"<footer><p>Lists of {k} songs. Published numbers: Briand et al. 2021, <i>A Semi-Personalized System for User "
        "Cold Start Recommendation on Music Streaming Apps</i>, KDD. Recipe of the network: "
        f"{escape(report['settings']['recipe'])} ({report['recipe']['optimiser']}, learning rate "
        f"{report['recipe']['learning_rate']:g}, {report['recipe']['epochs']} epochs); similarity: "
        f"{report['settings']['similarity']}; commit <code>{escape(str(report['commit'])[:12])}</code>; md5 of "
        f"song_embeddings.parquet <code>{data['song_md5']}</code>.</p></footer>\n</body>\n</html>\n"
    )


def _summary(report: Report) -> str:
    ours, titles = report["methods"], report["titles"]
    best = max(ours, key=lambda name: ours[name]["ndcg"]["mean"])
    ndcg = ours[best]["ndcg"]["mean"]
    text = f"Best of {len(ours)} methods: <b>{escape(titles[best])}</b>, NDCG@{report['k']} {ndcg:.2f} %"
    if "popularity" in ours and best != "popularity" and ours["popularity"]["ndcg"]["mean"] > 0:
        times = ndcg / ours["popularity"]["ndcg"]["mean"]
        text += f", {times:.1f} times that of recommending the most popular songs to every listener"
    return f"{text}."


def _banner(report: Report) -> str:
    check = report["check"]
    if check["done"]:
        return f'<div class="note good"><p><b>These are the published files.</b> {escape(check["message"])}.</p></div>'
    return (
        '<div class="note warn"><p><b>These are not the published files</b>: the published numbers are shown '
        f"for layout only, not for comparison. The exact check of Popularity was {escape(check['message'])}.</p>"
        "</div>"
    )


def _table_1(report: Report, drawn: Mapping[str, str]) -> str:
    ours, theirs = report["methods"], report["published"]["methods"]
    order = [*[name for name in theirs if name in ours], *[name for name in ours if name not in theirs]]
    best = {metric: max(ours, key=lambda name: ours[name][metric]["mean"]) for metric in METRICS}
    rows = "".join(_row(report, name, best) for name in order)
    absent = "".join(_row(report, name, best) for name in theirs if name not in ours)
    heads = "".join(f'<th colspan="2" scope="colgroup">{_title(metric)}@{report["k"]}, %</th>' for metric in METRICS)
    parts = '<th scope="col">this run</th><th scope="col">published</th>' * len(METRICS)
    return _card(
        "Table 1: quality of each method",
        f"Means over the test listeners and over {_fits(report)} of each method that learns. As in the paper, ± is the "
        "standard deviation of ten means over chunks of a fifth of the listeners, for one fit. NDCG averages over "
        "songs that tie in a ranking by listeners, as in the paper.",
        _picture(drawn, "table_1", "Precision, recall and NDCG of each method, with the published values as diamonds")
        + f'<div class="scroll"><table id="table-1"><thead><tr><td></td>{heads}</tr><tr><th scope="col">method</th>'
        f"{parts}</tr></thead><tbody>{rows}{absent}</tbody></table></div>",
    )


def _row(report: Report, name: str, best: Mapping[str, str]) -> str:
    ours, theirs = report["methods"].get(name), report["published"]["methods"].get(name)
    cells = ""
    for metric in METRICS:
        mark = ' class="ours best"' if ours and best[metric] == name else ' class="ours"'
        cells += f"<td{mark}>{_value(ours[metric]) if ours else 'not run'}</td>"
        cells += f'<td class="theirs">{_value(theirs[metric]) if theirs else "–"}</td>'
    kind = "" if ours else ' class="absent"'
    return f'<tr data-method="{escape(name)}"{kind}><th scope="row">{escape(report["titles"][name])}</th>{cells}</tr>'


def _value(metric: Mapping[str, float]) -> str:
    return f"{metric['mean']:.2f} <small>± {metric['spread']:.2f}</small>"


def _fits(report: Report) -> str:
    n = report["settings"]["models"]
    return "one fit" if n == 1 else f"{n} fits"


def _lengths(report: Report) -> str:
    lengths = report["lengths"]
    rows = [
        (report["titles"][name], *(_with_deviation(lengths[k][name][metric]) for k in lengths for metric in METRICS))
        for name in report["methods"]
    ]
    heads = ("method", *(f"{_title(metric)}@{k}, %" for k in lengths for metric in METRICS))
    ndcg = {k: [methods[name]["ndcg"]["mean"] for name in report["methods"]] for k, methods in lengths.items()}
    correlations = [
        f"@{k} {spearmanr(values, ndcg[str(report['k'])]).statistic:.2f}"
        for k, values in ndcg.items()
        if k != str(report["k"]) and len(set(values)) > 1 and len(set(ndcg[str(report["k"])])) > 1
    ]
    order = f" Rank correlation of NDCG with @{report['k']}: {', '.join(correlations)}." if correlations else ""
    return _card(
        "Other lengths, and deviations between models",
        f"Means over {_fits(report)}; ± is the standard deviation between the fits, whose segments and networks have "
        "seeds of their own; a method without ± does not depend on the seed. The paper: the order of the methods at 25 "
        f"and 100 is consistent with that at 50.{order}",
        _table("lengths", heads, rows),
    )


def _with_deviation(metric: Mapping[str, float | None]) -> str:
    deviation = metric["deviation"]
    return f"{metric['mean']:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def _figure_4(report: Report, drawn: Mapping[str, str]) -> str:
    if "figure_4" not in drawn:
        return ""
    return _card(
        "Figure 4: precision by first-day signals",
        f"Precision@{report['k']} of Deezer Semi-Pers. by number of interactions on the registration day, with 95 % "
        "intervals. In the paper, precision grows with streams and skips, and from three liked artists on.",
        _picture(drawn, "figure_4", "Precision by number of onboarding artists, streams and skips"),
    )


def _figure_5(report: Report, drawn: Mapping[str, str]) -> str:
    rows = [
        (
            report["titles"][name],
            _count(round(view["median"])),
            f"{_count(round(view['low']))} to {_count(round(view['high']))}",
            f"{100 * view['in_top']:.1f} %",
            _count(view["distinct"]),
        )
        for name, view in report["figure_5"].items()
    ]
    top = next(iter(report["figure_5"].values()))["top"]
    heads = (
        "method",
        "median rank",
        "from the 10 % to the 90 % quantile",
        f"among the {_count(top)} most popular",
        "songs",
    )
    return _card(
        "Figure 5: popularity of recommended songs",
        f"For the {_count(report['figure_5_users'])} test listeners of the five largest countries. The paper: "
        f"Semi-Pers. mainly recommends among the {_count(top)} most popular, Full-Pers. also recommends rarer ones.",
        _picture(drawn, "figure_5", "Share of recommendations by popularity rank") + _table("figure-5", heads, rows),
    )


def _no_interaction(report: Report) -> str:
    inactive, theirs = report["no_interaction"], report["published"]["no_interaction"]
    rows = [
        (
            report["titles"][name],
            _percent(result["no_interaction"]),
            f"{result['precision']['mean']:.2f} %",
            _percent(theirs.get(name)),
        )
        for name, result in report["methods"].items()
    ]
    return _card(
        "Without any interaction",
        f"{_count(inactive['users'])} test listeners ({100 * inactive['share']:.1f} %; in the paper "
        f"{100 * NO_INTERACTION_SHARE:g} %) have no interaction on the first day: only country and age are known.",
        _table("no-interaction", ("method", f"precision@{report['k']}", "of all listeners", "published"), rows),
    )


def _table_2(report: Report) -> str:
    rows = [
        (
            str(segment["segment"]),
            _count(segment["users"]),
            _traits(segment["countries"]),
            _traits(segment["ages"]),
            ", ".join(map(str, segment["songs"])),
        )
        for segment in report["table_2"][:SEGMENTS_SHOWN]
    ]
    heads = ("segment", "warm users", "countries", "age classes", "first songs")
    return _card(
        "Table 2: members of segments",
        f"The {len(rows)} segments with the highest lifts of country and age class, out of {len(report['table_2'])} "
        f"with at least {report['settings']['card_min_users']} warm users. × is the lift: the share in the segment "
        f"divided by the share among all. The public files name no genres and no countries: {report['countries']} "
        "countries are identified by their vectors and numbered by size. Songs are song_index.",
        _table("table-2", heads, rows, "words", raw=(2, 3)),
    )


def _seconds(report: Report, drawn: Mapping[str, str]) -> str:
    longest = max([*report["seconds"].values(), 1e-9])
    rows = []
    for name, value in report["seconds"].items():
        bar = f'<span class="bar" style="width:{12 * value / longest:.2f}rem"></span>'
        theirs = f"{_count(round(SECONDS[name]))} s" if name in SECONDS else ""
        rows.append((name, f"{value:.1f} s", bar, theirs))
    heads = ("stage", "this run", "", "published, on another machine")
    return _card(
        "Seconds by stage",
        "Published times are those of the authors' code on their machine, assigned to the closest stage. Stages are "
        "those of the first fit; `further models` is the sum of all others.",
        _table("seconds", heads, rows, raw=(2,)) + _picture(drawn, "loss", "Training loss by epoch"),
    )


def _traits(traits: Iterable[Mapping[str, Any]]) -> str:
    texts = (f"{t['name']} {100 * t['share']:.0f} % (× {t['lift']:.1f})" for t in traits if t["lift"] >= MIN_LIFT)
    return "; ".join(f"<span>{escape(text)}</span>" for text in texts)


def _table(
    name: str, heads: Iterable[str], rows: Iterable[tuple[str, ...]], kind: str = "", raw: tuple[int, ...] = ()
) -> str:
    """Return a table as HTML; the first cell of a row is its header, and cells are escaped except in columns `raw`."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = ""
    for row in rows:
        cells = [cell if at in raw else escape(cell) for at, cell in enumerate(row)]
        body += f'<tr><th scope="row">{cells[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in cells[1:]) + "</tr>"
    inner = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table id="{name}" class="{kind}">{inner}</table></div>'


def _card(title: str, about: str, inner: str) -> str:
    return f'<section class="card"><h2>{escape(title)}</h2><p class="soft">{escape(about)}</p>{inner}</section>'


def _picture(drawn: Mapping[str, str], name: str, about: str) -> str:
    if name not in drawn:
        return ""
    source = b64encode(drawn[name].encode()).decode()
    return f'<figure><img alt="{escape(about)}" src="data:image/svg+xml;base64,{source}"></figure>'


def _title(metric: str) -> str:
    return {"ndcg": "NDCG"}.get(metric, metric.capitalize())


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} %"


def _count(value: float) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
