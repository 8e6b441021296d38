"""How the service listens and what it takes; which store knows listeners: `service` and `store` of configs/*.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

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
    poll_s: Annotated[float, Field(gt=0)] = Field(1.0, description="how often the champion's pointer is read")
    stop_s: Annotated[int, Field(ge=0)] = Field(10, description="what a stop waits for requests that still run")
    headers_s: Annotated[float, Field(gt=0)] = Field(10.0, description="what a client may take for a request's headers")
    body_s: Annotated[float, Field(gt=0)] = Field(20.0, description="what a client may take for a request's body")


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
    retry_s: Annotated[float, Field(ge=0)] = Field(2.0, description="how long a store that is away is left alone")
    grace_s: Annotated[float, Field(ge=0)] = Field(
        3_600.0, description="how long rows of a release stay after it is neither champion nor previous"
    )
