"""Measure the paper's experiment at full size: reading the files, segments, input vectors, an epoch, evaluation.

Data      synthetic files in the published format, so the numbers of the methods are not those of the paper
Models    `overture paper` with all methods fits each method that learns five times; the other runs fit once
Methods   mean over the fits in %, and the standard deviation between them; `in order` ignores ties
"""

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
from harness import Measurement, Peer

SPACE = "tt_svd"
MODELS = 5  # the default of paper.models
WITHOUT, ALL = "overture paper without DropoutNet and MeLU", "overture paper with all methods"


@dataclass(frozen=True)
class Sizes:
    """Sizes of the synthetic dataset and of the experiment.

    Attributes:
        users: number of listeners.
        tracks: number of songs.
        segments: number of segments.
        epochs: epochs of the measured networks.
        runs: runs of the short steps.
    """

    users: int
    tracks: int
    segments: int
    epochs: int
    runs: int


FULL = Sizes(100_000, 50_000, 1_000, 4, 3)
QUICK = Sizes(1_200, 2_000, 30, 2, 1)
# Seconds of the authors' code on "a standard machine".
PUBLISHED = {"input vectors": 5_084, "clustering + rankings": 14_672, "full evaluation": 1_418}
AS_PUBLISHED = "The authors report {} s for their code on their machine."


def open_dataset(folder: str) -> Any:
    """Return the dataset with memory-mapped input rows, as in `overture paper`."""
    from jobs.ingest.deezer.adapter import open_folder

    return open_folder(Path(folder), SPACE)


def build_task(folder: str, sizes: Sizes, epochs: int = 1) -> Any:
    """Return the inputs of the methods."""
    from jobs.cold_start.methods import method_recipes
    from jobs.paper.methods import Task
    from jobs.settings.paper import PaperSettings
    from jobs.settings.settings import Settings

    recipes = method_recipes(Settings(name="paper", week="2026-11-16"))
    return Task(open_dataset(folder), PaperSettings(segments=sizes.segments, epochs=epochs, other_k=()), 7, recipes)


def read_files(data: str, home: str) -> Measurement:
    """Measure the conversion of the published files into arrays, all checks included."""
    from jobs.ingest.deezer.adapter import convert
    from jobs.ingest.deezer.files import inspect

    Path(home).mkdir(parents=True)
    elapsed = harness.stopwatch()
    facts = convert(inspect(Path(data), SPACE), Path(home))
    seconds = elapsed()
    (Path(home) / "manifest.json").write_text(json.dumps({"facts": facts}))
    return Measurement(
        [seconds], {"rows": facts["train"] + facts["validation"] + facts["test"], "features": facts["features"]}
    )


def input_rows(sizes: Sizes) -> Measurement:
    """Measure the computation of all listeners' input rows from their first-day interactions, a chunk at a time."""
    from jobs.ingest.deezer import generate as deezer_files
    from models.cold_start.input_vector import input_vectors

    options = deezer_files.GeneratorOptions(sizes.users, sizes.tracks)
    simulated = deezer_files.prepare(options)
    entities = deezer_files.item_vectors(simulated, SPACE, options)
    demographics = deezer_files.mean_vectors(simulated.listeners, simulated.warm, simulated.users[SPACE])
    days = deezer_files.first_days(simulated.listeners, simulated.days, np.arange(sizes.users))
    elapsed, total = harness.stopwatch(), 0.0
    for start in range(0, sizes.users, deezer_files.CHUNK):
        rows = days.rows(start, min(start + deezer_files.CHUNK, sizes.users))
        total += float(input_vectors(rows, entities, demographics)[0, -1])
    return Measurement([elapsed()], {"rows": sizes.users, "features": 20 * entities.d + 19})


def segments(folder: str, sizes: Sizes) -> Measurement:
    """Measure k-means of the warm users and their rankings, which are long enough for all ties at place 50."""
    from blockfactor.kmeans import kmeans

    paper_task = build_task(folder, sizes)
    kmeans(paper_task.data.user_UD[:1000], 20)  # compile before the measurement
    _ = paper_task.heard_UN
    elapsed = harness.stopwatch()
    warm = paper_task.warm
    seconds = elapsed()
    return Measurement([seconds], {"inertia": paper_task.clusters.inertia, "places": warm.rankings_KL.shape[1]})


