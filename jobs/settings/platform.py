"""Sections `spark`, `mlflow`, `release` and `checks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from jobs.settings.base import Engine, Positive, Section


class SparkSettings(Section):
    """The Spark session of a job."""

    master: str = Field("local[2]", description="address of the cluster, such as local[*], spark://host:7077 or yarn")
    driver_memory: str = Field("2g", description="memory of the driver, with Spark's unit suffix")
    executor_memory: str = Field("1g", description="memory of one executor, with Spark's unit suffix")
    partitions: Positive = Field(4, description="number of shuffle partitions and of user blocks in factorisations")
    extra: dict[str, str] = Field(
        {}, description="more Spark properties, by name; they are passed to Spark unchanged and win over all others"
    )


class ReleaseSettings(Section):
    """Where promoted releases are written, and the key that signs them."""

    destination: str = Field(
        "",
        description="where promote and rollback write releases and the champion pointer: a folder or "
        "s3://bucket/prefix; services read there (`service.release_source`); empty: OVERTURE_HOME",
    )
    signing_key: str = Field(
        "",
        description="file of the private key that signs releases (`overture release keys` makes one); empty: "
        "OVERTURE_HOME/keys/release.pem",
    )

    @field_validator("destination")
    @classmethod
    def _check_destination(cls, destination: str) -> str:
        if "://" in destination and not destination.startswith("s3://"):
            raise ValueError(
                "must be a folder or s3://bucket/prefix; other object stores have no conditional writes here"
            )
        return destination


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
    cold_start: ColdStartMlflowSettings = ColdStartMlflowSettings()
    skip: SkipMlflowSettings = SkipMlflowSettings()

    def names(self, engine: Engine, daily: bool) -> MlflowNames:
        """Return the names that an engine's run uses.

        Args:
            engine: `cold_start` or `skip`.
            daily: Whether it is a daily run. Daily and weekly runs share the registered model.
        """
        of_engine: MlflowEngineSettings = self.skip if engine == "skip" else self.cold_start
        experiment = of_engine.daily_experiment if daily else of_engine.weekly_experiment
        return MlflowNames(experiment, of_engine.registered_model)


class CheckSettings(Section):
    """How data checks are run."""

    spark_min_mb: Annotated[int, Field(ge=0)] = Field(
        512,
        description="size of a table's Parquet files, in MB, from which Spark measures the table; "
        "a smaller table is measured in the process",
    )
