"""Sections of the cold-start engine: segments, networks, methods, evaluation, gate and drift monitor."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from contracts.demographics import MAX_AGE
from jobs.settings.base import Positive, Section, Share, Space
from models.cold_start.list_rules import Heard, ListRules

# models/cold_start/methods/registry.py builds the methods. Their names are repeated here, because a command that only
# reads settings must not import PyTorch; a test compares both.
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
    "country_age",
    "near_segments",
    "segment_mixture",
    "segment_mixture_reranked",
    "segment_mixture_ranked",
    "neighbours",
    "first_day_autoencoder",
    "blend",
    "ranked_candidates",
    "item_knn",
    "ease",
    "ials_fold_in",
]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
PEERS: tuple[MethodName, ...] = ("item_knn", "ease", "ials_fold_in")


class SegmentSettings(Section):
    """The k-means segments of warm users."""

    k: Positive = Field(1_000, description="number of segments")
    max_iter: Positive = Field(20, description="largest number of k-means iterations")
    n_init: Positive = Field(1, description="number of k-means runs with other seeds; the run of least inertia is used")
    ranking_length: Positive = Field(200, description="number of tracks in the ranking of a segment, and of a group")


class GroupSettings(Section):
    """Groups of warm listeners: segments, countries, age classes, and both. What a group has in common is published."""

    min_users: Positive = Field(
        10,
        description="listeners that a segment, a country or an age class needs to be published, and that each fact on "
        "a segment's card needs",
    )
    prior_users: float = Field(
        100.0,
        gt=0,
        description="country_age: listeners of the parent group that are added to each group: of the country for a "
        "country and an age class, of all listeners for a country and for an age class",
    )


class NetworkSettings(Section):
    """The network that predicts a listener's vector from first-day signals (paper, section 3.2.3)."""

    hidden: tuple[Positive, ...] = Field((400, 300, 200), description="widths of the hidden layers, in units")
    optimiser: Literal["sgd", "adam"] = Field("adam", description="optimiser of the training")
    learning_rate: float = Field(1e-5, gt=0, description="learning rate of the optimiser")
    epochs: Positive = Field(130, description="number of passes over the training users")
    batch_size: Positive = Field(512, description="users per training step")
    drop_last: bool = Field(True, description="skip the last batch of an epoch if it is smaller than batch_size")
    normalise_output: bool = Field(True, description="scale predictions to unit length")
    log_counts: bool = Field(
        False,
        description="an addition to the paper: counts enter as logarithms, and an unknown age as a flag instead of -1",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="device of the training; auto: a GPU if there is one"
    )
    holdout_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.05, description="share of warm users excluded from training to measure the loss on unseen users; the paper: 0"
    )


class DropoutNetSettings(Section):
    """The baseline DropoutNet. It is trained only if evaluation.methods contains it."""

    hidden: tuple[Positive, ...] = Field((800, 400), description="widths of the towers' hidden layers, in units")
    rank: Positive = Field(200, description="number of dimensions of the towers' outputs")
    dropout: float = Field(
        0.5, ge=0, lt=1, description="share of users, and of tracks, whose preference input is set to zero in a step"
    )
    epochs: Positive = Field(10, description="number of passes over the warm users")
    learning_rate: float = Field(0.05, gt=0, description="learning rate at the start of the training")
    batch_users: Annotated[int, Field(ge=2)] = Field(128, description="users per training step")
    batch_tracks: Annotated[int, Field(ge=2)] = Field(
        512, description="tracks per training step, the same for all its users"
    )


class MeluSettings(Section):
    """The baseline MeLU. It is trained only if evaluation.methods contains it."""

    embedding_dim: Positive = Field(64, description="number of dimensions of the user's and the track's embedding")
    hidden: Positive = Field(64, description="width of the two dense layers, in units")
    epochs: Positive = Field(20, description="number of passes over the warm users")
    learning_rate: float = Field(5e-4, gt=0, description="learning rate of Adam (the outer step)")
    inner_rate: float = Field(0.05, gt=0, description="learning rate of the one inner step towards a user")
    batch_users: Positive = Field(128, description="users per training step")
    support: Annotated[int, Field(ge=2, multiple_of=2)] = Field(
        10, description="tracks of a user's inner step, half of them streamed by the user"
    )
    query: Annotated[int, Field(ge=2, multiple_of=2)] = Field(
        10, description="tracks of the outer loss, half of them streamed by the user"
    )


class FirstDayNetworkSettings(Section):
    """An autoencoder over the tokens of a first day. It is trained only if evaluation.methods or the gate needs it."""

    width: Positive = Field(256, description="number of dimensions of a token's embedding")
    epochs: Positive = Field(25, description="number of passes over the warm users")
    learning_rate: float = Field(3e-3, gt=0, description="highest learning rate of the schedule")
    weight_decay: float = Field(0.02, ge=0, description="weight decay of the optimiser")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of the units that is set to zero in a training step")
    batch_users: Positive = Field(256, description="users per training step")
    real_share: Share = Field(
        0.25,
        description="share of real first days in training; the others are synthetic first days (data augmentation)",
    )


