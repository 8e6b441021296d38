"""Measure the contribution of each part of this project's methods on real playlists, on the validation listeners.

Task    as in benchmarks/playlists.py, with one seed and the space tt_svd; the test listeners are not used
Rows    each row changes one thing in the method of the first row of its group
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import harness
from harness import Measurement, Peer, stopwatch
from playlists import K, ndcg_of, prepare_week

SEED, SPACE = 7, "tt_svd"
BLEND, MIXTURE, NEAREST = "blend", "segment_mixture_reranked", "near_segments"


def variants(context: Any, factory: Any) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return the builder of each row, by group and name."""
    from jobs.cold_start.train import training_set
    from models.cold_start.methods import SemiPers
    from models.cold_start.methods.autoencoder import FirstDayAutoencoder
    from models.cold_start.methods.blend import Blend, RerankedMixture
    from models.cold_start.methods.mixture import NearSegments, SegmentMixture
    from models.cold_start.methods.neighbours import Neighbours
    from models.cold_start.network import NetworkRecipe, fit, predict

    inputs, in_house = factory.inputs, factory.inputs.in_house

    def blend(**changes: Any) -> Blend:
        recipe = replace(in_house.autoencoder, **changes)
        return Blend(
            FirstDayAutoencoder(factory.warm, recipe, inputs.seed), factory.neighbours, in_house.autoencoder_weight
        )

    def mixture(smoothing: float = in_house.smoothing, **changes: Any) -> RerankedMixture:
        base_mixture = SegmentMixture(factory.warm, replace(in_house.mixture, **changes), smoothing, inputs.seed)
        return RerankedMixture(base_mixture, factory.blend, in_house.list_length, in_house.mixture_weight)

    def by_tracks() -> Blend:
        recipe = replace(in_house.neighbours, artist_weight=0.0, album_weight=0.0)
        return Blend(factory.autoencoder, Neighbours.fit(factory.warm, recipe), in_house.autoencoder_weight)

    def log_counts() -> SemiPers:
        settings = context.settings.network.model_dump(exclude={"holdout_share"})
        recipe = NetworkRecipe(**{**settings, "log_counts": True})
        net = fit(*training_set(context, SPACE), recipe, context.seed(f"network/{SPACE}"))
        return SemiPers(lambda x_BF: predict(net, x_BF), inputs.centroids_KD, inputs.rankings_KL)

    return {
        BLEND: {
            "whole": lambda: factory.blend,
            "autoencoder alone": lambda: factory.autoencoder,
            "neighbours alone": lambda: factory.neighbours,
            "autoencoder sees no artists and albums": lambda: blend(kinds=("track", "country", "age")),
            "neighbours of tracks alone": by_tracks,
            "first days as they were, none made up": lambda: blend(real_share=1.0),
            "a quarter of first days as they were": lambda: blend(real_share=0.25),
            "embeddings start from noise, not from the space": lambda: blend(from_vectors=False),
            "mean of the tokens": lambda: blend(size_exponent=1.0),
            "sum of the tokens": lambda: blend(size_exponent=0.0),
        },
        MIXTURE: {
            "whole": lambda: factory.build(MIXTURE),
            "in the mixture's own order": lambda: factory.mixture,
            "small segments hardly smoothed": lambda: mixture(smoothing=0.1),
            "first days as they were, none made up": lambda: mixture(real_share=1.0),
        },
        NEAREST: {
            "whole": lambda: factory.build(NEAREST),
            "hardly smoothed": lambda: NearSegments(inputs.predict, factory.warm, 0.1, in_house.sharpness),
            "the nearest segment's list (semi_pers)": lambda: factory.build("semi_pers"),
            "semi_pers, counts as logarithms": log_counts,
        },
    }


def rows(data: str, quick: bool) -> Measurement:
    """Return NDCG@50 of the validation listeners in %, by group and row."""
    from jobs.cold_start.evaluate import read_cohort
    from jobs.cold_start.methods import method_factory

    clock = stopwatch()
    context = prepare_week(data, SEED, quick, (SPACE,))
    cohort, ndcg_by_name = read_cohort(context, SPACE, "validation"), {}
    for group, builders in variants(context, method_factory(context, SPACE, lambda *_: None)).items():
        for name, build in builders.items():
            ndcg_by_name[f"{group}: {name}"] = ndcg_of(context, build(), cohort)
            harness.log(f"  {group}: {name}: {ndcg_by_name[f'{group}: {name}']:.2f}")
    return Measurement([clock()], ndcg_by_name)


def main() -> None:
    """Measure all variants in one run."""
    data_help = "Spotify Million Playlist Dataset: playlist_track.parquet and track_uri_map.parquet"
    arguments = harness.parse_arguments("ablation", (__doc__ or "").splitlines()[0], data_help, required=True)
    measurement, peak = harness.run_in_process(
        Peer("rows", rows, {"data": str(arguments.data), "quick": arguments.quick})
    )
    titles = {group: f"{group} without a part of it" for group in (BLEND, MIXTURE, NEAREST)}
    about = f"NDCG@{K} on the validation listeners, one seed."
    cases = harness.cases_by_group(measurement, peak, titles, "NDCG, %", about, against="whole")
    harness.write_result(
        arguments, cases, [], ("validation NDCG@50 of the blend, %", measurement.quality[f"{BLEND}: whole"])
    )


if __name__ == "__main__":
    main()
