"""Settings of the service: the sections `service` and `store` of configs/*.yaml, and what it needs of an experiment."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from models.evaluation.assignment import bucket_bounds

ArmMethod = Literal["semi_pers", "full_pers", "blend", "ranked_candidates", "popularity", "country_age_mean"]
Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,39}$")]


class Explore(BaseModel):
    """Random lists of an arm. Their known probabilities make off-policy estimates possible."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share: Annotated[float, Field(gt=0, le=1)] = Field(description="share of the arm's lists that are drawn at random")
    methods: tuple[ArmMethod, ...] = Field(
        min_length=1,
        description="methods whose first tracks, with those of the arm's own method, form the pool of a draw",
    )


class Arm(BaseModel):
    """One arm of an experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name = Field(description="name of the arm")
    method: ArmMethod = Field(
        description="method of the arm's lists; country_age_mean: the segment nearest to the mean vector of the "
        "listener's country and age class"
    )
    share: Annotated[float, Field(gt=0, lt=1)] = Field(description="share of the listeners; all arms add up to 1")
    explore: Explore | None = Field(None, description="random lists of the arm; null: none")


class Experiment(BaseModel):
    """The part of an experiment that the service needs: arms, their listeners, and the days (UTC)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name = Field("first_day", description="name of the experiment")
    salt: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,40}$")] = Field(
        "1", description="part of the hash that assigns listeners to arms; another salt assigns them differently"
    )
    first_day: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] = Field(
        "2026-11-23", description="first day of the experiment (UTC)"
    )
    last_day: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] = Field(
        "2026-12-20", description="last day of the experiment (UTC), included"
    )
    arms: tuple[Arm, ...] = Field(
        (
            Arm(name="default", method="country_age_mean", share=0.3),
            Arm(name="semi_pers", method="semi_pers", share=0.3),
            Arm(name="popularity", method="popularity", share=0.2),
            Arm(
                name="exploring",
                method="semi_pers",
                share=0.2,
                explore=Explore(share=0.5, methods=("popularity", "country_age_mean")),
            ),
        ),
        description="two or more arms: name, method, share, and explore {share, methods} for random lists",
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Experiment:
        for name in ("first_day", "last_day"):
            try:
                date.fromisoformat(getattr(self, name))
            except ValueError:
                raise ValueError(f"{name}: {getattr(self, name)} is not a date") from None
        if self.last_day < self.first_day:
            raise ValueError(f"last_day: {self.last_day} is before first_day {self.first_day}")
        names = [arm.name for arm in self.arms]
        if len(names) < 2 or len(set(names)) != len(names):
            raise ValueError(f"arms: needs two or more arms with different names; got {names}")
        bucket_bounds([arm.share for arm in self.arms])
        return self


Engine = Literal["cold_start", "skip"]
StoreKind = Literal["memory", "redis", "cassandra"]


class ServiceSettings(BaseModel):
    """The HTTP service."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="address that the service listens on")
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        8600, description="port that the service listens on; 0: any free port"
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="number of processes; each loads the release into its own memory"
    )
    api_key: SecretStr = Field(
        SecretStr(""),
        description="key that requests under /v1 must send as x-api-key or authorization: Bearer; two keys, separated "
        "by a comma, while clients change from one to the other; empty: no key is needed",
    )
    admin_key: SecretStr = Field(
        SecretStr(""),
        description="key, or two separated by a comma, that requests to /metrics and /v1/admin must send; empty: "
        "/metrics needs api_key, and /v1/admin is closed",
    )
    behind_tls: bool = Field(
        False, description="whether clients reach the service by TLS only: adds the header strict-transport-security"
    )
    root_path: Annotated[str, Field(pattern="^(/[A-Za-z0-9._~-]+)*$")] = Field(
        "", description="path below which a proxy publishes the service, such as /music; empty: the root"
    )
    cors_origins: tuple[str, ...] = Field((), description="other origins whose pages may call the service (CORS)")
    max_body_bytes: Annotated[int, Field(ge=1_024)] = Field(
        2 * 1024 * 1024, description="largest request body, in bytes"
    )
    release_source: str = Field(
        "",
        description="where releases are read from, as `release.destination` of the jobs: a folder, a URI that PyArrow "
        "supports such as s3://bucket/prefix, or http(s)://; empty: OVERTURE_HOME",
    )
    release_cache: str = Field(
        "",
        description="folder for the releases that are fetched from a URI; old ones are removed; empty: "
        "OVERTURE_HOME/cache",
    )
    release_key: str = Field(
        "",
        description="public keys that a release's signature may be of: a file, or a folder of files *.pub (rotation); "
        "empty: OVERTURE_HOME/keys",
    )
    poll_interval_s: Annotated[float, Field(gt=0)] = Field(
        1.0, description="interval between two reads of the champion pointer, in seconds"
    )
    block_poll_s: Annotated[float, Field(gt=0)] = Field(
        2.0, description="interval between two looks at the sources of the block list, in seconds"
    )
    shutdown_timeout_s: Annotated[int, Field(ge=0)] = Field(
        10, description="longest wait for running requests at shutdown, in seconds"
    )
    drain_s: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="time between SIGTERM and the end of new connections, in seconds: /readyz is 503, requests are "
        "still answered; set it to what a load balancer takes to notice",
    )
    required_engines: tuple[Engine, ...] = Field(
        (), description="engines without which /readyz is 503: cold_start, skip; empty: any one is enough"
    )
    max_concurrent_requests: Annotated[int, Field(ge=1)] = Field(
        64, description="requests that a worker answers at once; further ones get 503 with Retry-After"
    )
    keep_alive_timeout_s: Annotated[int, Field(ge=1)] = Field(
        75,
        description="time after which an idle connection is closed, in seconds; longer than that of the load balancer "
        "in front, which otherwise sends a request on a connection that is being closed",
    )
    write_timeout_s: Annotated[float, Field(gt=0)] = Field(
        30.0, description="longest time until a client has read a response, in seconds"
    )
    experiment: Annotated[str, Field(pattern="^([a-z0-9][a-z0-9_-]{0,39})?$")] = Field(
        "", description="name of a registered experiment (`overture ab-plan`) that chooses the methods; empty: none"
    )
    exposure_log: str = Field(
        "", description="folder of the exposure log, one file for each day and process; empty: no log"
    )
    exposure_signals: bool = Field(
        False, description="add the first-day signals to the exposure log; off-policy estimates need them"
    )
    header_timeout_s: Annotated[float, Field(gt=0)] = Field(
        10.0, description="longest time until a request's headers have arrived, in seconds"
    )
    body_timeout_s: Annotated[float, Field(gt=0)] = Field(
        20.0, description="longest time until a request's body has arrived, in seconds"
    )

    @field_validator("api_key", "admin_key")
    @classmethod
    def _at_most_two_keys(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value().split(",")) > 2:
            raise ValueError("one key, or two separated by a comma")
        return secret


class ProfileSettings(BaseModel):
    """The listeners' days, received as events (`POST /v1/events`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    folder: str = Field(
        "",
        description="folder of the event log: JSON lines that the source `tables` reads; empty: OVERTURE_HOME/events. "
        "Workers of one store `memory` share it",
    )
    ttl_s: Annotated[float, Field(ge=1, le=30 * 86_400)] = Field(
        172_800.0, description="time after the last event until a profile expires, in seconds; older events are refused"
    )
    fold_in_weight: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="weight of the tracks that a known listener streamed since the stored vector was computed; "
        "0: the stored list only",
    )


