"""Every number a person may want to change, read from one YAML file of configs/.

The file is chosen with `--config` or OVERTURE_CONFIG; state lives under OVERTURE_HOME.
One field can be set from the environment too: OVERTURE__SPARK__MASTER=spark://host:7077.
A wrong or unknown field is refused with its name before anything starts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from jobs.errors import BadArgument
from jobs.skip.settings import SkipSettings
from serving.settings import Experiment, Name, ServiceSettings, StoreSettings

Space = Literal["ut_als", "tt_svd"]
SPACES: tuple[Space, ...] = ("tt_svd", "ut_als")
Engine = Literal["cold_start", "skip"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
# models/methods/registry.py builds them; naming them here keeps PyTorch out of what only reads settings.
MethodName = Literal[
    "popularity", "registration_day_streams", "registration_day_streams_no_fallback", "input_features_clustering",
    "dropoutnet_full", "dropoutnet_semi", "melu_full", "melu_semi", "full_pers", "semi_pers",
    "near_segments", "segment_mixture", "segment_mixture_reranked", "neighbours", "first_day_autoencoder", "blend",
    "item_knn", "ease", "ials_fold_in",
]  # fmt: skip
METHODS: tuple[MethodName, ...] = get_args(MethodName)
PEERS: tuple[MethodName, ...] = ("item_knn", "ease", "ials_fold_in")
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A frozen part of the settings that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SparkSettings(Section):
    """How a session is made; `extra` is handed to Spark as it stands."""

    master: str = "local[2]"
    driver_memory: str = "2g"
    executor_memory: str = "1g"
    partitions: Positive = Field(4, description="shuffle partitions and blocks of users")
    extra: dict[str, str] = {}


class SimulateSettings(Section):
    """The made-up service. Same seed and sizes, same bytes."""

    n_users: Positive = 12_000
    n_tracks: Positive = 4_000
    n_playlists: Positive = 3_000
    first_day: str = "2026-06-29"
    last_day: str = Field("2026-11-22", description="last day with events, included")
    chunk_users: Positive = Field(50_000, description="users held in memory at once; bounds the peak")
    seed: int = 7


class SourceSettings(Section):
    """Where the first four tables come from."""

    kind: Literal["simulate", "mpd", "lastfm_1k", "deezer", "dsg17"] = Field(
        "simulate",
        description="deezer: the public files enter after the spaces; `overture paper` reads them; dsg17: skip engine",
    )
    seed: int = 7
    max_bad_share: Share = Field(0.01, description="more unreadable lines than this stop the run")
    catalogue_tracks: Positive = Field(20_000, description="mpd: most frequent tracks of warm playlists")
    min_playlist_tracks: Positive = Field(15, description="mpd: catalogue tracks that a cold playlist needs")
    song_md5: str = Field(
        "",
        pattern="^([0-9a-f]{32})?$",
        description="deezer: md5 of song_embeddings.parquet as its publisher states it; another one warns",
    )


class AffinityWeights(Section):
    """What each signal adds to the affinity of a user for a track (paper 3.1.1)."""

    stream: float = 1.0
    favorite_track: float = 5.0
    favorite_album: float = 2.0
    favorite_artist: float = 1.0
    skip: float = -0.5
    ban: float = -10.0


class MatrixSettings(Section):
    """Who is warm, which tracks are in, and what is counted."""

    window_days: Positive = 90
    n_catalog: Positive = 50_000
    min_tracks: Positive = Field(20, description="distinct catalogue tracks that make a user warm")
    min_truth_tracks: Positive = Field(50, description="distinct tracks a cohort user must have heard on days 1-30")
    weights: AffinityWeights = AffinityWeights()
    max_collection: Positive = Field(500, description="longer collections are cut to their first tracks")
    min_together: Positive = 2
    max_neighbours: Positive = Field(2_000, description="strongest neighbours kept of each track")
    smoothing: float = Field(1.0, gt=0, le=1, description="exponent of the context counts; 1 = plain PMI")
    shift: float = Field(0.0, ge=0, description="nats taken off each PMI")


class AlsSettings(Section):
    """Implicit-feedback ALS (Hu, Koren, Volinsky 2008)."""

    d: Positive = 256
    iterations: Positive = 15
    cg_steps: Positive = 3
    alpha: float = Field(10.0, gt=0, description="confidence = 1 + alpha * affinity")
    regularisation: float = Field(20.0, gt=0)
    frequency_exponent: float = Field(
        0.0, ge=0, le=1, description="regularisation grows with (number of entries)^this; 0: the same for all"
    )
    tolerance: float = Field(1e-3, ge=0, description="stop when the loss falls by a smaller share")
    warm_start: bool = Field(False, description="start from last week's tracks; weeks must then be run in order")


class SvdSettings(Section):
    """Randomised SVD (Halko, Martinsson, Tropp 2011)."""

    d: Positive = 128
    oversampling: Positive = 30
    power_iterations: Annotated[int, Field(ge=0)] = Field(
        3, description="more lower the error of sigma where the spectrum falls slowly; benchmarks/README.md measures it"
    )
    exponent: float = Field(0.5, ge=0, le=1, description="tracks are rows of U * S^p")


class SegmentSettings(Section):
    """k-means segments of warm users."""

    k: Positive = 1_000
    max_iter: Positive = 20
    n_init: Positive = 1
    ranking: Positive = Field(200, description="tracks kept in a segment's ranking")
    card_floor: Positive = Field(10, description="fewest listeners behind anything that a segment's card tells")


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
    holdout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.05, description="share of warm users kept out of training to show the loss on unseen ones; the paper: 0"
    )


class DropoutNetSettings(Section):
    """The baseline DropoutNet (models/methods/dropoutnet.py); trained only where evaluation.methods asks for it."""

    hidden: tuple[Positive, ...] = (800, 400)
    rank: Positive = 200
    dropout: float = Field(0.5, ge=0, lt=1, description="share of users, and of tracks, whose preference is hidden")
    epochs: Positive = 10
    learning_rate: float = Field(0.05, gt=0)
    batch_users: Annotated[int, Field(ge=2)] = 128
    batch_tracks: Annotated[int, Field(ge=2)] = Field(512, description="tracks that a batch of users is scored on")


class MeluSettings(Section):
    """The baseline MeLU (models/methods/melu.py); trained only where evaluation.methods asks for it."""

    embedding: Positive = 64
    hidden: Positive = Field(64, description="width of the two dense layers")
    epochs: Positive = 20
    learning_rate: float = Field(5e-4, gt=0)
    inner_rate: float = Field(0.05, gt=0, description="of the one step towards a listener")
    batch_users: Positive = 128
    support: Annotated[int, Field(ge=2, multiple_of=2)] = Field(10, description="tracks of a user's step, half heard")
    query: Annotated[int, Field(ge=2, multiple_of=2)] = Field(10, description="tracks of the loss, half heard")


class BagSettings(Section):
    """A network over first-day tokens (models/methods/bag.py); trained only where evaluation.methods asks for it."""

    width: Positive = 256
    epochs: Positive = 25
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    dropout: float = Field(0.5, ge=0, lt=1)
    batch_users: Positive = 256
    as_they_were: Share = Field(0.25, description="share of first days learned from as they were; the rest is made up")


class MixtureSettings(BagSettings):
    """Segments mixed by a network (models/methods/mixture.py), and its list ordered by the blend."""

    epochs: Positive = 16
    dropout: float = Field(0.3, ge=0, lt=1)
    smoothing: float = Field(20.0, gt=0, description="streams by popularity that are added to those of a segment")
    sharpness: float = Field(10.0, gt=0, description="near_segments: weight exp(-sharpness * squared distance)")
    list_length: Positive = Field(200, description="segment_mixture_reranked: tracks that the blend may order")
    own_share: Share = Field(0.25, description="segment_mixture_reranked: share of the mixture's own score")


class NeighbourSettings(Section):
    """Neighbours of first-day tracks, artists and albums (models/methods/neighbours.py)."""

    token_exponent: float = Field(0.7, ge=0)
    track_exponent: float = Field(0.3, ge=0)
    shrinkage: float = Field(5.0, ge=0)
    artist: float = Field(0.5, ge=0, description="weight of an artist's neighbours; a track's is 1")
    album: float = Field(0.5, ge=0)
    most: Positive = Field(1_000, description="neighbours kept of each")


class CheckSettings(Section):
    """How data checks are run."""

    spark_from_mb: Annotated[int, Field(ge=0)] = Field(
        512, description="tables of at least so many MB of Parquet are measured on Spark, smaller ones in the process"
    )


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
    bootstrap: Positive = 1_000
    min_slice: Positive = Field(30, description="smaller slices are not reported")

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
    min_described: Positive = Field(
        20, description="smaller segments are not described: too few people stand behind them"
    )
    experiment: str = Field("paper", description="MLflow experiment of these runs")


class GateSettings(Section):
    """What a challenger must show."""

    space: Space = Field("tt_svd", description="the space that the service answers from")
    method: Literal["semi_pers", "full_pers", "blend"] = Field(
        "semi_pers",
        description="what the service answers with; blend: our own fully personalised best (models/methods/blend.py)",
    )
    metric: Literal["precision", "recall", "ndcg"] = "ndcg"
    k: Positive = 50
    parity: float = Field(1e-4, gt=0, description="largest difference of ONNX from PyTorch on the cohort")
    margin_over_popularity: float = Field(0.05, ge=0, description="relative")
    grey_zone: float = Field(0.02, ge=0, description="relative loss against the champion that a person may accept")
    max_loss: float = Field(
        0.1, gt=0, description="relative loss against the champion that fails even where the cohort cannot prove it"
    )
    slice_floor: Share = Field(0.5, description="a slice may not fall below this share of Popularity in it")
    slice_min_users: Positive = 50
    max_popularity_share: Share = Field(0.9, description="recommended places taken by the 1 % most popular tracks")
    latency_ms: float = Field(10.0, gt=0, description="p99 of one answer of the method, from the input row on")

    def blended(self, space: str) -> bool:
        """Does a release hold the blend in this space?"""
        return self.method == "blend" and space == self.space


class ExperimentSettings(Experiment):
    """An A/B test as it is planned; `overture ab-plan` registers it, `service.experiment` lets the service run it."""

    hypothesis: str = "The semi-personalised lists are streamed more often than those of the former system"
    control: Name = Field("default", description="the arm that the others are compared with")
    metric: Literal["stream", "favorite"] = Field("stream", description="decides; the other one is reported beside it")
    alpha: float = Field(0.01, gt=0, lt=0.5, description="two-sided, over all comparisons (Holm); the paper: 1 %")
    power: float = Field(0.9, ge=0.5, lt=1)
    baseline_rate: float = Field(0.045, gt=0, lt=1, description="of the control, as far as it is known beforehand")
    min_effect: float = Field(0.25, gt=0, description="smallest relative effect that the test must find")
    displays_per_user: float = Field(24.0, gt=0, description="tracks that a listener is shown over the whole test")
    design_effect: float = Field(2.5, ge=1, description="variance against displays that do not hang together")
    within_hours: Annotated[int, Field(gt=0, le=168)] = Field(24, description="an outcome counts so long after")
    sample_ratio_alpha: float = Field(0.001, gt=0, lt=1, description="below: listeners got lost in some arm")
    min_effective_users: Positive = Field(300, description="off-policy estimates that rest on fewer are refused")
    max_weight: float = Field(1_000.0, gt=1, description="off-policy weights are cut to this; what it costs is told")
    tracking: str = Field("ab_tests", description="MLflow experiment of these runs")

    @model_validator(mode="after")
    def _can_be_tested(self) -> ExperimentSettings:
        if self.control not in {arm.name for arm in self.arms}:
            raise ValueError(f"control: no arm {self.control}")
        if self.baseline_rate * (1 + self.min_effect) >= 1:
            raise ValueError(f"min_effect: a rate of {self.baseline_rate} cannot grow by {self.min_effect:.0%}")
        return self


class MlflowSettings(Section):
    """Tracking server; empty = a database under OVERTURE_HOME."""

    tracking_uri: str = ""
    experiment: str = "cold_start_weekly"
    daily_experiment: str = Field("cold_users_daily", description="of the daily runs; must not be the weekly one")
    registered_model: str = "cold_start"
    skip_experiment: str = "skip_weekly"
    skip_daily_experiment: str = Field("skip_daily", description="of the skip engine's daily updates")
    skip_model: str = "skip"


class Settings(BaseSettings):
    """All of it; the environment wins over the file."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="OVERTURE__", env_nested_delimiter="__")

    name: str
    week: str = Field(description="the week that `make demo` runs")
    seed: int = 7
    lake: str = Field("", description="root of all tables; empty = OVERTURE_HOME/lake; any URI pyarrow and Spark know")
    spark: SparkSettings = SparkSettings()
    simulate: SimulateSettings = SimulateSettings()
    source: SourceSettings = SourceSettings()
    matrix: MatrixSettings = MatrixSettings()
    als: AlsSettings = AlsSettings()
    svd: SvdSettings = SvdSettings()
    segments: SegmentSettings = SegmentSettings()
    network: NetworkSettings = NetworkSettings()
    dropoutnet: DropoutNetSettings = DropoutNetSettings()
    melu: MeluSettings = MeluSettings()
    autoencoder: BagSettings = BagSettings()
    mixture: MixtureSettings = MixtureSettings()
    neighbours: NeighbourSettings = NeighbourSettings()
    blend_share: Share = Field(0.5, description="blend: share of the autoencoder, the rest is the neighbours'")
    checks: CheckSettings = CheckSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gate: GateSettings = GateSettings()
    paper: PaperSettings = PaperSettings()
    skip: SkipSettings = SkipSettings()
    mlflow: MlflowSettings = MlflowSettings()
    service: ServiceSettings = ServiceSettings()
    experiment: ExperimentSettings = ExperimentSettings()
    store: StoreSettings = StoreSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then the YAML file."""
        return env_settings, init_settings

    def d(self, space: Space) -> int:
        """Width of a space."""
        return self.als.d if space == "ut_als" else self.svd.d


def home() -> Path:
    """The one folder that holds all state."""
    return Path(os.environ.get("OVERTURE_HOME", ".overture")).absolute()


def load(path: Path | None = None) -> Settings:
    """Read the chosen YAML; errors name the file, the field and what is allowed."""
    file = path or Path(os.environ.get("OVERTURE_CONFIG", "configs/demo.yaml"))
    try:
        raw = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise BadArgument(f"settings: no such file {file}; choose one of configs/*.yaml with --config") from None
    except yaml.YAMLError as error:
        raise BadArgument(f"settings: {file} is not YAML: {error}") from None
    try:
        return Settings(**(raw or {}))
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise BadArgument(f"settings: {file}\n" + "\n".join(lines)) from None
