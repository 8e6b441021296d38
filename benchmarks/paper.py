"""The paper's offline experiment at full size: reading the public files, segments, input vectors, an epoch, judging."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness import Answer, Peer

SPACE = "tt_svd"
WITHOUT, ALL = "overture paper without DropoutNet and MeLU", "overture paper with all methods"


@dataclass(frozen=True)
class Sizes:
    """Of the made-up dataset and of what is done with it."""

    users: int
    tracks: int
    segments: int
    epochs: int
    runs: int


FULL = Sizes(100_000, 50_000, 1_000, 4, 3)
QUICK = Sizes(1_200, 2_000, 30, 2, 1)
# What the authors' code takes on "a standard machine", seconds.
PUBLISHED = {"input vectors": 5_084, "clustering + rankings": 14_672, "full evaluation": 1_418}
AS_PUBLISHED = "The authors state {} s for theirs on their machine."


def opened(folder: str) -> Any:
    """The dataset as `overture paper` maps it."""
    from jobs.ingest.deezer.adapter import open_folder

    return open_folder(Path(folder), SPACE)


def task(folder: str, sizes: Sizes, epochs: int = 1) -> Any:
    """What the methods are built from."""
    from jobs.cold_start.methods import method_recipes
    from jobs.paper.methods import Task
    from jobs.settings.paper import PaperSettings
    from jobs.settings.settings import Settings

    recipes = method_recipes(Settings(name="paper", week="2026-11-16"))
    return Task(opened(folder), PaperSettings(segments=sizes.segments, epochs=epochs), 7, recipes)


def read(data: str, home: str) -> Answer:
    """The published files into arrays, every check included."""
    from jobs.ingest.deezer.adapter import convert
    from jobs.ingest.deezer.files import inspect

    Path(home).mkdir(parents=True)
    elapsed = harness.stopwatch()
    facts = convert(inspect(Path(data), SPACE), Path(home))
    seconds = elapsed()
    (Path(home) / "manifest.json").write_text(json.dumps({"facts": facts}))
    return Answer(
        [seconds], {"rows": facts["train"] + facts["validation"] + facts["test"], "features": facts["features"]}
    )


def input_rows(sizes: Sizes) -> Answer:
    """Input rows of everybody from what they did on their first day, a chunk at a time, as the files are made."""
    from jobs.ingest.deezer import generate as deezer_make
    from models.cold_start.input_vector import input_vectors

    made = deezer_make.GeneratorOptions(sizes.users, sizes.tracks)
    found = deezer_make.prepare(made)
    entities = deezer_make.item_vectors(found, SPACE, made)
    demographics = deezer_make.mean_vectors(found.people, found.warm, found.users[SPACE])
    days = deezer_make.first_days(found.people, found.days, np.arange(sizes.users))
    elapsed, total = harness.stopwatch(), 0.0
    for start in range(0, sizes.users, deezer_make.CHUNK):
        rows = days.rows(start, min(start + deezer_make.CHUNK, sizes.users))
        total += float(input_vectors(rows, entities, demographics)[0, -1])
    return Answer([elapsed()], {"rows": sizes.users, "features": 20 * entities.d + 19})


def segments(folder: str, sizes: Sizes) -> Answer:
    """k-means of the warm users and the rankings of all segments, long enough that no tie at place 50 is cut."""
    from blockfactor.kmeans import kmeans

    found = task(folder, sizes)
    kmeans(found.data.user_UD[:1000], 20)  # compiled before the clock
    _ = found.heard_UN
    elapsed = harness.stopwatch()
    warm = found.warm
    seconds = elapsed()
    return Answer([seconds], {"inertia": found.clusters.inertia, "places": warm.rankings_KL.shape[1]})


def epochs(folder: str, sizes: Sizes) -> Answer:
    """The network: the recipe of the authors' code; the first epoch, which reads the file, is left out."""
    from models.cold_start.network import CODE_RECIPE, fit

    found, ends, losses = opened(folder), [time.perf_counter()], []

    def on_epoch(_: int, loss: float, __: float | None) -> None:
        ends.append(time.perf_counter())
        losses.append(loss)

    train = found.parts["train"]
    fit(train.x_BF, found.user_UD, replace(CODE_RECIPE, epochs=sizes.epochs, device="cpu"), 7, on_epoch)
    return Answer(np.diff(ends)[1:].tolist(), {"mean squared error": losses[-1]})


def evaluation(folder: str, sizes: Sizes, method: str) -> Answer:
    """Predict, recommend and score for every test listener, one method."""
    from jobs.paper.methods import METHODS
    from jobs.paper.run import judge

    found = task(folder, sizes)
    built = METHODS[method](found)
    _ = found.levels_KL, built.recommend(found.data.parts["test"].x_BF[:10], 50)
    elapsed = harness.stopwatch()
    _, values = judge(found, built)
    return Answer([elapsed()], {f"{m}, %": 100 * float(values[m].mean()) for m in ("precision", "ndcg")})