class StoreSettings(BaseModel):
    """The store of known listeners: jobs publish to it, the service reads from it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: StoreKind = Field(
        "memory", description="memory: memory-mapped files under OVERTURE_HOME; redis or cassandra: a server"
    )
    list_length: Annotated[int, Field(ge=1, le=1_000)] = Field(50, description="number of tracks stored for each user")
    max_heard: Annotated[int, Field(ge=0, le=10_000)] = Field(
        1_000, description="number of tracks that a user streamed last which are stored for each user"
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="address of Redis; it may contain a password"
    )
    redis_ca: str = Field(
        "", description="rediss://: file of the certificates (PEM) that sign Redis's; empty: those of the system"
    )
    redis_cluster: bool = Field(False, description="redis_url is a node of a Redis Cluster")
    cassandra_hosts: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("127.0.0.1",), description="addresses of Cassandra nodes for the first connection"
    )
    cassandra_port: Annotated[int, Field(ge=1, le=65_535)] = Field(9042, description="port of the Cassandra nodes")
    cassandra_keyspace: Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,47}$")] = Field(
        "overture", description="keyspace of the tables"
    )
    cassandra_datacenter: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]+$")] = Field(
        "datacenter1", description="datacenter that the driver connects to"
    )
    cassandra_replicas: Annotated[int, Field(ge=1, le=9)] = Field(
        1, description="number of replicas of each row in the datacenter"
    )
    cassandra_user: str = Field("", description="user name; empty: no login")
    cassandra_password: SecretStr = Field(SecretStr(""), description="password of cassandra_user")
    cassandra_ca: str = Field(
        "", description="file of the certificates (PEM) that sign those of the nodes; empty: no TLS"
    )
    cassandra_certificate: str = Field("", description="file of the client's certificate (PEM); empty: none")
    cassandra_key: str = Field("", description="file of the key of cassandra_certificate (PEM)")
    timeout_s: Annotated[float, Field(gt=0)] = Field(
        0.25, description="longest wait of a request for the store, in seconds"
    )
    breaker_reset_s: Annotated[float, Field(ge=0)] = Field(
        2.0,
        description="time after a failure until the circuit breaker lets the next request try the store, in seconds",
    )
    grace_s: Annotated[float, Field(ge=0)] = Field(
        3_600.0,
        description="time after which the rows of a release are removed once it is neither champion nor previous, "
        "in seconds",
    )
