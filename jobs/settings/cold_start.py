"""Sections of configs/*.yaml for what is learned about a first day: segments, networks, methods, and their judging."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from jobs.settings.base import Positive, Section, Share

# models/cold_start/methods/registry.py builds them; naming them here keeps PyTorch out of what only reads settings.
MethodName = Literal[
    "popularity",
    "registration_day_streams",
    "registration_day_streams_no_fallback",
    "input_features_clustering",
    "dropoutnet_full",
    "dropoutnet_semi",
    "melu_full",
    "melu_semi",
    "full_pers",
    "semi_pers",
    "near_segments",
    "segment_mixture",
    "segment_mixture_reranked",
    "neighbours",
    "first_day_autoencoder",
    "blend",
    "item_knn",
    "ease",
    "ials_fold_in",
]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
PEERS: tuple[MethodName, ...] = ("item_knn", "ease", "ials_fold_in")


class SegmentSettings(Section):
    """k-means segments of warm users."""

    k: Positive = 1_000
    max_iter: Positive = 20
    n_init: Positive = 1
    ranking_length: Positive = Field(200, description="tracks kept in a segment's ranking")
    card_min_users: Positive = Field(10, description="fewest listeners behind anything that a segment's card tells")


class NetworkSettings(Section):
    """The network over first-day signals; reference/paper section 3.2.3."""

    hidden: tuple[Positive, ...] = (400, 300, 200)
    optimiser: Literal["sgd", "adam"] = "adam"
    learning_rate: float = Field(1e-5, gt=0)
    epochs: Positive = 130
    batch_size: Positive = 512
    drop_last: bool = True
    normalise_output: bool = True
    log_counts: bool = Field(
        False, description="our own addition: counts as logarithms, and an unknown age as a flag instead of -1"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    holdout_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.05, description="share of warm users kept out of training to show the loss on unseen ones; the paper: 0"
    )


class DropoutNetSettings(Section):
    """The baseline DropoutNet (models/cold_start/methods/dropoutnet.py); trained only where evaluation.methods asks for it."""

    hidden: tuple[Positive, ...] = (800, 400)
    rank: Positive = 200
    dropout: float = Field(0.5, ge=0, lt=1, description="share of users, and of tracks, whose preference is hidden")
    epochs: Positive = 10
    learning_rate: float = Field(0.05, gt=0)
    batch_users: Annotated[int, Field(ge=2)] = 128
    batch_tracks: Annotated[int, Field(ge=2)] = Field(512, description="tracks that a batch of users is scored on")


class MeluSettings(Section):
    """The baseline MeLU (models/cold_start/methods/melu.py); trained only where evaluation.methods asks for it."""

    embedding_dim: Positive = 64
    hidden: Positive = Field(64, description="width of the two dense layers")
    epochs: Positive = 20
    learning_rate: float = Field(5e-4, gt=0)
    inner_rate: float = Field(0.05, gt=0, description="of the one step towards a listener")
    batch_users: Positive = 128
    support: Annotated[int, Field(ge=2, multiple_of=2)] = Field(10, description="tracks of a user's step, half heard")
    query: Annotated[int, Field(ge=2, multiple_of=2)] = Field(10, description="tracks of the loss, half heard")


class FirstDayNetworkSettings(Section):
    """A network over first-day tokens (models/cold_start/methods/first_day_network.py); trained only where evaluation.methods asks for it."""

    width: Positive = 256
    epochs: Positive = 25
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    dropout: float = Field(0.5, ge=0, lt=1)
    batch_users: Positive = 256
    real_share: Share = Field(0.25, description="share of first days learned from as they were; the rest is made up")


class MixtureSettings(FirstDayNetworkSettings):
    """Segments mixed by a network (models/cold_start/methods/mixture.py), and its list ordered by the blend."""

    epochs: Positive = 16
    dropout: float = Field(0.3, ge=0, lt=1)
    smoothing: float = Field(20.0, gt=0, description="streams by popularity that are added to those of a segment")
    sharpness: float = Field(10.0, gt=0, description="near_segments: weight exp(-sharpness * squared distance)")
    list_length: Positive = Field(200, description="segment_mixture_reranked: tracks that the blend may order")
    mixture_weight: Share = Field(0.25, description="segment_mixture_reranked: share of the mixture's own score")


class NeighbourSettings(Section):
    """Neighbours of first-day tracks, artists and albums (models/cold_start/methods/neighbours.py)."""

    token_exponent: float = Field(0.7, ge=0)
    track_exponent: float = Field(0.3, ge=0)
    shrinkage: float = Field(5.0, ge=0)
    artist_weight: float = Field(0.5, ge=0, description="weight of an artist's neighbours; a track's is 1")
    album_weight: float = Field(0.5, ge=0)
    max_neighbours: Positive = Field(1_000, description="neighbours kept of each")


class EvaluationSettings(Section):
    """How methods are judged."""

    methods: tuple[MethodName, ...] = Field(
        ("popularity", "registration_day_streams", "full_pers", "semi_pers"),
        description="what the weekly run judges, popularity always; a backtest judges every method but the peers",
    )
    k: tuple[Positive, ...] = (50,)
    similarity: Literal["dot", "cosine"] = "cosine"
    leave_out_first_day: bool = Field(
        False, description="take first-day streams out of every list: for data in which no track comes twice"
    )
    n_bootstrap: Positive = 1_000
    min_slice_users: Positive = Field(30, description="smaller slices are not reported")

    @field_validator("methods")
    @classmethod
    def _with_popularity(cls, methods: tuple[MethodName, ...]) -> tuple[MethodName, ...]:
        """Each once, in one order, popularity first."""
        return tuple(name for name in METHODS if name == "popularity" or name in methods)


class PaperSettings(Section):
    """`overture paper`: the experiment of Briand et al. 2021 on their public files."""

    recipe: Literal["paper", "code"] = Field(
        "code",
        description="paper: section 3.2.3 (SGD, raw output); code: the authors' published code (Adam, unit length)",
    )
    epochs: Positive | None = Field(None, description="null: as many as the recipe says")
    similarity: Literal["dot", "cosine"] = Field(
        "cosine", description="of fully personalised lists: the paper says cosine, its code takes the dot product"
    )
    segments: Positive = 1_000
    max_iter: Positive = 20
    n_init: Positive = 1
    k: Positive = Field(50, description="length of the lists that are judged")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    card_min_users: Positive = Field(
        20, description="smaller segments are not described: too few people stand behind them"
    )
    experiment: str = Field("paper", description="MLflow experiment of these runs")
