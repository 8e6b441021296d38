"""All settings of the jobs, read from one YAML file of configs/.

`--config` or OVERTURE_CONFIG chooses the file. An environment variable overrides one field, for example
OVERTURE__SPARK__MASTER=spark://host:7077. An unknown field or a wrong value ends the command before it does anything.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from contracts.errors import BadArgument
from jobs.settings import renamed
from jobs.settings.base import Share, Space
from jobs.settings.cold_start import (
    DropoutNetSettings,
    EvaluationSettings,
    FirstDayNetworkSettings,
    GateSettings,
    GroupSettings,
    ListRulesSettings,
    MeluSettings,
    MixtureSettings,
    MonitorSettings,
    NeighbourSettings,
    NetworkSettings,
    RankerSettings,
    RealisedSettings,
    SegmentSettings,
    TrackIndexSettings,
)
from jobs.settings.experiments import ExperimentSettings
from jobs.settings.matrix import AlsSettings, MatrixSettings, NewReleaseSettings, SvdSettings
from jobs.settings.paper import PaperSettings
from jobs.settings.platform import CheckSettings, MlflowSettings, ReleaseSettings, SparkSettings
from jobs.settings.skip import SkipSettings
from jobs.settings.source import SimulateSettings, SourceSettings
from jobs.settings.yaml_keys import UniqueKeyLoader
from serving.settings import ProfileSettings, ServiceSettings, StoreSettings


class Settings(BaseSettings):
    """All settings. An environment variable wins over the file, the file over the default."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=renamed.PREFIX, env_nested_delimiter="__")

    name: str = Field(description="name of this file's settings, for MLflow")
    week: str = Field(description="the week that `make demo` runs: a Monday, YYYY-MM-DD")
    seed: int = Field(7, description="seed of the jobs; each use derives its own seed from it, the week and a name")
    lake: str = Field(
        "",
        description="root of all tables: a folder or a URI that PyArrow and Spark support; empty: OVERTURE_HOME/lake",
    )
    spark: SparkSettings = SparkSettings()
    simulate: SimulateSettings = SimulateSettings()
    source: SourceSettings = SourceSettings()
    matrix: MatrixSettings = MatrixSettings()
    new_releases: NewReleaseSettings = NewReleaseSettings()
    als: AlsSettings = AlsSettings()
    svd: SvdSettings = SvdSettings()
    segments: SegmentSettings = SegmentSettings()
    groups: GroupSettings = GroupSettings()
    network: NetworkSettings = NetworkSettings()
    dropoutnet: DropoutNetSettings = DropoutNetSettings()
    melu: MeluSettings = MeluSettings()
    autoencoder: FirstDayNetworkSettings = FirstDayNetworkSettings()
    mixture: MixtureSettings = MixtureSettings()
    neighbours: NeighbourSettings = NeighbourSettings()
    autoencoder_weight: Share = Field(
        0.5, description="blend: weight of the autoencoder's score; the rest is the weight of the neighbours' score"
    )
    ranker: RankerSettings = RankerSettings()
    checks: CheckSettings = CheckSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    rules: ListRulesSettings = ListRulesSettings()
    track_index: TrackIndexSettings = TrackIndexSettings()
    gate: GateSettings = GateSettings()
    monitor: MonitorSettings = MonitorSettings()
    realised: RealisedSettings = RealisedSettings()
    paper: PaperSettings = PaperSettings()
    skip: SkipSettings = SkipSettings()
    mlflow: MlflowSettings = MlflowSettings()
    release: ReleaseSettings = ReleaseSettings()
    service: ServiceSettings = ServiceSettings()
    experiment: ExperimentSettings = ExperimentSettings()
    store: StoreSettings = StoreSettings()
    profile: ProfileSettings = ProfileSettings()

    @field_validator("lake")
    @classmethod
    def _check_lake(cls, lake: str) -> str:
        if wrong := pattern_characters(lake):
            raise ValueError(f"Spark does not take {wrong} in a path literally; choose a root without")
        return lake

    @model_validator(mode="after")
    def _check_lengths(self) -> Settings:
        """Refuse lists that are longer than the rankings they come from, or than the catalogue."""
        limits = {"segments.ranking_length": self.segments.ranking_length, "matrix.n_catalog": self.matrix.n_catalog}
        for name, k in (("evaluation.k", max(self.evaluation.k, default=0)), ("gate.k", self.gate.k)):
            for limit, longest in limits.items():
                if k > longest:
                    raise ValueError(f"{name}: lists of {k} tracks are longer than {limit} ({longest})")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in the order of precedence: the environment, then the YAML file."""
        return env_settings, init_settings

    def d(self, space: Space) -> int:
        """Return the number of dimensions of a space's vectors."""
        return self.als.d if space == "ut_als" else self.svd.d


def home() -> Path:
    """Return the folder of all state: OVERTURE_HOME, else .overture in the working directory.

    Raises:
        BadArgument: The path contains a character that Spark does not take literally.
    """
    folder = Path(os.environ.get("OVERTURE_HOME", ".overture")).absolute()
    if wrong := pattern_characters(str(folder), "[]{}*?\\,"):  # Spark's list of local folders has commas
        raise BadArgument(
            f"OVERTURE_HOME: Spark does not take {wrong} in a path literally: {folder}; set OVERTURE_HOME to a folder "
            "without (spaces and accents are fine)"
        )
    return folder


def pattern_characters(path: str, characters: str = "[]{}*?\\") -> str:
    """Return those of some characters that a path contains, and control characters, as text; empty if there are none.

    Args:
        path: A path or URI that Spark reads and writes. By default Spark expands the characters as a pattern.
        characters: The characters.
    """
    return " ".join(dict.fromkeys(repr(c)[1:-1] for c in path if c in characters or not c.isprintable()))


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
        raw = yaml.load(file.read_text(), Loader=UniqueKeyLoader)  # a subclass of SafeLoader
    except FileNotFoundError:
        raise BadArgument(f"settings: no such file {file}; choose one of configs/*.yaml with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadArgument(f"settings: {file} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise BadArgument(f"settings: {file} is not YAML: {error}") from None
    if not isinstance(raw, dict) or not all(isinstance(name, str) for name in raw):
        raise BadArgument(f"settings: {file} must contain names with values, such as `name: mine`")
    old_names = renamed.in_file(raw) + renamed.in_environment(os.environ)
    if old_names:
        raise BadArgument(f"settings: {file} uses old names\n" + "\n".join(f"  {message}" for message in old_names))
    try:
        return Settings(**raw)
    except ValidationError as error:
        raise BadArgument(f"settings: {file}\n" + "\n".join(_error_line(e) for e in error.errors())) from None


def _error_line(error: ErrorDetails) -> str:
    where = ".".join(map(str, error["loc"]))
    # Inputs of the source may contain a password by mistake, also in a value that pydantic names for another error.
    secret = error["loc"][:1] == ("source",) and isinstance(error["input"], str | dict)
    value = "" if secret else f" (got {error['input']!r})"
    return f"  {where}: {error['msg'].removeprefix('Value error, ')}{value}"