def whole(data: str, sizes: Sizes, space: str, nets: bool) -> Answer:
    """`overture paper`, page and MLflow included: every method of the paper, or all but DropoutNet and MeLU."""
    from jobs.paper import run as paper
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.settings.paper import PaperSettings
    from jobs.settings.settings import Settings

    settings = Settings(name="bench", week="2026-11-16", paper=PaperSettings(segments=sizes.segments))
    if sizes != FULL:  # full size learns as long as the settings say
        fewer = ("paper", "dropoutnet", "melu")
        short = {name: getattr(settings, name).model_copy(update={"epochs": sizes.epochs}) for name in fewer}
        settings = settings.model_copy(update=short)
    names = [name for name in paper.METHODS if nets or not name.startswith(("dropoutnet", "melu"))]
    elapsed = harness.stopwatch()
    report = paper.run(Context(settings, Week.parse("2026-11-16")), Path(data), space, names=names)
    seconds = elapsed()
    stages = json.loads(Path(report["report"]).read_text())["seconds"]
    longest = sorted(stages, key=lambda name: -stages[name])[:6]
    return Answer([seconds], {f"{name}, s": round(stages[name], 1) for name in longest})


def case(name: str, about: str, run: Callable[..., Answer], runs: int, **arguments: Any) -> dict[str, Any]:
    """Measure one step."""
    harness.say(name)
    return {
        "case": name,
        "about": about,
        "peers": harness.compare([Peer("overture", run, arguments, runs)]),
        "ratios": {},
    }


def main() -> None:
    """All steps on one made-up dataset, then the promises."""
    chosen = harness.options("paper", __doc__ or "")
    sizes = QUICK if chosen.quick else FULL
    with tempfile.TemporaryDirectory() as name:
        from jobs.ingest.deezer import generate as deezer_make

        data, folder = str(Path(name) / "data"), str(Path(name) / SPACE)
        elapsed = harness.stopwatch()
        deezer_make.run(Path(data), deezer_make.GeneratorOptions(sizes.users, sizes.tracks))
        harness.say(f"made the files in {elapsed():.0f} s")
        where = {"folder": folder, "sizes": sizes}
        size = f"{sizes.users} users x {sizes.tracks} songs, {SPACE}, k = {sizes.segments}"
        cases = [
            case(
                "reading the files",
                f"{size}; made-up files in the published form, all checks, into arrays.",
                read,
                1,
                data=data,
                home=folder,
            ),
            case("input vectors", f"{size}; from first-day lists of everybody.", input_rows, 1, sizes=sizes),
            case("clustering + rankings", f"{size}.", segments, sizes.runs, **where),
            case(
                "one epoch of the network",
                "All warm users, batches of 512; reading the rows from their mapped file.",
                epochs,
                1,
                **where,
            ),
            case(
                "full evaluation",
                "Fully personalised: prediction, 50 nearest songs of each test listener, metrics.",
                evaluation,
                sizes.runs,
                method="full_pers",
                **where,
            ),
            case(
                "semi evaluation",
                "The list of the nearest segment, metrics with ties averaged.",
                evaluation,
                sizes.runs,
                method="semi_pers",
                **where,
            ),
            case(
                WITHOUT,
                f"{size}; reading, training as long as the recipe says, page and MLflow included.",
                whole,
                1,
                data=data,
                sizes=sizes,
                space=SPACE,
                nets=False,
            ),
            case(ALL, f"{size}; DropoutNet and MeLU too.", whole, 1, data=data, sizes=sizes, space=SPACE, nets=True),
            case(
                "overture paper in ut_als",
                "The wider space, 5 139 values a listener, without DropoutNet and MeLU.",
                whole,
                1,
                data=data,
                sizes=sizes,
                space="ut_als",
                nets=False,
            ),
        ]
    if not chosen.quick:  # theirs are of this size
        for one in cases:
            if one["case"] in PUBLISHED:
                one["about"] += " " + AS_PUBLISHED.format(PUBLISHED[one["case"]])
    seconds = {one["case"]: one["peers"]["overture"]["seconds"]["median"] for one in cases}
    peak = max(one["peers"]["overture"]["peak_mib"] for one in cases)
    bounds = {
        "clustering + rankings": 5,
        "full evaluation": 2,
        "input vectors": 30,
        "one epoch of the network": 2,
        WITHOUT: 20 * 60,
        ALL: 90 * 60,
    }
    promises = [
        harness.promise(f"{name}, seconds", bound, seconds[name], at_most=True) for name, bound in bounds.items()
    ]
    promises.append(harness.promise("peak memory of any step, MiB", 8 * 1024, peak, at_most=True))
    headline = seconds["clustering + rankings"] + seconds["full evaluation"]
    harness.finish(chosen, cases, promises, ("seconds of clustering + rankings + full evaluation", headline))


if __name__ == "__main__":
    main()