def epochs(folder: str, sizes: Sizes) -> Measurement:
    """Measure epochs of the network with the recipe of the authors' code, except the first, which reads the file."""
    from models.cold_start.network import CODE_RECIPE, fit

    dataset, ends, losses = open_dataset(folder), [time.perf_counter()], []

    def on_epoch(_: int, loss: float, __: float | None) -> None:
        ends.append(time.perf_counter())
        losses.append(loss)

    train = dataset.parts["train"]
    fit(train.x_BF, dataset.user_UD, replace(CODE_RECIPE, epochs=sizes.epochs, device="cpu"), 7, on_epoch)
    return Measurement(np.diff(ends)[1:].tolist(), {"mean squared error": losses[-1]})


def evaluation(folder: str, sizes: Sizes, method: str) -> Measurement:
    """Measure prediction, recommendation and metrics of one method for all test listeners."""
    from jobs.paper.methods import METHODS
    from jobs.paper.run import score_method

    paper_task = build_task(folder, sizes)
    fitted = METHODS[method](paper_task)
    _ = fitted.recommend(paper_task.data.parts["test"].x_BF[:10], 50)
    elapsed = harness.stopwatch()
    _, values = score_method(paper_task, fitted)
    return Measurement([elapsed()], {f"{m}, %": 100 * float(values[50][m].mean()) for m in ("precision", "ndcg")})


def run_paper(data: str, sizes: Sizes, space: str, nets: bool, models: int) -> Measurement:
    """Measure `overture paper`, page and MLflow included; `records` has the row of each method.

    Args:
        data: folder of the published files.
        sizes: sizes; the epochs of the settings are used if they are FULL.
        space: tt_svd or ut_als.
        nets: whether DropoutNet and MeLU are included.
        models: fits of each method that learns.
    """
    from jobs.paper import run as paper
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.settings.paper import PaperSettings
    from jobs.settings.settings import Settings

    settings = Settings(name="bench", week="2026-11-16", paper=PaperSettings(segments=sizes.segments, models=models))
    if sizes != FULL:  # at full size, the settings determine the epochs
        sections = ("paper", "dropoutnet", "melu")
        few_epochs = {name: getattr(settings, name).model_copy(update={"epochs": sizes.epochs}) for name in sections}
        settings = settings.model_copy(update=few_epochs)
    names = [name for name in paper.METHODS if nets or not name.startswith(("dropoutnet", "melu"))]
    elapsed = harness.stopwatch()
    report = paper.run(Context(settings, Week.parse("2026-11-16")), Path(data), space, names=names)
    seconds = elapsed()
    written = json.loads(Path(report["report"]).read_text())
    stages = written["seconds"]
    longest = sorted(stages, key=lambda name: -stages[name])[:6]
    rows = [{"method": name, **method_numbers(written, name)} for name in written["methods"]]
    return Measurement([seconds], {f"{name}, s": round(stages[name], 1) for name in longest}, records=rows)


def method_numbers(report: dict[str, Any], name: str) -> dict[str, float]:
    """Return the numbers of one method in the report of `overture paper`, in %."""
    at_50 = report["methods"][name]
    numbers: dict[str, float] = {"fits": at_50["models"]}
    for metric in ("precision", "recall", "ndcg"):
        numbers[f"{metric}@50"] = at_50[metric]["mean"]
        if at_50[metric]["deviation"] is not None:
            numbers[f"{metric}@50 deviation"] = at_50[metric]["deviation"]
    numbers["ndcg@50 in order"] = at_50["ndcg_in_order"]["mean"]
    return numbers | {f"ndcg@{k}": report["lengths"][k][name]["ndcg"]["mean"] for k in ("25", "100")}


