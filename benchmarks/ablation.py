"""What each part of our own methods is worth on real playlists: the method without it, on the validation listeners.

Task    as in benchmarks/playlists.py, one seed, the space tt_svd; the test listeners are not looked at
Read    each row changes one thing of the method at the head of its group
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import harness
from harness import Answer, Peer, stopwatch
from playlists import K, learned

SEED, SPACE = 7, "tt_svd"
BLEND, MIXTURE, NEAREST = "blend", "segment_mixture_reranked", "near_segments"


def variants(context: Any, factory: Any) -> dict[str, dict[str, Callable[[], Any]]]:
    """How each row is built, by group."""
    from jobs.cold_start.train import training_set
    from models.cold_start.methods import SemiPers
    from models.cold_start.methods.autoencoder import FirstDayAutoencoder
    from models.cold_start.methods.blend import Blend, RerankedMixture
    from models.cold_start.methods.mixture import NearSegments, SegmentMixture
    from models.cold_start.methods.neighbours import Neighbours
    from models.cold_start.network import NetworkRecipe, fit, predict

    inputs, ours = factory.inputs, factory.inputs.in_house

    def blend(**changed: Any) -> Blend:
        recipe = replace(ours.autoencoder, **changed)
        return Blend(
            FirstDayAutoencoder(factory.warm, recipe, inputs.seed), factory.neighbours, ours.autoencoder_weight
        )

    def mixture(smoothing: float = ours.smoothing, **changed: Any) -> RerankedMixture:
        made = SegmentMixture(factory.warm, replace(ours.mixture, **changed), smoothing, inputs.seed)
        return RerankedMixture(made, factory.blend, ours.list_length, ours.mixture_weight)

    def by_tracks() -> Blend:
        recipe = replace(ours.neighbours, artist_weight=0.0, album_weight=0.0)
        return Blend(factory.autoencoder, Neighbours.fit(factory.warm, recipe), ours.autoencoder_weight)

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
            "hardly smoothed": lambda: NearSegments(inputs.predict, factory.warm, 0.1, ours.sharpness),
            "the nearest segment's list (semi_pers)": lambda: factory.build("semi_pers"),
            "semi_pers, counts as logarithms": log_counts,
        },
    }


def rows(data: str, quick: bool) -> Answer:
    """NDCG@50 of the validation listeners in %, by group/row."""
    from jobs.cold_start.evaluate import read_cohort
    from jobs.cold_start.methods import method_factory
    from models.cold_start.methods import recommend_lists
    from models.evaluation.metrics import score

    clock = stopwatch()
    context = learned(data, SEED, quick, (SPACE,))
    cohort, found = read_cohort(context, SPACE, "validation"), {}
    for group, made in variants(context, method_factory(context, SPACE, lambda *_: None)).items():
        for name, build in made.items():
            listed = recommend_lists(build(), cohort.x_BF, K, cohort.days, cohort.taken_BN)
            found[f"{group}: {name}"] = 100 * float(score(listed, cohort.truth, K)["ndcg"].mean())
            harness.say(f"  {group}: {name}: {found[f'{group}: {name}']:.2f}")
    return Answer([clock()], found)


def main() -> None:
    """One run, a row a variant."""
    files = "Spotify Million Playlist Dataset: playlist_track.parquet and track_uri_map.parquet"
    chosen = harness.options("ablation", (__doc__ or "").splitlines()[0], files, required=True)
    answer, peak = harness.alone(Peer("rows", rows, {"data": str(chosen.data), "quick": chosen.quick}))
    titles = {group: f"{group} without a part of it" for group in (BLEND, MIXTURE, NEAREST)}
    about = f"NDCG@{K} on the validation listeners, one seed."
    cases = harness.cases_by_group(answer, peak, titles, "NDCG, %", about, against="whole")
    harness.finish(chosen, cases, [], ("validation NDCG@50 of the blend, %", answer.quality[f"{BLEND}: whole"]))


if __name__ == "__main__":
    main()
