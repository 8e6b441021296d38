"""The skip engine's routes; they follow a champion of their own, under `skip/` of the service's home.

Order   in which an answer degrades, and says so: /v1/rerank without a release, or with one that fails, gives the list
        as it came. A chance of a skip has nothing to stand in for it: there /v1/skips is a 503 with the reason
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response
from fastapi.routing import APIRoute

from contracts.errors import BadArgument, CheckFailed
from serving import schema
from serving.http.middleware import LOG, trouble
from serving.release.watcher import Event, Follower
from serving.skip import answers
from serving.skip.metrics import SkipMetrics
from serving.skip.release import ENGINE, SkipRelease
from serving.skip.schema import Reranked, RerankRequest, SkipRequest, Skips

WRONG: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.ErrorResponse, "description": why}
    for status, why in {
        400: "not JSON",
        401: "no or another API key",
        413: "body too large",
        422: "refused, with the field's name",
    }.items()
}
NO_RELEASE: dict[int | str, dict[str, Any]] = {503: {"model": schema.ErrorResponse, "description": "no release"}}


PROMOTE = "overture release promote --engine skip"


def skip_champion(home: Path, poll_s: float, event: Event) -> Follower[SkipRelease]:
    """Follows the skip engine's pointer."""
    return Follower(home / ENGINE, SkipRelease, poll_s, event, PROMOTE)


def state(champion: Follower[SkipRelease]) -> dict[str, Any]:
    """What /readyz says of the skip engine; `age_s`: since the last play that the release can know."""
    release = champion.current
    until = release and datetime.fromtimestamp(release.state_until, UTC)
    return {
        "ready": release is not None,
        "problem": champion.problem,
        "release": release.name if release else None,
        "week": release.week if release else None,
        "state_as_of": until.isoformat() if until else None,
        "age_s": int((datetime.now(UTC) - until).total_seconds()) if until else None,
    }


def make_router(
    champion: Follower[SkipRelease], say: Callable[..., Response], route_class: type[APIRoute], metrics: SkipMetrics
) -> APIRouter:
    """The two routes; `say(data, release=...)` is an answer in JSON, `route_class` reads a body as the service does."""

    def as_given(asked: RerankRequest, why: str) -> Response:
        found = answers.as_given(asked, why)
        metrics.stood_in(found["degraded"]["fallback"])
        return say(found)

    router = APIRouter(route_class=route_class, tags=["skips"])

    @router.post("/v1/skips", responses={200: {"model": Skips}, **WRONG, **NO_RELEASE})
    def skips(asked: SkipRequest) -> Response:
        """The chance that a listener skips each of these tracks."""
        release = champion.current
        if release is None:
            raise HTTPException(503, f"no release of the skip engine can be served: {champion.problem}")
        try:
            return say(answers.skips(release, asked), release=release.name)
        except CheckFailed as error:
            raise HTTPException(503, f"release {release.name[:12]} does not answer: {error}") from None

    @router.post("/v1/rerank", responses={200: {"model": Reranked}, **WRONG})
    def rerank(asked: RerankRequest) -> Response:
        """A list in the order in which it will be listened to, as diverse as asked for."""
        release = champion.current
        if release is None:
            return as_given(asked, f"no release of the skip engine can be served: {champion.problem}")
        try:
            return say(answers.reranked(release, asked), release=release.name)
        except BadArgument:
            raise
        except Exception as error:  # whatever onnxruntime throws: a list is better than none
            why = f"release {release.name[:12]} does not answer: {type(error).__name__}"
            LOG.error("skip rerank", extra={"facts": trouble(error)})
            return as_given(asked, why)

    return router