class MixtureSettings(FirstDayNetworkSettings):
    """A network that weights segments by the tokens of a first day, and the methods that use its tables."""

    epochs: Positive = Field(16, description="number of passes over the warm users")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of the units that is set to zero in a training step")
    smoothing: float = Field(
        20.0, gt=0, description="streams, distributed by popularity, that are added to the streams of each segment"
    )
    sharpness: float = Field(
        10.0, gt=0, description="near_segments: a segment's weight is exp(-sharpness * squared distance)"
    )
    list_length: Positive = Field(200, description="segment_mixture_reranked: tracks of the mixture that are reranked")
    mixture_weight: Share = Field(
        0.25,
        description="segment_mixture_reranked: weight of the mixture's score; the rest is the weight of the blend's",
    )


class NeighbourSettings(Section):
    """Tracks that are often streamed together with the tracks, artists and albums of a first day."""

    token_exponent: float = Field(
        0.7, ge=0, description="exponent of the number of listeners of a first-day token in the denominator"
    )
    track_exponent: float = Field(
        0.3, ge=0, description="exponent of the number of listeners of a recommended track in the denominator"
    )
    shrinkage: float = Field(5.0, ge=0, description="constant added to the denominator")
    artist_weight: float = Field(0.5, ge=0, description="weight of an artist's neighbours; a track's weight is 1")
    album_weight: float = Field(0.5, ge=0, description="weight of an album's neighbours; a track's weight is 1")
    max_neighbours: Positive = Field(1_000, description="number of neighbours that are stored for each token")


class RankerSettings(Section):
    """The learned ranker of ranked_candidates and segment_mixture_ranked.

    It is trained only if evaluation.methods or the gate needs it. Folds and queries come from a sample of the warm
    users, so its training has a bounded time and memory.
    """

    candidates: Positive = Field(200, description="tracks of a listener that are ranked")
    segment_smoothing: float = Field(
        5.0, gt=0, description="listeners, with the rates of all listeners, that are added to each segment"
    )
    max_listeners: Annotated[int, Field(ge=2)] = Field(
        20_000, description="warm users in the sample that the ranker is trained on"
    )
    folds: Annotated[int, Field(ge=2)] = Field(
        5, description="parts of the sample; the first stage that scores a part is trained on the others"
    )
    scored_folds: Positive = Field(
        2, description="parts that give training queries; each takes one more training of autoencoder and neighbours"
    )
    draws: Positive = Field(4, description="synthetic first days of each user of a scored part")
    min_tracks: Annotated[int, Field(ge=2)] = Field(15, description="streamed tracks that a user needs for a query")
    trees: Positive = Field(300, description="number of trees")
    leaves: Annotated[int, Field(ge=2)] = Field(31, description="leaves of a tree")
    learning_rate: float = Field(0.05, gt=0, description="learning rate of the boosting")
    min_leaf_rows: Positive = Field(200, description="candidates that a leaf needs")
    column_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of the features that each tree may use"
    )
    keep_weeks: Annotated[int, Field(ge=0)] = Field(
        3,
        description="weeks after its training in which the release keeps a ranker, if the settings of ranker and first "
        "stage are equal; the first stage is trained every week. 0: train the ranker every week",
    )

    @model_validator(mode="after")
    def _check_folds(self) -> Self:
        if self.scored_folds > self.folds:
            raise ValueError(f"scored_folds: must be at most folds ({self.folds}), got {self.scored_folds}")
        return self


class ListRulesSettings(Section):
    """Rules of lists. The gate, `evaluate` and the service apply them; a request may change most of them for itself."""

    per_artist: Positive | None = Field(
        3,
        description="limit of tracks of one artist in 50 places: each prefix of n places contains at most "
        "max(1, ceil(per_artist * n / 50)); null: no limit",
    )
    per_album: Positive | None = Field(3, description="limit of tracks of one album in 50 places, as per_artist")
    one_recording: bool = Field(
        True,
        description="each recording once a list: one track per recording_id, else per artist and title without notes "
        "such as (Remastered)",
    )
    heard: Heard = Field(
        "keep",
        description="tracks that the listener has heard: keep, leave_out, or only_new_artists, which leaves out all "
        "tracks of their artists too. leave_out is for data in which no track repeats",
    )
    min_explicit_age: Annotated[int, Field(ge=0, le=MAX_AGE)] | None = Field(
        18, description="age from which explicit tracks are recommended; null: from any age"
    )
    diversity: Share = Field(
        0.0, description="weight of the difference between the tracks of a list; 0: the order of the method"
    )
    max_shown: Positive | None = Field(
        5, description="displays after which a track that was never played goes to the end of the list; null: never"
    )

    def rules(self) -> ListRules:
        """Return the rules as the methods read them."""
        return ListRules(**self.model_dump())


