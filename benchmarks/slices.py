"""Compare each method with Popularity in every slice of the new listeners of a simulated service.

Service   configs/demo.yaml; `large` has 150 000 listeners, 40 000 tracks, 1 000 segments, d = 128 in tt_svd
Slices    those of the evaluation and the gate; and all listeners with the interactions of their first day removed, so
          that a list depends on country and age alone
Rows      one per slice: number of listeners, NDCG@50 of Popularity in %, and the ratio of each method to it
Worse     a method is worse than Popularity in a slice if a one-sided paired t-test over the listeners is significant at
          the 5 % level, corrected for the number of slices of the method (Holm), as in the gate
Limit     `simulator` orders the tracks by the simulator's own probability of a track given country and age
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness import Measurement, Peer, stopwatch
from playlists import FACTORISATIONS, MATRIX_JOBS, SPACES, K, listener_ndcg

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
LARGE: dict[str, dict[str, Any]] = {
    "simulate": {"n_users": 150_000, "n_tracks": 40_000, "n_playlists": 60_000},
    "matrix": {"n_catalog": 40_000},
    "als": {"d": 256},
    "svd": {"d": 128},
    "segments": {"k": 1_000},
    "autoencoder": {"epochs": 6},  # of thirteen times as many warm listeners as in the demo
    "mixture": {"epochs": 6},
}
QUICK = {"simulate": {"n_users": 6_000, "n_tracks": 2_000, "n_playlists": 2_000}, "segments": {"k": 30}}
SERVICES: dict[str, dict[str, Any]] = {"demo": {}, "large": LARGE}
METHODS = {
    "tt_svd": (
        "semi_pers",
        "full_pers",
        "near_segments",
        "country_age",
        "segment_mixture_reranked",
        "blend",
        "ranked_candidates",
    ),
    "ut_als": ("semi_pers", "full_pers", "near_segments", "segment_mixture_reranked"),
}
POPULARITY, SIMULATOR, REMOVED = "popularity", "simulator", "all, interactions removed"
NONE = "interactions=none"
MIN_GAIN = 0.9  # of the simulator's gain over Popularity, for listeners without interactions


@dataclass(frozen=True)
class SimulatorLists:
    """The tracks of the highest probability given country and age: a method with the simulator's hidden parameters.

    Attributes:
        settings: settings of the simulated service.
        track_id_N: ids of the tracks by track_idx.
    """

    settings: Any
    track_id_N: np.ndarray
    name: str = SIMULATOR

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return len(self.track_id_N)

    def recommend(self, x_BF: np.ndarray, k: int, first_days: Any) -> np.ndarray:
        """Return the most probable tracks (B, k)."""
        from models.cold_start.top_k import top_k_of_scores
        from tests.helpers.simulated_tastes import track_probabilities

        lists = []
        for start in range(0, len(first_days), 256):
            days = first_days.rows(start, min(start + 256, len(first_days)))
            scores_BN = track_probabilities(self.settings, self.track_id_N, days.country, days.age)
            lists.append(top_k_of_scores(scores_BN.astype(np.float32), k))
        return np.concatenate(lists)


def run_service(update: dict[str, dict[str, Any]], methods: dict[str, tuple[str, ...]]) -> Measurement:
    """Run one week of a simulated service; `samples` maps "space/method" to NDCG, "space/slice/name" to flags.

    Args:
        update: settings that differ from configs/demo.yaml, by section.
        methods: methods to evaluate in each space, beside Popularity and the simulator.
    """
    from jobs.cold_start import features, segments, train
    from jobs.cold_start.evaluate import read_cohort
    from jobs.cold_start.methods import method_factory
    from jobs.cold_start.training_data import catalogue
    from jobs.ingest.simulate import adapter as simulate
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.release import signing, weekly_run
    from jobs.settings.settings import load

    clock = stopwatch()
    settings = load(CONFIG)
    sections = {name: getattr(settings, name).model_copy(update=values) for name, values in update.items()}
    settings = settings.model_copy(update=sections)
    context = Context(settings, Week.parse(settings.week), Path(os.environ["OVERTURE_HOME"]))
    simulate.run(context)
    signing.create_keys(signing.signing_key(context))
    weekly_run.begin(context)
    for job in (*MATRIX_JOBS, *FACTORISATIONS):
        harness.log(f"slices: {job} ...")
        import_module(f"jobs.{job}").run(context)
    context.spark.stop()
    samples: dict[str, np.ndarray] = {}
    for space in methods:
        for step in (segments, features, train):
            harness.log(f"slices: {step.__name__} of {space} ...")
            step.run(context, space)
        cohort = read_cohort(context, space, "test")
        bare = without_interactions(context, space, cohort)
        factory = method_factory(context, space, lambda *_: None)
        simulator = SimulatorLists(settings.simulate, catalogue(context).track_id_N)
        for name in (POPULARITY, SIMULATOR, *methods[space]):
            method = simulator if name == SIMULATOR else factory.build(name)
            samples[f"{space}/{name}"] = listener_ndcg(context, method, cohort)
            samples[f"{space}/{name}/{REMOVED}"] = listener_ndcg(context, method, bare)
            harness.log(f"slices: {space} {name}: {samples[f'{space}/{name}'].mean():.2f}")
        samples |= {f"{space}/slice/{name}": mask_B for name, mask_B in cohort.slices.items()}
    return Measurement([clock()], {}, samples)


def without_interactions(context: Any, space: str, cohort: Any) -> Any:
    """Return the cohort as if nothing but country and age were known of its listeners."""
    from jobs.cold_start.features import demographic_vectors
    from models.cold_start.input_vector import Entities, FirstDays, input_vectors

    days = FirstDays(cohort.days.country, cohort.days.age, {})
    d = context.lake.matrix("track_vectors", week=context.week.name, space=space).shape[1]
    kinds = ("song", "artist", "album", "playlist")
    no_entities = Entities(
        dict.fromkeys(kinds, np.empty(0, np.int64)), dict.fromkeys(kinds, np.empty((0, d), np.float32))
    )
    return replace(cohort, days=days, x_BF=input_vectors(days, no_entities, demographic_vectors(context, space)))


def slice_samples(samples: dict[str, np.ndarray], space: str, method: str, min_users: int) -> dict[str, np.ndarray]:
    """Return NDCG of the listeners of each slice with at least `min_users` listeners, by name of the slice."""
    ndcg_B = samples[f"{space}/{method}"]
    prefix = f"{space}/slice/"
    masks = {key.removeprefix(prefix): mask_B for key, mask_B in samples.items() if key.startswith(prefix)}
    values = {name: ndcg_B[mask_B] for name, mask_B in masks.items() if mask_B.sum() >= min_users}
    return {**values, REMOVED: samples[f"{space}/{method}/{REMOVED}"]}


def case(
    service: str, space: str, methods: tuple[str, ...], measurement: Measurement, peak_mib: float
) -> dict[str, Any]:
    """Return the case of one service and space: a row per slice; `worse` has the slices of each method."""
    from jobs.settings.cold_start import GateSettings
    from models.evaluation.experiments import adjust_holm
    from models.evaluation.paired import PairedDifference

    min_users = GateSettings().slice_min_users
    popularity = slice_samples(measurement.samples, space, POPULARITY, min_users)
    rows = {name: {"listeners": len(values), POPULARITY: values.mean()} for name, values in popularity.items()}
    worse: dict[str, list[str]] = {}
    for method in (*methods, SIMULATOR):
        ours = slice_samples(measurement.samples, space, method, min_users)
        differences = {name: PairedDifference.of(ours[name], popularity[name]) for name in popularity}
        p_values = adjust_holm({name: difference.p_not_worse for name, difference in differences.items()})
        worse[method] = [name for name, p_value in p_values.items() if p_value <= 0.05]
        for name, difference in differences.items():
            rows[name][method] = 1 + difference.change
    named = "; ".join(f"{method}: {', '.join(names)}" for method, names in worse.items() if names)
    about = (
        f"NDCG@{K} of Popularity in %, and ratios to it, by slice of the test listeners with at least {min_users}. "
        f"Worse than Popularity with 95 % confidence over all slices: {named or 'no method in any slice'}. "
        "Seconds and MiB are those of the whole service."
    )
    peers = harness.summaries(rows, measurement, peak_mib)
    return {"case": f"{service}, {space}", "about": about, "peers": peers, "ratios": {}, "worse": worse}


def targets(cases: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the targets: no slice below Popularity, and the gain of listeners without interactions."""
    promises = []
    for (service, space), one in cases.items():
        n_worse = sum(len(names) for method, names in one["worse"].items() if method != SIMULATOR)
        promises.append(
            harness.promise(f"{service}, {space}: slices worse than Popularity, all methods", 0, n_worse, at_most=True)
        )
        for name in (NONE, REMOVED):
            if name not in one["peers"]:
                continue
            ratio = one["peers"][name]["quality"]
            gain = (ratio["semi_pers"] - 1) / (ratio[SIMULATOR] - 1)
            what = f"{service}, {space}, {name}: gain of semi_pers over Popularity, as a share of the simulator's"
            promises.append(harness.promise(what, MIN_GAIN, gain))
    return promises


def main() -> None:
    """Run the services one after the other."""
    arguments = harness.parse_arguments("slices", (__doc__ or "").splitlines()[0], in_parts=True)
    services = {"quick": QUICK} if arguments.quick else SERVICES
    methods = {"tt_svd": ("semi_pers", "country_age", "blend")} if arguments.quick else METHODS
    cases = {}
    for service, update in services.items():
        peer = Peer(f"slices {service}", run_service, {"update": update, "methods": methods})
        measurement, peak_mib = harness.run_part(arguments.parts, peer)
        for space in SPACES:
            if space in methods:
                cases[service, space] = case(service, space, methods[space], measurement, peak_mib)
    worse = sum(len(names) for one in cases.values() for method, names in one["worse"].items() if method != SIMULATOR)
    promises = targets(cases)
    harness.write_result(arguments, list(cases.values()), promises, ("slices worse than Popularity", worse))


if __name__ == "__main__":
    main()