def measure_case(
    name: str, about: str, run: Callable[..., Measurement], runs: int, parts: Path | None = None, **arguments: Any
) -> dict[str, Any]:
    """Return the case of one step; a single run is stored in the folder `parts`, or read from there.

    The case has the additional key `methods`, rows of the methods, if the run states them.
    """
    harness.log(name)
    peer = Peer("overture", run, arguments, runs)
    if runs > 1:
        return {"case": name, "about": about, "peers": harness.compare([peer]), "ratios": {}}
    measurement, peak_mib = harness.run_part(parts, replace(peer, name=f"paper {name}"))
    peers = {"overture": harness.summary([(measurement, peak_mib)], "")}
    return {"case": name, "about": about, "peers": peers, "ratios": {}, "methods": measurement.records}


def methods_case(one: dict[str, Any]) -> dict[str, Any]:
    """Return the table of the methods of a case of `overture paper`."""
    overture = one["peers"]["overture"]
    measurement = Measurement(overture["seconds"]["runs"], {})
    best_first = sorted(one["methods"], key=lambda row: -row["ndcg@50"])
    rows = {row["method"]: {name: value for name, value in row.items() if name != "method"} for row in best_first}
    return {
        "case": f"methods of {one['case']}",
        "about": "In %, mean over the fits, and the standard deviation between the fits of methods that learn. Seconds "
        "and MiB are those of the whole command.",
        "peers": harness.summaries(rows, measurement, overture["peak_mib"]),
        "ratios": {},
    }


def main() -> None:
    """Measure all steps on one synthetic dataset, then check the targets."""
    arguments = harness.parse_arguments("paper", (__doc__ or "").splitlines()[0], in_parts=True)
    sizes = QUICK if arguments.quick else FULL
    models = 2 if arguments.quick else MODELS
    with tempfile.TemporaryDirectory() as name:
        from jobs.ingest.deezer import generate as deezer_files

        data, folder = str(Path(name) / "data"), str(Path(name) / SPACE)
        elapsed = harness.stopwatch()
        deezer_files.run(Path(data), deezer_files.GeneratorOptions(sizes.users, sizes.tracks))
        harness.log(f"generated the files in {elapsed():.0f} s")
        folder_and_sizes = {"folder": folder, "sizes": sizes}
        size = f"{sizes.users} users x {sizes.tracks} songs, {SPACE}, k = {sizes.segments}"
        cases = [
            measure_case(
                "reading the files",
                f"{size}; synthetic files in the published format, all checks, into arrays.",
                read_files,
                1,
                data=data,
                home=folder,
            ),
            measure_case(
                "input vectors", f"{size}; from the first-day lists of all listeners.", input_rows, 1, sizes=sizes
            ),
            measure_case("clustering + rankings", f"{size}.", segments, sizes.runs, **folder_and_sizes),
            measure_case(
                "one epoch of the network",
                "All warm users, batches of 512; reading the rows from their mapped file.",
                epochs,
                1,
                **folder_and_sizes,
            ),
            measure_case(
                "full evaluation",
                "Fully personalised: prediction, 50 nearest songs of each test listener, metrics.",
                evaluation,
                sizes.runs,
                method="full_pers",
                **folder_and_sizes,
            ),
            measure_case(
                "semi evaluation",
                "The list of the nearest segment, metrics with ties averaged.",
                evaluation,
                sizes.runs,
                method="semi_pers",
                **folder_and_sizes,
            ),
            measure_case(
                WITHOUT,
                f"{size}; reading, training with the epochs of the recipe, page and MLflow included.",
                run_paper,
                1,
                arguments.parts,
                data=data,
                sizes=sizes,
                space=SPACE,
                nets=False,
                models=1,
            ),
            measure_case(
                ALL,
                f"{size}; DropoutNet and MeLU included, {models} fits.",
                run_paper,
                1,
                arguments.parts,
                data=data,
                sizes=sizes,
                space=SPACE,
                nets=True,
                models=models,
            ),
            measure_case(
                "overture paper in ut_als",
                "The wider space, 5 139 values per listener, without DropoutNet and MeLU.",
                run_paper,
                1,
                arguments.parts,
                data=data,
                sizes=sizes,
                space="ut_als",
                nets=False,
                models=1,
            ),
        ]
    if not arguments.quick:  # the published times are for this size
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
    tables = [methods_case(one) for one in cases if one["case"] == ALL]
    harness.write_result(
        arguments, cases + tables, promises, ("seconds of clustering + rankings + full evaluation", headline)
    )


if __name__ == "__main__":
    main()
