"""`overture paper`: the experiment of Briand et al. 2021 on their public files, beside what they published.

Reads    the eight files as published (jobs/ingest/deezer/adapter.py)
Writes   OUT/index.html, report.json, figures/*.png; one MLflow run in an experiment of its own
Source   paper section 4: Table 1, Figures 4 and 5, Table 2, the slice without any interaction
Order    what can be wrong is looked at first: arguments, footers, number of segments; then all values while they are
         read; then Popularity, which must give the published numbers to four digits where the files are the real ones

Which files are the real ones? Those of exactly the published sizes whose footers do not say that `make-deezer` made
them. Of any other files the check of Popularity is left out, and said to be.

Differs  NDCG averages over tied tracks where a segment's list has ties, as in the published table (`ndcg`); taken in
         order it is `ndcg_in_order`. Among ties we take the more popular track first, the authors' code any
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from contracts.errors import BadArgument, CheckFailed
from jobs.cold_start.methods import method_recipes
from jobs.ingest.deezer import adapter as deezer
from jobs.ingest.deezer.files import CONTRACT, Files, count_of, inspect
from jobs.paper import breakdowns as views
from jobs.paper.html_report import page
from jobs.paper.methods import METHODS, Builder, Clock, Task, segment_levels
from jobs.paper.published_numbers import EXACT_POPULARITY, METRICS, NO_INTERACTION, SECONDS, TABLE_1, TITLES, TOP_TRACKS
from jobs.platform import figures
from jobs.platform.context import Context
from jobs.settings.base import Space
from jobs.settings.paper import PaperSettings
from jobs.tracking.tracker import Tracker
from models.cold_start.methods import Method
from models.evaluation.metrics import score

DIGITS = 4  # of %, to which Popularity must agree
BLOCK = 1_000
FIGURE_5 = ("popularity", "full_pers", "semi_pers")


def chosen(settings: PaperSettings, given: Mapping[str, Any]) -> PaperSettings:
    """The settings with what was typed instead; BadArgument names the option."""
    typed = {name: value for name, value in given.items() if value}
    try:
        return PaperSettings.model_validate({**settings.model_dump(), **typed})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadArgument(f"--{first['loc'][0]}: {first['msg']} (got {first['input']!r})") from None


def run(
    context: Context,
    data: Path,
    space: Space,
    out: Path | None = None,
    methods: Mapping[str, Builder] = METHODS,
    names: Iterable[str] = (),
) -> dict[str, Any]:
    """The whole experiment; returns the report, which is also what the page shows.

    Raises:
        BadArgument: no such method.
        CheckFailed: the files break the contract, more segments than warm users, Popularity is not as published.
    """
    settings = context.settings.paper
    wanted = list(dict.fromkeys(names)) or list(methods)
    if unknown := [name for name in wanted if name not in methods]:
        raise BadArgument(f"--methods: '{unknown[0]}' is no method; there are {', '.join(methods)}")
    files = inspect(data, space)
    check_sizes(files, settings)
    clock = Clock()
    with clock.stage("read the files"):
        found = deezer.load(context, files)
    task = Task(found, settings, context.seed(f"paper/{space}"), method_recipes(context.settings), clock)
    report: dict[str, Any] = {
        "space": space,
        "commit": context.commit,
        "data": found.facts,
        "settings": settings.model_dump(mode="json"),
        "k": settings.k,
        "titles": {name: TITLES.get(name, name.replace("_", " ")) for name in {*wanted, *TITLES}},
    }
    report["check"] = check_popularity(task)
    clock.log(f"check of Popularity: {report['check']['says']}")
    with Tracker.standalone_run(
        context, settings.experiment, f"paper {space}", {"space": space, "kind": "paper"}
    ) as run:
        run.log_params({**settings.model_dump(), "space": space, "methods": ",".join(wanted), "seed": task.seed})
        report |= evaluate(task, {name: methods[name] for name in wanted})
        report["losses"] = task.losses
        report["seconds"] = {name: round(value, 3) for name, value in clock.seconds.items()}
        report["published"] = published(space)
        report |= run.links
        folder = out or context.home / "paper" / space
        write(folder, report)
        log(run, report, folder)
    clock.log(f"the page is {folder / 'index.html'}")
    return {**headline(report), "page": str(folder / "index.html"), "report": str(folder / "report.json"), **run.links}


def check_sizes(files: Files, settings: PaperSettings) -> None:
    """What would fail after an hour fails now."""
    n_warm, n_songs = files.rows["train"], files.rows["songs"]
    if settings.segments > n_warm:
        raise CheckFailed(
            f"{files.users}: column 'user_index': has {n_warm} warm users, fewer than the {settings.segments} segments "
            "asked for (paper.segments, --segments)"
        )
    if settings.k > n_songs:
        raise CheckFailed(f"{files.songs}: has {n_songs} songs, fewer than the {settings.k} of a list (paper.k)")


def check_popularity(task: Task) -> dict[str, Any]:
    """Popularity against its published numbers, where these files claim to be the published ones.

    Raises:
        CheckFailed: they claim to be, and the numbers differ.
    """
    if not task.data.facts["claims"]:
        made = task.data.facts["made_up"]
        sizes = ", ".join(f"{n} {name}" for name, n in CONTRACT.sizes.items())
        why = f"these files are made up ({made})" if made else f"the published ones have {sizes}"
        return {"done": False, "says": f"left out: {why}"}
    truth = task.data.parts["test"].truth

    def of(tracks: np.ndarray) -> dict[str, float]:
        values = score(np.tile(tracks, (len(truth), 1)), truth, len(tracks))
        return {name: round(100 * float(values[name].mean()), DIGITS) for name in METRICS}

    got = of(np.arange(50))
    if got != EXACT_POPULARITY:
        told = " / ".join(f"{got[name]:.4f}" for name in METRICS)
        must = " / ".join(f"{EXACT_POPULARITY[name]:.4f}" for name in METRICS)
        by_index = of(np.argsort(task.data.song_index_N)[:50])
        other = " / ".join(f"{by_index[name]:.4f}" for name in METRICS)
        raise CheckFailed(
            f"{task.data.facts['folder']}: Popularity gives precision / recall / NDCG {told} % instead of {must} %: "
            "these files have the published sizes, but not their content, or are read wrongly (songs in the order of "
            f"song_index give {other} %)"
        )
    return {"done": True, "says": "Popularity gives exactly the published numbers", "values": got}


def evaluate(task: Task, methods: Mapping[str, Builder]) -> dict[str, Any]:
    """Fit and judge every method on the test listeners; Table 1, Figures 4 and 5, Table 2, the slice."""
    test, layout, clock = task.data.parts["test"], task.data.layout, task.clock
    idle = views.no_interaction(test.x_BF, layout)
    with clock.stage("segments and rankings"):
        warm = task.warm
    with clock.stage("countries and ages"):
        countries = views.Countries(warm.x_UF, layout)
        largest = set(list(countries.name_of.values())[: views.TOP_COUNTRIES])
        shown = np.array([name in largest for name in countries.of(test.x_BF)])
        shown = shown if shown.any() else np.ones(len(idle), bool)
        described = views.table_2(
            warm.labels_U,
            task.settings.segments,
            countries.of(warm.x_UF),
            count_of(warm.x_UF, layout, "age_value"),
            warm.rankings_KL,
            task.data.song_index_N,
            task.settings.card_min_users,
        )
    table, figure_4, figure_5 = {}, {}, {}
    for name, build in methods.items():
        with clock.stage(f"fit {name}"):
            method = build(task)
        with clock.stage(f"judge {name}"):
            lists_BK, values = judge(task, method)
        table[name] = row(values, idle)
        clock.log(f"{name}: " + " / ".join(f"{table[name][m]['mean']:.2f}" for m in METRICS) + " %")
        figure_5[name] = views.popularity(lists_BK[shown], len(warm.track_ND), TOP_TRACKS)
        if name == "semi_pers":
            figure_4 = {
                title: views.by_count(values["precision"], count_of(test.x_BF, layout, scalar), starts, seed=task.seed)
                for title, scalar, starts in (
                    ("onboarding artists", "nb_onboarding_like_artists", views.ARTISTS),
                    ("streams", "nb_streamed_songs", views.TRACKS),
                    ("skips", "nb_skipped_songs", views.TRACKS),
                )
            }
    sizes = np.bincount(warm.labels_U, minlength=task.settings.segments)
    return {
        "methods": table,
        "figure_4": figure_4,
        "figure_5": figure_5,
        "figure_5_users": int(shown.sum()),
        "table_2": described,
        "no_interaction": {"users": int(idle.sum()), "share": float(idle.mean())},
        "segments": {
            "k": len(sizes),
            "smallest": int(sizes.min()),
            "median": float(np.median(sizes)),
            "largest": int(sizes.max()),
            "inertia": task.clusters.inertia,
            "n_iter": task.clusters.n_iter,
        },
        "countries": len(countries.name_of),
        "recipe": {**vars(task.recipe), "hidden": list(task.recipe.hidden)},
    }


def judge(task: Task, method: Method) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Lists (B, k) of the test listeners and precision, recall, ndcg, ndcg_in_order of each, (B,)."""
    test, k = task.data.parts["test"], task.settings.k
    lists_BK = method.recommend(test.x_BF, k)
    found = score(lists_BK, test.truth, k)
    found["ndcg_in_order"] = found["ndcg"]
    levels_KL = segment_levels(task, method)
    if levels_KL is not None:
        found["ndcg"] = np.empty(len(lists_BK))
        segment_B = method.segments(test.x_BF)  # type: ignore[attr-defined]
        for start in range(0, len(segment_B), BLOCK):
            some = segment_B[start : start + BLOCK]
            truth = test.truth.rows(start, start + len(some))
            tied = score(task.warm.rankings_KL[some], truth, k, ties="average", levels=levels_KL[some])
            found["ndcg"][start : start + len(some)] = tied["ndcg"]
    return lists_BK, found


