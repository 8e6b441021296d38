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
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from serving import schema
from serving.admin import block_routes
from serving.block.entries import BlockList
from serving.block.metrics import BlockMetrics
from serving.block.sources import edited_source, read_sources
from serving.block.tracks import hidden
from serving.block.watcher import BlockWatcher
from serving.experiment.assignment import ExperimentRecommender
from serving.health import Drain, add_health
from serving.http.fast_routes import COMPUTE, FastRoutesApp, JsonBodyRoute, as_json, as_resource, resource_headers
from serving.http.micro_batching import MicroBatcher
from serving.http.middleware import LOG, ServiceMiddleware
from serving.http.problems import Refusal
from serving.http.prometheus import Metrics
from serving.profile.profiles import Profiles
from serving.profile.routes import make_day_router, make_event_router
from serving.recommend import carousel, entity_lookup
from serving.recommend.known_users import make_router
from serving.recommend.recommender import with_track_details
from serving.recommend.signals import read_listener, read_options
from serving.release.folders import open_folders
from serving.release.loaded import LoadedRelease
from serving.release.watcher import ChampionWatcher
from serving.settings import ProfileSettings, ServiceSettings, StoreSettings
from serving.skip.metrics import SkipMetrics
from serving.skip.release import ENGINE
from serving.skip.routes import make_router as make_skip_router
from serving.skip.routes import skip_champion
from serving.stores.circuit import CircuitBreaker

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
GC_THRESHOLD = 50_000  # objects: reference counting frees nearly all that a request creates
# The page loads nothing from other hosts, and its policy forbids inline scripts, so no name of the catalogue can become
# code.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
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
ERRORS = schema.error_responses({401: None, 422: None, 503: None})
ENTITY_ERRORS = schema.error_responses({401: None, 404: None, 422: None, 503: None})


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

    Raises:
        BadArgument: `service.release_source` is wrong.
    """
    metrics, circuit, drain = Metrics(), CircuitBreaker(store, home), Drain(settings.drain_s)
    profiles = Profiles(profile, home, circuit)
    skip_metrics, block_metrics = SkipMetrics(metrics.registry), BlockMetrics(metrics.registry)

    def event(name: str, **facts: Any) -> None:
        if name == "release":
            assert champion.current is not None
            metrics.release(champion.current)
            hidden(champion.current, blocks.current, None)  # computed here, not in the first request
            gc.unfreeze()
            gc.collect()
            gc.freeze()  # a release stays loaded for long: later collections do not have to traverse it
            gc.set_threshold(GC_THRESHOLD)
        else:
            (metrics.unavailable if name == "unavailable" else metrics.refused).inc()
        LOG.log(logging.INFO if name == "release" else logging.ERROR, name, extra={"facts": facts})

    def skip_event(name: str, **facts: Any) -> None:
        if name == "release":
            assert skips.current is not None
            skip_metrics.release(skips.current)
        else:
            (skip_metrics.unavailable if name == "unavailable" else skip_metrics.refused).inc()
        LOG.log(logging.INFO if name == "release" else logging.ERROR, f"skip {name}", extra={"facts": facts})

    def block_event(name: str, **facts: Any) -> None:
        LOG.log(logging.INFO if name == "block list" else logging.WARNING, name, extra={"facts": facts})

    def prepare(block_list: BlockList) -> None:
        if champion.current is not None:
            hidden(champion.current, block_list, None)

    blocks = BlockWatcher(read_sources(store, home), settings.block_poll_s, block_event, prepare)
    champion, skips = (
        ChampionWatcher(open_folders(settings, home), settings.poll_interval_s, event),
        skip_champion(open_folders(settings, home, ENGINE), settings.poll_interval_s, skip_event),
    )

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        champion.start()
        skips.start()
        await run_in_threadpool(blocks.start)
        drain.install()
        yield
        blocks.stop()
        skips.stop()
        champion.stop()
        profiles.close()
        circuit.store.close()

    app = FastRoutesApp(
        title="Overture",
        version="1",
        description=ABOUT,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: f"{route.tags[0]}_{route.name}" if route.tags else route.name,
        servers=[{"url": settings.root_path or "/"}],
    )
    app.state.champion, app.state.profiles = champion, profiles
    recommender = ExperimentRecommender(settings, home)
    app.include_fast_routes(make_lists(champion, blocks, metrics, recommender))
    app.include_fast_routes(make_event_router(champion, profiles, as_json))
    add_pages(app, settings.root_path)
    # The routes of users must be registered before /v1/{kind}.
    app.include_router(make_day_router(profiles, as_json))
    app.include_router(
        make_router(champion, blocks, serving, as_json, circuit, metrics, profiles, recommender.recommend)
    )
    app.include_fast_routes(make_skip_router(skips, champion, blocks, as_json, JsonBodyRoute, skip_metrics))
    app.include_router(block_routes.make_router(lambda: edited_source(store, home), blocks, as_json))
    add_lookups(app, champion, blocks)
    add_health(app, settings, champion, skips, blocks, metrics, block_metrics, circuit, drain)
    return ServiceMiddleware(app, settings, metrics)


def serving(champion: ChampionWatcher) -> LoadedRelease:
    """Return the release in service, for one request.

    Raises:
        Refusal: 503 with the reason if there is none.
    """
    if champion.current is None:
        raise Refusal(503, f"no release is in service: {champion.problem}", "no_release")
    return champion.current


def make_lists(
    champion: ChampionWatcher, blocks: BlockWatcher, metrics: Metrics, recommender: ExperimentRecommender
) -> APIRouter:
    """Return the routes of lists: recommendations, batches and carousels."""
    lists = APIRouter(route_class=JsonBodyRoute, tags=["lists"])
    batcher = MicroBatcher(recommender.recommend)

    @lists.post("/v1/recommendations", responses={200: {"model": schema.Recommendation}, **ERRORS})
    async def recommendations(request: schema.RecommendationRequest) -> Response:
        """Recommend tracks to one new listener, with an explanation."""
        loaded = serving(champion)
        listener = read_listener(loaded, request.listener)
        parameters = read_options(loaded, request, blocks.current)
        if request.explain or any(map(loaded.is_slow, recommender.methods(parameters))):
            (body,) = await COMPUTE.run(recommender.recommend, loaded, [listener], parameters, request.explain)
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
        bodies = recommender.recommend(loaded, listeners, read_options(loaded, request, blocks.current))
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
        body = carousel.carousel(loaded, request, blocks.current)
        metrics.count_list("carousel", body)
        metrics.count_unknown(body["unknown"])
        return as_json(body, release=loaded.name)

    return lists


def add_lookups(app: FastAPI, champion: ChampionWatcher, blocks: BlockWatcher) -> None:
    """Add the routes that look up entities of the release."""

    @app.get("/v1/release", responses={200: {"model": schema.ReleaseInfo}, **ERRORS}, tags=["vectors"])
    def release() -> Response:
        """Describe the release in service: methods, spaces and countries."""
        loaded = serving(champion)
        return as_resource(entity_lookup.release_body(loaded), loaded.name)

    @app.get("/v1/search", responses={200: {"model": schema.Search}, **ERRORS}, tags=["vectors"])
    def search(
        kind: Annotated[str, Query(pattern="^(tracks|artists)$")] = "artists",
        q: Annotated[str, Query(max_length=100, description="part of a name; empty: everything")] = "",
        limit: Annotated[int, Query(ge=1, le=200)] = 20,
    ) -> Response:
        """Search tracks or artists by name, most popular first."""
        loaded = serving(champion)
        return as_resource(entity_lookup.search(loaded, kind, q, limit, blocks.current), loaded.name)

    # An id may contain slashes, so this route must be found before the next one.
    @app.get(
        "/v1/{kind}/{entity_id:path}/neighbours",
        responses={200: {"model": schema.Neighbourhood}, **ENTITY_ERRORS},
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
        body = entity_lookup.neighbours(loaded, kind, entity_id, k, of or kind, space, blocks.current)
        return as_resource(body, loaded.name)

    @app.get(
        "/v1/{kind}/{entity_id:path}", responses={200: {"model": schema.Entity}, **ENTITY_ERRORS}, tags=["vectors"]
    )
    def entity(kind: schema.Kind, entity_id: EntityId, space: SpaceName = None) -> Response:
        """Return the vector of a track, artist, album, playlist or segment; for a segment also its card."""
        loaded = serving(champion)
        return as_resource(entity_lookup.entity(loaded, kind, entity_id, space, blocks.current), loaded.name)


def add_pages(app: FastAPI, root_path: str) -> None:
    """Add the listener's page and the page of the API. Both work without any other host, and below any path.

    Args:
        app: the application.
        root_path: path below which the service is published; without a slash at its end it redirects to the page,
            whose addresses are relative.
    """

    @cache
    def content(name: str) -> bytes:
        return (PAGE / name).read_bytes()

    def page(name: str) -> Response:
        body = content(name)
        response = Response(body, 200, {"content-security-policy": POLICY}, TYPES[Path(name).suffix])
        response.raw_headers += resource_headers(body)
        return response

    names = frozenset(path.name for path in PAGE.iterdir())

    if root_path:

        @app.get(root_path, include_in_schema=False)
        async def slash() -> Response:
            return RedirectResponse(f"{root_path}/", 308)

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
