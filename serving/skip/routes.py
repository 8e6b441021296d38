"""Routes of the skip engine, which follow a champion of their own under `skip/` of the service's home.

Fallback   without a release, or with one that fails, /v1/rerank returns the list unchanged, and names the fallback.
Skip
           probabilities have no fallback: /v1/skips is then a 503 with the reason
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from contracts.errors import BadArgument, CheckFailed
from serving import schema
from serving.block.watcher import BlockWatcher
from serving.bodies import SkipState
from serving.http.middleware import LOG, error_facts
from serving.http.problems import Refusal
from serving.release.folders import ReleaseFolders
from serving.release.watcher import ChampionWatcher, Event, ReleaseWatcher
from serving.skip import answers
from serving.skip.blocked import without_blocked
from serving.skip.metrics import SkipMetrics
from serving.skip.release import SkipRelease
from serving.skip.schema import Reranked, RerankRequest, SkipRequest, Skips

ERRORS = schema.error_responses({400: None, 401: None, 413: None, 422: None})
NO_RELEASE = schema.error_responses({503: None})

PROMOTE = "overture release promote --engine skip"


def skip_champion(folders: ReleaseFolders, poll_s: float, event: Event) -> ReleaseWatcher[SkipRelease]:
    """Return the watcher of the skip engine's pointer."""
    return ReleaseWatcher(folders, lambda folder, now: SkipRelease(folder, now, check=False), poll_s, event, PROMOTE)


def state(champion: ReleaseWatcher[SkipRelease]) -> SkipState:
    """Return what /readyz contains about the skip engine; `age_s` is the time since the last play of the release."""
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
    champion: ReleaseWatcher[SkipRelease],
    cold_start: ChampionWatcher,
    blocks: BlockWatcher,
    respond: Callable[..., Response],
    route_class: type[APIRoute],
    metrics: SkipMetrics,
) -> APIRouter:
    """Return the two routes.

    Args:
        champion: watcher of the skip engine's champion.
        cold_start: watcher of the champion that recommends to new listeners.
        blocks: the block list in force.
        respond: `respond(data, release=...)` builds a JSON response.
        route_class: reads a body as the service does.
        metrics: where fallbacks are counted.
    """

    def unchanged_list(request: RerankRequest, blocked: list[str], why: str) -> Response:
        body = answers.unchanged_list(request, blocked, why)
        metrics.count_fallback(answers.UNCHANGED)
        return respond(body)

    router = APIRouter(route_class=route_class, tags=["skips"])

    @router.post("/v1/skips", responses={200: {"model": Skips}, **ERRORS, **NO_RELEASE})
    def skips(request: SkipRequest) -> Response:
        """Return the probability that the listener skips each of these tracks."""
        release = champion.current
        if release is None:
            raise Refusal(503, f"no release of the skip engine is in service: {champion.problem}", "no_release")
        try:
            return respond(
                answers.skips_response(release, request, answers.read_ids(release, request, request.tracks)),
                release=release.name,
            )
        except CheckFailed as error:
            raise Refusal(503, f"release {release.name[:12]} failed: {error}", "release_failed") from None

    @router.post("/v1/rerank", responses={200: {"model": Reranked}, **ERRORS})
    def rerank(request: RerankRequest) -> Response:
        """Order a list by expected listening, with the requested diversity.

        Tracks on the block list are left out and reported in `blocked`.
        """
        release = champion.current
        request, blocked = without_blocked(request, blocks.current, release, cold_start.current)
        if release is None:
            return unchanged_list(request, blocked, f"no release of the skip engine is in service: {champion.problem}")
        try:
            return respond(answers.rerank_response(release, request, blocked), release=release.name)
        except (BadArgument, RequestValidationError):
            raise
        except Exception as error:  # whatever onnxruntime raises: a list is better than an error
            why = f"release {release.name[:12]} failed: {type(error).__name__}"
            LOG.error("skip rerank", extra={"facts": error_facts(error)})
            return unchanged_list(request, blocked, why)

    return router