class EvaluationSettings(Section):
    """How methods are evaluated."""

    methods: tuple[MethodName, ...] = Field(
        ("popularity", "registration_day_streams", "full_pers", "semi_pers"),
        description="methods that the weekly run evaluates; popularity is always evaluated; a backtest evaluates every "
        "method except item_knn, ease and ials_fold_in",
    )
    k: tuple[Positive, ...] = Field((50,), description="lengths of the evaluated lists, in tracks")
    similarity: Literal["dot", "cosine"] = Field(
        "cosine", description="score of a track's vector for a listener's vector"
    )
    n_bootstrap: Positive = Field(1_000, description="number of bootstrap resamples of users for intervals")
    min_slice_users: Positive = Field(30, description="users that a slice needs to be reported")

    @field_validator("methods")
    @classmethod
    def _with_popularity(cls, methods: tuple[MethodName, ...]) -> tuple[MethodName, ...]:
        """Return the methods in the order of METHODS, each once, with popularity."""
        return tuple(name for name in METHODS if name == "popularity" or name in methods)


class TrackIndexSettings(Section):
    """The approximate index of a large catalogue, for lists of the tracks nearest to a listener (full_pers)."""

    above_tracks: Positive = Field(
        100_000, description="tracks above which a release contains the index; up to it, lists are exact"
    )
    min_recall: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.99, description="smallest mean share of the exact list that the index must find, with bans and block list"
    )


class GateSettings(Section):
    """Rules that a release of the cold-start engine must pass."""

    space: Space = Field("tt_svd", description="space that the service uses")
    method: Literal["semi_pers", "full_pers", "blend", "ranked_candidates"] = Field(
        "semi_pers",
        description="method that the service uses; blend: fully personalised, autoencoder and neighbours; "
        "ranked_candidates: candidates of the blend and of segments, ordered by a learned ranker",
    )
    metric: Literal["precision", "recall", "ndcg"] = Field("ndcg", description="metric of the comparisons")
    k: Positive = Field(50, description="length of the compared lists, in tracks")
    parity_tolerance: float = Field(
        1e-4, gt=0, description="largest absolute difference between the outputs of ONNX and PyTorch"
    )
    margin_over_popularity: float = Field(
        0.05, ge=0, description="relative gain over Popularity that the low end of the interval must reach"
    )
    delta: float = Field(
        0.02,
        gt=0,
        description="largest accepted loss against champion and anchor, relative to their mean; a release passes if "
        "the lower 95 % bound excludes a larger one",
    )
    anchor_weeks: Positive = Field(
        12, description="weeks after which a person must confirm or move the anchor; until then its line is grey"
    )
    slice_min_users: Positive = Field(50, description="listeners that a slice needs to be compared with Popularity")
    pooled_weeks: Annotated[int, Field(ge=0)] = Field(
        4,
        description="weeks before, at most, whose evaluation listeners are added to a slice that has too few; each was "
        "evaluated with the release of its own week; 0: none",
    )
    required_slices: tuple[str, ...] = Field(
        (), description="slices that must be evaluated, such as age=18-24: with too few listeners the verdict is grey"
    )
    max_popularity_share: Share = Field(
        0.9, description="largest share of recommended places that the 1 % most popular tracks may take"
    )
    latency_ms: float | None = Field(
        None,
        gt=0,
        description="largest p99 of one answer of the method, in milliseconds; null: 15 for ranked_candidates, which "
        "has two stages, and 10 for other methods",
    )

    @property
    def max_latency_ms(self) -> float:
        """The bound of latency_ms in force."""
        return self.latency_ms or (15.0 if self.method == "ranked_candidates" else 10.0)

    def blended(self, space: str) -> bool:
        """Return whether a release contains the blend in this space; the ranker reads its scores."""
        return self.method in ("blend", "ranked_candidates") and space == self.space

    def ranked(self, space: str) -> bool:
        """Return whether a release contains the ranker in this space."""
        return self.method == "ranked_candidates" and space == self.space


class MonitorSettings(Section):
    """When the monitor reports that a feature of a week's new listeners has drifted. Both bounds must be exceeded."""

    psi_threshold: float = Field(
        0.25, gt=0, description="population stability index; usual reading: from 0.1 worth a look, from 0.25 drifted"
    )
    false_positive_rate: float = Field(
        0.001, gt=0, lt=0.5, description="probability of a report about a feature whose distribution is unchanged"
    )


class RealisedSettings(Section):
    """Realised quality of lists: the smallest number of listeners that each horizon needs for a number."""

    min_users_3d: Positive = Field(200, description="listeners that the horizon of 3 days needs to be measured")
    min_users_7d: Positive = Field(200, description="listeners that the horizon of 7 days needs to be measured")
    min_users_30d: Positive = Field(100, description="listeners that the horizon of 30 days needs to be measured")
