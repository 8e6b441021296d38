"""How the service listens and what it takes; the section `service` of configs/*.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr


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