def row(values: Mapping[str, np.ndarray], idle: np.ndarray) -> dict[str, Any]:
    """One method's line of Table 1, in %: mean and ± of each metric; precision of listeners who did nothing."""
    found: dict[str, Any] = {
        name: {"mean": 100 * float(value.mean()), "spread": 100 * views.spread(value)} for name, value in values.items()
    }
    found["no_interaction"] = 100 * float(values["precision"][idle].mean()) if idle.any() else None
    return found


def published(space: Space) -> dict[str, Any]:
    """What the authors published about the space, in the form of ours."""
    table = {
        name: {metric: {"mean": mean, "spread": spread} for metric, (mean, spread) in zip(METRICS, values, strict=True)}
        for name, values in TABLE_1[space].items()
    }
    idle = {name: value for (of, name), value in NO_INTERACTION.items() if of == space}
    return {"methods": table, "no_interaction": idle, "seconds": SECONDS}


def headline(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report without its long parts: what fits a last line."""
    short = ("space", "k", "check", "methods", "no_interaction", "segments", "seconds")
    return {name: report[name] for name in short}


def write(folder: Path, report: dict[str, Any]) -> None:
    """Page, report and figures into one folder."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    drawn = draw(report)
    for name, figure in drawn.items():
        figure.savefig(folder / "figures" / f"{name}.png", dpi=130)
    (folder / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True, default=str) + "\n")
    (folder / "index.html").write_text(page(report, {name: figures.to_svg(figure) for name, figure in drawn.items()}))


