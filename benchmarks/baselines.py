"""Choose the learning rates of DropoutNet and MeLU on real playlists: a fixed number of settings, validation listeners.

Task    as in benchmarks/playlists.py, with one seed and the space tt_svd; the test listeners are not used
Budget  four settings of each: the learning rate of DropoutNet; for MeLU the learning rate and the rate of a listener's
        own step, which is 5e-6 in the original. The other settings are those of dropoutnet.py and melu.py in
        models/cold_start/methods
Metric  NDCG@50 of the fully personalised list; the settings in use are marked
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import harness
from harness import Measurement, Peer, stopwatch
from playlists import K, prepare_week

SEED, SPACE = 7, "tt_svd"
DROPOUTNET = ({"learning_rate": 0.005}, {"learning_rate": 0.02}, {"learning_rate": 0.05}, {"learning_rate": 0.1})
MELU = (
    {"learning_rate": 5e-4, "inner_rate": 5e-6},
    {"learning_rate": 5e-4, "inner_rate": 0.05},
    {"learning_rate": 5e-4, "inner_rate": 0.3},
    {"learning_rate": 2e-3, "inner_rate": 0.05},
)


def rows(data: str, quick: bool) -> Measurement:
    """Return NDCG@50 of the validation listeners in %, by method and setting."""
    from jobs.cold_start.evaluate import read_cohort
    from jobs.cold_start.methods import method_factory
    from models.cold_start.methods import recommend_lists
    from models.cold_start.methods.dropoutnet import DropoutNet, DropoutNetFull
    from models.cold_start.methods.melu import Melu, MeluFull
    from models.evaluation.metrics import score

    clock = stopwatch()
    context = prepare_week(data, SEED, quick, (SPACE,))
    factory = method_factory(context, SPACE, lambda *_: None)
    cohort, ndcg_by_name = read_cohort(context, SPACE, "validation"), {}

    def evaluate(name: str, recipe_in_use: Any, changes: dict[str, float], method: Any) -> None:
        lists_BK = recommend_lists(method, cohort.x_BF, K, cohort.days, cohort.taken_BN)
        mark = ", in use" if replace(recipe_in_use, **changes) == recipe_in_use else ""
        changes_text = ", ".join(f"{field} {value:g}" for field, value in changes.items())
        ndcg_by_name[f"{name}: {changes_text}{mark}"] = 100 * float(score(lists_BK, cohort.truth, K)["ndcg"].mean())
        harness.log(f"  {name}: {changes_text}: {ndcg_by_name[f'{name}: {changes_text}{mark}']:.2f}")

    for changes in DROPOUTNET:
        method_recipe = replace(factory.inputs.dropoutnet, **changes)
        evaluate(
            "dropoutnet_full",
            factory.inputs.dropoutnet,
            changes,
            DropoutNetFull(DropoutNet(factory.warm, method_recipe, SEED)),
        )
    for changes in MELU:
        method_recipe = replace(factory.inputs.melu, **changes)
        evaluate("melu_full", factory.inputs.melu, changes, MeluFull(Melu(factory.warm, method_recipe, SEED)))
    return Measurement([clock()], ndcg_by_name)


def main() -> None:
    """Measure all settings in one run."""
    data_help = "Spotify Million Playlist Dataset: playlist_track.parquet and track_uri_map.parquet"
    arguments = harness.parse_arguments("baselines", (__doc__ or "").splitlines()[0], data_help, required=True)
    measurement, peak = harness.run_in_process(
        Peer("rows", rows, {"data": str(arguments.data), "quick": arguments.quick})
    )
    titles = {method: f"{method} by its rates" for method in ("dropoutnet_full", "melu_full")}
    about = f"NDCG@{K} on the validation listeners, one seed."
    cases = harness.cases_by_group(measurement, peak, titles, "NDCG, %", about)
    harness.write_result(arguments, cases, [], ("best validation NDCG@50, %", max(measurement.quality.values())))


if __name__ == "__main__":
    main()
