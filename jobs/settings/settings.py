"""Every number a person may want to change, read from one YAML file of configs/.

The file is chosen with `--config` or OVERTURE_CONFIG; state lives under OVERTURE_HOME.
One field can be set from the environment too: OVERTURE__SPARK__MASTER=spark://host:7077.
A wrong or unknown field is refused with its name before anything starts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from contracts.errors import BadArgument
from jobs.settings import renamed
from jobs.settings.base import Positive, Section, Share
from jobs.settings.cold_start import (
    DropoutNetSettings,
    EvaluationSettings,
    FirstDayNetworkSettings,
    MeluSettings,
    MixtureSettings,
    NeighbourSettings,
    NetworkSettings,
    PaperSettings,
    SegmentSettings,
)
from jobs.settings.experiments import ExperimentSettings
from jobs.settings.skip import SkipSettings
from serving.settings import ServiceSettings, StoreSettings

Space = Literal["ut_als", "tt_svd"]
SPACES: tuple[Space, ...] = ("tt_svd", "ut_als")
Engine = Literal["cold_start", "skip"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


class SparkSettings(Section):
    """How a session is made."""

    master: str = "local[2]"
    driver_memory: str = "2g"
    executor_memory: str = "1g"
    partitions: Positive = Field(4, description="shuffle partitions and blocks of users")
    extra: dict[str, str] = Field({}, description="handed to Spark as it stands")


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
    max_collection_length: Positive = Field(500, description="longer collections are cut to their first tracks")
    min_cooccurrences: Positive = 2
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


class CheckSettings(Section):
    """How data checks are run."""

    spark_min_mb: Annotated[int, Field(ge=0)] = Field(
        512, description="tables of at least so many MB of Parquet are measured on Spark, smaller ones in the process"
    )


class GateSettings(Section):
    """What a challenger must show."""

    space: Space = Field("tt_svd", description="the space that the service answers from")
    method: Literal["semi_pers", "full_pers", "blend"] = Field(
        "semi_pers",
        description="what the service answers with; blend: our own fully personalised best (models/cold_start/methods/blend.py)",
    )
    metric: Literal["precision", "recall", "ndcg"] = "ndcg"
    k: Positive = 50
    parity_tolerance: float = Field(1e-4, gt=0, description="largest difference of ONNX from the model")
    margin_over_popularity: float = Field(0.05, ge=0, description="relative")
    grey_zone: float = Field(0.02, ge=0, description="relative loss against the champion that a person may accept")
    max_loss: float = Field(
        0.1, gt=0, description="relative loss against the champion that fails even where the cohort cannot prove it"
    )
    slice_min_ratio: Share = Field(0.5, description="a slice may not fall below this share of Popularity in it")
    slice_min_users: Positive = 50
    max_popularity_share: Share = Field(0.9, description="recommended places taken by the 1 % most popular tracks")
    latency_ms: float = Field(10.0, gt=0, description="p99 of one answer of the method, from the input row on")

    def blended(self, space: str) -> bool:
        """Does a release hold the blend in this space?"""
        return self.method == "blend" and space == self.space


class MonitorSettings(Section):
    """When a week's newcomers count as others than the listeners of training."""

    psi_threshold: float = Field(0.25, gt=0, description="population stability index; 0.1: worth a look, 0.25: others")
    false_positive_rate: float = Field(
        0.001, gt=0, lt=0.5, description="how often chance alone may say so of a feature"
    )


@dataclass(frozen=True)
class MlflowNames:
    """The experiment and the registered model of a run's engine."""

    experiment: str
    registered_model: str


class MlflowEngineSettings(Section):
    """Names in MLflow of one engine."""

    weekly_experiment: str = Field(description="experiment of the weekly runs")
    daily_experiment: str = Field(description="experiment of the daily runs; it must differ from the weekly one")
    registered_model: str = Field(description="registered model; each release is one version of it")

    @model_validator(mode="after")
    def _separate_experiments(self) -> MlflowEngineSettings:
        if self.weekly_experiment == self.daily_experiment:
            raise ValueError(f"daily_experiment: must differ from weekly_experiment, both are {self.daily_experiment}")
        return self


class ColdStartMlflowSettings(MlflowEngineSettings):
    """Names in MLflow of the cold-start engine."""

    weekly_experiment: str = Field("cold_start_weekly", description="experiment of the weekly runs")
    daily_experiment: str = Field(
        "cold_users_daily",
        description="experiment of the daily placement of new users; it must differ from the weekly one",
    )
    registered_model: str = Field("cold_start", description="registered model; each release is one version of it")


class SkipMlflowSettings(MlflowEngineSettings):
    """Names in MLflow of the skip engine."""

    weekly_experiment: str = Field("skip_weekly", description="experiment of the weekly runs")
    daily_experiment: str = Field(
        "skip_daily", description="experiment of the daily updates; it must differ from the weekly one"
    )
    registered_model: str = Field("skip", description="registered model; each release is one version of it")


class MlflowSettings(Section):
    """The tracking server, and the names of experiments and registered models."""

    tracking_uri: str = Field(
        "",
        description="address of the tracking server; empty: MLFLOW_TRACKING_URI, else a database under OVERTURE_HOME",
    )
    monitor_experiment: str = Field("monitor_weekly", description="experiment of `overture monitor`")
    cold_start: ColdStartMlflowSettings = Field(ColdStartMlflowSettings(), description="names of the cold-start engine")
    skip: SkipMlflowSettings = Field(SkipMlflowSettings(), description="names of the skip engine")

    def names(self, engine: Engine, daily: bool) -> MlflowNames:
        """Return the names that an engine's run uses.

        Args:
            engine: `cold_start` or `skip`.
            daily: Whether it is a daily run. Both kinds of run share the registered model.
        """
        of_engine: MlflowEngineSettings = self.skip if engine == "skip" else self.cold_start
        experiment = of_engine.daily_experiment if daily else of_engine.weekly_experiment
        return MlflowNames(experiment, of_engine.registered_model)


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
    autoencoder: FirstDayNetworkSettings = FirstDayNetworkSettings()
    mixture: MixtureSettings = MixtureSettings()
    neighbours: NeighbourSettings = NeighbourSettings()
    autoencoder_weight: Share = Field(0.5, description="blend: share of the autoencoder, the rest is the neighbours'")
    checks: CheckSettings = CheckSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gate: GateSettings = GateSettings()
    monitor: MonitorSettings = MonitorSettings()
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
    """Read the settings from a YAML file and the environment.

    Args:
        path: The YAML file. Default: OVERTURE_CONFIG, else configs/demo.yaml.

    Raises:
        BadArgument: The file cannot be read, or a field is unknown, renamed or out of its bounds. The message names the
            file, the field and what is allowed.
    """
    file = path or Path(os.environ.get("OVERTURE_CONFIG", "configs/demo.yaml"))
    try:
        raw = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise BadArgument(f"settings: no such file {file}; choose one of configs/*.yaml with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadArgument(f"settings: {file} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise BadArgument(f"settings: {file} is not YAML: {error}") from None
    if not isinstance(raw, dict) or not all(isinstance(name, str) for name in raw):
        raise BadArgument(f"settings: {file} holds no names with values, such as `name: mine`")
    old_names = renamed.in_file(raw) + renamed.in_environment(os.environ)
    if old_names:
        raise BadArgument(f"settings: {file} uses old names\n" + "\n".join(f"  {message}" for message in old_names))
    try:
        return Settings(**raw)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise BadArgument(f"settings: {file}\n" + "\n".join(lines)) from None