def draw(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures by name."""
    titles, ours = report["titles"], report["methods"]
    theirs = report["published"]["methods"]
    found = {"table_1": figures.published_comparison(ours, theirs, titles)}
    if report["figure_4"]:
        found["figure_4"] = figures.precision_by_count(report["figure_4"], ours["semi_pers"]["precision"]["mean"])
    shown = {titles[name]: view for name, view in report["figure_5"].items() if name in FIGURE_5}
    if shown:
        found["figure_5"] = figures.rank_shares(shown)
    if report["losses"]:
        found["loss"] = figures.loss_curve([{"train_loss": loss} for loss in report["losses"]])
    return found


def log(run: Tracker, report: Mapping[str, Any], folder: Path) -> None:
    """Metrics, the table, the figures and the page to MLflow."""
    rows = []
    for name, found in report["methods"].items():
        theirs = report["published"]["methods"].get(name, {})
        line: dict[str, Any] = {"method": report["titles"][name]}
        for metric in METRICS:
            line |= {f"{metric} %": found[metric]["mean"], f"± {metric}": found[metric]["spread"]}
            line[f"published {metric} %"] = theirs.get(metric, {}).get("mean")
        rows.append({**line, "without interaction, precision %": found["no_interaction"]})
    run.log_metrics({f"{n}.{m}": found[m]["mean"] for n, found in report["methods"].items() for m in METRICS})
    run.log_metrics({f"seconds.{name}": value for name, value in report["seconds"].items()})
    run.log_batch(("train_loss", loss, epoch) for epoch, loss in enumerate(report["losses"]))
    run.log_table(rows, "table_1.json")
    run.log_artifact(folder / "figures", "figures")
    for name in ("index.html", "report.json"):
        run.log_artifact(folder / name)
