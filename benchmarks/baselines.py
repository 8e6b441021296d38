"""The rates of DropoutNet and MeLU on real playlists: a stated budget of settings, on the validation listeners.

Task    as in benchmarks/playlists.py, one seed, the space tt_svd; the test listeners are not looked at
Budget  four settings of each: DropoutNet's learning rate; MeLU's, and the rate of a listener's own step, 5e-6 in the
        original. Everything else is as in models/methods/{dropoutnet,melu}.py
Read    by NDCG@50 of the fully personalised list; the settings in use are marked
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import harness
from harness import Answer, Peer, stopwatch
from playlists import K, learned

SEED, SPACE = 7, "tt_svd"
DROPOUTNET = ({"learning_rate": 0.005}, {"learning_rate": 0.02}, {"learning_rate": 0.05}, {"learning_rate": 0.1})
MELU = (
    {"learning_rate": 5e-4, "inner_rate": 5e-6},
    {"learning_rate": 5e-4, "inner_rate": 0.05},
    {"learning_rate": 5e-4, "inner_rate": 0.3},
    {"learning_rate": 2e-3, "inner_rate": 0.05},
)


def rows(data: str, quick: bool) -> Answer:
    """NDCG@50 of the validation listeners in %, by method/setting."""
    from jobs.cold_start.evaluate import read_cohort
    from jobs.cold_start.methods import method_factory
    from models.cold_start.methods import recommend_lists
    from models.cold_start.methods.dropoutnet import DropoutNet, DropoutNetFull
    from models.cold_start.methods.melu import Melu, MeluFull
    from models.evaluation.metrics import score

    clock = stopwatch()
    context = learned(data, SEED, quick, (SPACE,))
    factory = method_factory(context, SPACE, lambda *_: None)
    cohort, found = read_cohort(context, SPACE, "validation"), {}

    def judge(name: str, chosen: Any, changed: dict[str, float], method: Any) -> None:
        listed = recommend_lists(method, cohort.x_BF, K, cohort.days, cohort.taken_BN)
        mark = ", in use" if replace(chosen, **changed) == chosen else ""
        said = ", ".join(f"{field} {value:g}" for field, value in changed.items())
        found[f"{name}: {said}{mark}"] = 100 * float(score(listed, cohort.truth, K)["ndcg"].mean())
        harness.say(f"  {name}: {said}: {found[f'{name}: {said}{mark}']:.2f}")

    for changed in DROPOUTNET:
        recipe = replace(factory.inputs.dropoutnet, **changed)
        judge(
            "dropoutnet_full",
            factory.inputs.dropoutnet,
            changed,
            DropoutNetFull(DropoutNet(factory.warm, recipe, SEED)),
        )
    for changed in MELU:
        recipe = replace(factory.inputs.melu, **changed)
        judge("melu_full", factory.inputs.melu, changed, MeluFull(Melu(factory.warm, recipe, SEED)))
    return Answer([clock()], found)


def main() -> None:
    """One run, a row a setting."""
    files = "Spotify Million Playlist Dataset: playlist_track.parquet and track_uri_map.parquet"
    chosen = harness.options("baselines", (__doc__ or "").splitlines()[0], files, required=True)
    answer, peak = harness.alone(Peer("rows", rows, {"data": str(chosen.data), "quick": chosen.quick}))
    titles = {method: f"{method} by its rates" for method in ("dropoutnet_full", "melu_full")}
    about = f"NDCG@{K} on the validation listeners, one seed."
    cases = harness.cases_by_group(answer, peak, titles, "NDCG, %", about)
    harness.finish(chosen, cases, [], ("best validation NDCG@50, %", max(answer.quality.values())))


if __name__ == "__main__":
    main()
