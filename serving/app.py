"""The FastAPI application: its routes and the middleware around them.

Each request takes the release in service once, is answered from it alone, and names it in a response header.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query
from fastapi import Path as InPath
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from serving import schema
from serving.experiment.assignment import ExperimentRecommender
from serving.http.fast_routes import FastRoutesApp, JsonBodyRoute, as_json
from serving.http.micro_batching import MicroBatcher
from serving.http.middleware import LOG, RELEASE, ServiceMiddleware
from serving.http.prometheus import Metrics
from serving.profile.profiles import Profiles
from serving.profile.routes import make_day_router, make_event_router
from serving.recommend import carousel, entity_lookup
from serving.recommend.known_users import make_router
from serving.recommend.recommender import with_track_details
from serving.recommend.signals import read_listener, read_options
from serving.release.loaded import LoadedRelease
from serving.release.watcher import ChampionWatcher, ReleaseWatcher
from serving.settings import ProfileSettings, ServiceSettings, StoreSettings
from serving.skip.metrics import SkipMetrics
from serving.skip.release import SkipRelease
from serving.skip.routes import make_router as make_skip_router
from serving.skip.routes import skip_champion
from serving.skip.routes import state as skip_state
from serving.stores.circuit import CircuitBreaker

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# The page loads nothing from other hosts, and its policy forbids inline scripts, so no name of the catalogue can become
# code.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:"
ABOUT = """\
First-day recommendations from one release. Every response names its release in the header `x-overture-release`.
`degraded` names a fallback where one was used: network -> mean vector of country and age -> most popular tracks.
Ids are those of the source, as strings. Requests may use numbers where the source's ids are integers, up to 2^53 - 1.
Ids that the release does not contain are ignored and reported under `unknown`.
"""
EntityId = Annotated[str, InPath(min_length=1, max_length=schema.MAX_ID_LENGTH, examples=["3"])]
SpaceName = Annotated[
    str | None, Query(max_length=40, description="default: the space that the release recommends from")
]
ERRORS = schema.error_responses({400: None, 401: None, 413: None, 422: None, 503: None})


def make_app(
    settings: ServiceSettings,
    home: Path,
    store: StoreSettings = StoreSettings(),  # noqa: B008 - frozen
    profile: ProfileSettings = ProfileSettings(),  # noqa: B008 - frozen
) -> ServiceMiddleware:
    """Return the service over the releases of one home. It opens the champion when it starts.

    Args:
        settings: the section `service`.
        home: OVERTURE_HOME.
        store: the section `store`.
        profile: the section `profile`.
    """
    metrics, circuit = Metrics(), CircuitBreaker(store, home)
    profiles = Profiles(profile, home, circuit)
    skip_metrics = SkipMetrics(metrics.registry)

    def event(name: str, **facts: Any) -> None:
        if name == "release":
            assert champion.current is not None
            metrics.release(champion.current)
            gc.unfreeze()
            gc.collect()
            gc.freeze()  # a release stays loaded for long: later collections do not have to traverse it
        else:
            metrics.refused.inc()
        LOG.log(logging.INFO if name == "release" else logging.ERROR, name, extra={"facts": facts})

    def skip_event(name: str, **facts: Any) -> None:
        if name == "release":
            assert skips.current is not None
            skip_metrics.release(skips.current)
        else:
            skip_metrics.refused.inc()
        LOG.log(logging.INFO if name == "release" else logging.ERROR, f"skip {name}", extra={"facts": facts})

    champion, skips = (
        ChampionWatcher(home, settings.poll_interval_s, event),
        skip_champion(home, settings.poll_interval_s, skip_event),
    )

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        champion.start()
        skips.start()
        yield
        skips.stop()
        champion.stop()
        profiles.close()
        circuit.store.close()

    app = FastRoutesApp(title="Overture", version="1", description=ABOUT, lifespan=life, docs_url=None, redoc_url=None)
    app.state.champion, app.state.profiles = champion, profiles
    recommender = ExperimentRecommender(settings, home)
    app.include_fast_routes(make_lists(champion, metrics, recommender))
    app.include_fast_routes(make_event_router(champion, profiles, as_json))
    add_pages(app)
    app.include_router(make_day_router(profiles, as_json))
    app.include_router(
        make_router(champion, serving, as_json, circuit, metrics, profiles, recommender.recommend)
    )  # must be registered before /v1/{kind}
    app.include_fast_routes(make_skip_router(skips, as_json, JsonBodyRoute, skip_metrics))
    add_lookups(app, champion)
    add_health(app, champion, skips, metrics, circuit)
    if not settings.cors_origins:
        return ServiceMiddleware(app, settings, metrics)
    shared = CORSMiddleware(
        app,
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["content-type", "x-api-key"],
        expose_headers=[RELEASE.decode()],
    )
    return ServiceMiddleware(shared, settings, metrics)


def serving(champion: ChampionWatcher) -> LoadedRelease:
    """Return the release in service, for one request.

    Raises:
        HTTPException: 503 with the reason if there is none.
    """
    if champion.current is None:
        raise HTTPException(503, f"no release is in service: {champion.problem}")
    return champion.current


def make_lists(champion: ChampionWatcher, metrics: Metrics, recommender: ExperimentRecommender) -> APIRouter:
    """Return the routes of lists: recommendations, batches and carousels."""
    lists = APIRouter(route_class=JsonBodyRoute, tags=["lists"])
    batcher = MicroBatcher(recommender.recommend)

    @lists.post("/v1/recommendations", responses={200: {"model": schema.Recommendation}, **ERRORS})
    async def recommendations(request: schema.RecommendationRequest) -> Response:
        """Recommend tracks to one new listener, with an explanation."""
        loaded = serving(champion)
        listener, parameters = read_listener(loaded, request.listener), read_options(loaded, request)
        if request.explain:
            (body,) = await run_in_threadpool(recommender.recommend, loaded, [listener], parameters, True)
        else:  # takes less than two milliseconds: a thread would cost more than it saves
            body = await batcher.recommend(loaded, listener, parameters)
        metrics.count_list(body["method"], body)
        metrics.count_unknown(body["unknown"])
        return as_json(with_track_details(loaded, body), release=loaded.name)

    @lists.post("/v1/recommendations/batch", responses={200: {"model": schema.Batch}, **ERRORS})
    def batch(request: schema.BatchRequest) -> Response:
        """Recommend tracks to many new listeners, all from one release."""
        loaded = serving(champion)
        listeners = [
            read_listener(loaded, listener, ("body", "listeners", i)) for i, listener in enumerate(request.listeners)
        ]
        bodies = recommender.recommend(loaded, listeners, read_options(loaded, request))
        for body in bodies:
            metrics.count_list(body["method"], body)
            metrics.count_unknown(body["unknown"])
        return as_json({"answers": [with_track_details(loaded, one) for one in bodies]}, release=loaded.name)

    @lists.post("/v1/carousels", responses={200: {"model": schema.Carousel}, **ERRORS})
    def carousels(request: schema.CarouselRequest) -> Response:
        """Return a row of public playlists for one new listener, with the expected exposure of each position.

        The row is empty if the release contains no public playlist or all of them are excluded.
        """
        loaded = serving(champion)
        body = carousel.carousel(loaded, request)
        metrics.count_list("carousel", body)
        metrics.count_unknown(body["unknown"])
        return as_json(body, release=loaded.name)

    return lists


def add_lookups(app: FastAPI, champion: ChampionWatcher) -> None:
    """Add the routes that look up entities of the release."""

    @app.get("/v1/release", responses={200: {"model": schema.ReleaseInfo}, **ERRORS}, tags=["vectors"])
    def release() -> Response:
        """Describe the release in service: methods, spaces and countries."""
        loaded = serving(champion)
        return as_json(entity_lookup.release_body(loaded), release=loaded.name)

    @app.get("/v1/search", responses={200: {"model": schema.Search}, **ERRORS}, tags=["vectors"])
    def search(
        kind: Annotated[str, Query(pattern="^(tracks|artists)$")] = "artists",
        q: Annotated[str, Query(max_length=100, description="part of a name; empty: everything")] = "",
        limit: Annotated[int, Query(ge=1, le=200)] = 20,
    ) -> Response:
        """Search tracks or artists by name, most popular first."""
        loaded = serving(champion)
        return as_json(entity_lookup.search(loaded, kind, q, limit), release=loaded.name)

    # An id may contain slashes, so this route must be found before the next one.
    @app.get(
        "/v1/{kind}/{entity_id:path}/neighbours",
        responses={200: {"model": schema.Neighbourhood}, **ERRORS},
        tags=["vectors"],
    )
    def neighbours(
        kind: schema.Kind,
        entity_id: EntityId,
        k: Annotated[int, Query(ge=1, le=100)] = 10,
        of: schema.Kind | None = None,
        space: SpaceName = None,
    ) -> Response:
        """Return the nearest neighbours by cosine similarity, of the same kind or of the kind given by `of`."""
        loaded = serving(champion)
        return as_json(entity_lookup.neighbours(loaded, kind, entity_id, k, of or kind, space), release=loaded.name)

    @app.get("/v1/{kind}/{entity_id:path}", responses={200: {"model": schema.Entity}, **ERRORS}, tags=["vectors"])
    def entity(kind: schema.Kind, entity_id: EntityId, space: SpaceName = None) -> Response:
        """Return the vector of a track, artist, album, playlist or segment; for a segment also its card."""
        loaded = serving(champion)
        return as_json(entity_lookup.entity(loaded, kind, entity_id, space), release=loaded.name)


def add_health(
    app: FastAPI,
    champion: ChampionWatcher,
    skips: ReleaseWatcher[SkipRelease],
    metrics: Metrics,
    circuit: CircuitBreaker,
) -> None:
    """Add the health routes and the Prometheus metrics."""

    @app.get("/healthz", tags=["health"])
    async def healthz() -> Response:
        """Return 200 while the process runs."""
        return as_json({"alive": True})

    @app.get("/readyz", tags=["health"])
    def readyz() -> Response:
        """Return 200 if at least one engine has a release, else 503.

        `engines` lists the engines that have one. `problem` is the reason why a newer release was refused. `skip`
        describes the skip engine's release, `store` the store of known listeners; the other fields describe the
        cold-start release.
        """
        loaded, skip = champion.current, skip_state(skips)
        engines = [name for name, answers in (("cold_start", loaded is not None), ("skip", skip["ready"])) if answers]
        store = circuit.state(*((loaded.name, loaded.space_name) if loaded else (None, "")))
        metrics.store_answers.set(store["answers"])
        body = {
            "ready": bool(engines),
            "engines": engines,
            "problem": champion.problem,
            "release": loaded.name if loaded else None,
            "week": loaded.week if loaded else None,
            "degraded": loaded.problems if loaded else {},
            "notes": loaded.notes if loaded else {},
            "store": store,
            "skip": skip,
        }
        return as_json(body, 200 if engines else 503, loaded.name if loaded else None)

    @app.get("/metrics", tags=["health"])
    def numbers() -> Response:
        """Return the metrics in the text format of Prometheus."""
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")


def add_pages(app: FastAPI) -> None:
    """Add the listener's page and the page of the API. Both work without any other host."""

    @cache
    def content(name: str) -> bytes:
        return (PAGE / name).read_bytes()

    def page(name: str) -> Response:
        headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "cache-control": "no-cache"}
        return Response(content(name), 200, headers, TYPES[Path(name).suffix])

    names = frozenset(path.name for path in PAGE.iterdir())

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return page("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return page("docs.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in names:
            raise HTTPException(404, "no such page")
        return page(name)
