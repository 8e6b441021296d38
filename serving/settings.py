"""How the service listens and what it takes; which store knows listeners: `service` and `store` of configs/*.yaml."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from models.evaluation.assignment import bucket_bounds

ArmMethod = Literal["semi_pers", "full_pers", "blend", "popularity", "country_age_mean"]
Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,39}$")]


class Explore(BaseModel):
    """How often, and out of what, an arm shows a list by chance; what makes off-policy estimates possible."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share: Annotated[float, Field(gt=0, le=1)] = Field(description="of lists that are drawn by chance")
    methods: tuple[ArmMethod, ...] = Field(
        min_length=1, description="the draw is out of the heads of their lists and of the arm's own"
    )


class Arm(BaseModel):
    """One arm: what answers, for which share of the listeners."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name
    method: ArmMethod = Field(description="country_age_mean: the segment nearest to the mean of country and age class")
    share: Annotated[float, Field(gt=0, lt=1)]
    explore: Explore | None = None


class Experiment(BaseModel):
    """What the service must know of an experiment: who gets what, on which days (UTC)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name = "first_day"
    salt: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,40}$")] = Field("1", description="another one, other arms")
    first_day: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] = "2026-11-23"
    last_day: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] = Field("2026-12-20", description="included")
    arms: tuple[Arm, ...] = (
        Arm(name="default", method="country_age_mean", share=0.3),
        Arm(name="semi_pers", method="semi_pers", share=0.3),
        Arm(name="popularity", method="popularity", share=0.2),
        Arm(
            name="exploring",
            method="semi_pers",
            share=0.2,
            explore=Explore(share=0.5, methods=("popularity", "country_age_mean")),
        ),
    )

    @model_validator(mode="after")
    def _holds_together(self) -> Experiment:
        for name in ("first_day", "last_day"):
            try:
                date.fromisoformat(getattr(self, name))
            except ValueError:
                raise ValueError(f"{name}: {getattr(self, name)} is no date") from None
        if self.last_day < self.first_day:
            raise ValueError(f"last_day: {self.last_day} is before first_day {self.first_day}")
        names = [arm.name for arm in self.arms]
        if len(names) < 2 or len(set(names)) != len(names):
            raise ValueError(f"arms: needs two or more, each with a name of its own; got {names}")
        bucket_bounds([arm.share for arm in self.arms])
        return self


StoreKind = Literal["memory", "redis", "cassandra"]


class ServiceSettings(BaseModel):
    """Frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(8600, description="0: any free one")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(1, description="processes, each with a release of its own")
    api_key: SecretStr = Field(SecretStr(""), description="asked for under /v1 as x-api-key; empty: nobody is asked")
    cors_origins: tuple[str, ...] = Field((), description="pages of other addresses that may call; none by default")
    max_body_bytes: Annotated[int, Field(ge=1_024)] = 2 * 1024 * 1024
    poll_interval_s: Annotated[float, Field(gt=0)] = Field(1.0, description="how often the champion's pointer is read")
    shutdown_timeout_s: Annotated[int, Field(ge=0)] = Field(
        10, description="what a stop waits for requests that still run"
    )
    experiment: Annotated[str, Field(pattern="^([a-z0-9][a-z0-9_-]{0,39})?$")] = Field(
        "", description="name of a registered experiment (`overture ab-plan`) that decides the methods; empty: none"
    )
    exposure_log: str = Field(
        "", description="folder for what an experiment showed, one file a day and process; empty: nothing is written"
    )
    exposure_signals: bool = Field(
        False, description="exposure lines also hold the first-day signals: off-policy estimates need them"
    )
    header_timeout_s: Annotated[float, Field(gt=0)] = Field(
        10.0, description="what a client may take for a request's headers"
    )
    body_timeout_s: Annotated[float, Field(gt=0)] = Field(
        20.0, description="what a client may take for a request's body"
    )


class StoreSettings(BaseModel):
    """Where known listeners are published to and read from; the section `store`. Frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: StoreKind = Field("memory", description="memory: files under OVERTURE_HOME, memory-mapped")
    list_length: Annotated[int, Field(ge=1, le=1_000)] = Field(50, description="tracks kept for each user")
    redis_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), description="may hold a password")
    cassandra_hosts: Annotated[tuple[str, ...], Field(min_length=1)] = ("127.0.0.1",)
    cassandra_port: Annotated[int, Field(ge=1, le=65_535)] = 9042
    cassandra_keyspace: Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,47}$")] = "overture"
    cassandra_datacenter: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]+$")] = "datacenter1"
    cassandra_replicas: Annotated[int, Field(ge=1, le=9)] = Field(1, description="of each row in the datacenter")
    cassandra_user: str = Field("", description="empty: no login")
    cassandra_password: SecretStr = SecretStr("")
    timeout_s: Annotated[float, Field(gt=0)] = Field(0.25, description="what a request waits for the store's answer")
    breaker_reset_s: Annotated[float, Field(ge=0)] = Field(
        2.0, description="how long a store that is away is left alone"
    )
    grace_s: Annotated[float, Field(ge=0)] = Field(
        3_600.0, description="how long rows of a release stay after it is neither champion nor previous"
    )
