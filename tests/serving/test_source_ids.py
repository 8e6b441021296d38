"""Ids of the source outside, integers inside: releases with UUIDs and with integers of 63 bits, from end to end."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
from fastapi.exceptions import RequestValidationError

import contracts
from contracts.arrow import arrow_schema
from contracts.entity_ids import MAX_ID, MAX_SAFE_INTEGER, internal_id, stable_id
from contracts.errors import CheckFailed
from jobs.experiments import ingest
from jobs.platform.entity_forms import entity_forms
from jobs.release import bundle, known_users
from jobs.release.cold_start import bundle as cold_start_bundle
from serving import schema
from serving.experiment.assignment import ActiveExperiment
from serving.experiment.exposure_log import ExposureLog
from serving.recommend import recommender
from serving.recommend.signals import ListParameters, read_listener, read_options
from serving.release import external_ids
from serving.release.bundle import open_release
from serving.release.external_ids import ExternalIds, IdTexts
from serving.release.loaded import LoadedRelease
from serving.release.pointer import Pointer
from serving.settings import Arm, Experiment, StoreSettings
from serving.stores import open_store
from tests.helpers import release_keys, small_week, source_ids
from tests.helpers.live import Live

FORMS = {"text": source_ids.as_uuid, "integer": source_ids.as_large_integer}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Context, folder of the release and external ids of a week, by form."""
    weeks = {}
    for form, external in FORMS.items():
        context = small_week.context_at(tmp_path_factory.mktemp(form) / "home")
        small_week.fill(context)
        source_ids.change_ids(context, external, form)
        folder, _ = bundle.build(context, cold_start_bundle)
        release_keys.promote(context.home, folder.name)
        store = open_store(StoreSettings(), context.home, publishing=True)
        store.publish(*known_users.read_part(context, open_release(folder), 20))
        store.close()
        weeks[form] = SimpleNamespace(context=context, folder=folder, external=external)
    return weeks


@pytest.fixture(scope="module", params=list(FORMS))
def service(request, built):
    """A service over a release with ids of one form."""
    week = built[request.param]
    live = Live(week.context.home)
    live.external, live.form = week.external, request.param
    yield live
    live.stop()


@pytest.fixture(scope="module")
def ready(built):
    """The loaded release with UUIDs."""
    return loaded(built["text"].folder)


def loaded(folder) -> LoadedRelease:
    return LoadedRelease(open_release(folder), Pointer(folder.name, None, 0, ""))


def texts(service, kind: str, *numbers: int) -> list[str]:
    return [service.external(kind, number) for number in numbers]


def numbers_in(value) -> list:
    """Return the integers of a JSON body that are above 2^53."""
    if isinstance(value, dict):
        return [n for inner in value.values() for n in numbers_in(inner)]
    if isinstance(value, list):
        return [n for inner in value for n in numbers_in(inner)]
    return [value] if type(value) is int and value > MAX_SAFE_INTEGER else []


def test_forms_of_a_lake_come_from_the_report_or_the_columns(built):
    for form, week in built.items():
        assert set(entity_forms(week.context.lake).values()) == {form}
        tracks = week.context.lake.read("tracks")
        users = {"user": "integer"}  # this lake has no table `users`
        week.context.lake.write("tracks", tracks)
        assert entity_forms(week.context.lake) == dict.fromkeys(source_ids.KINDS, form) | users
        week.context.lake.write("tracks", tracks, report={"ids": dict.fromkeys(source_ids.KINDS, form)})


def test_forms_of_the_skip_engine_come_from_its_plays(tmp_path):
    lake = small_week.context_at(tmp_path).lake
    assert set(entity_forms(lake, "skip").values()) == {"integer"}
    row = {column.name: 1 for column in contracts.load("plays").columns.values() if column.type in ("long", "int")}
    row |= {"ts": datetime(2016, 11, 28, tzinfo=UTC), "is_flow": False, "track_external_id": "one"}
    table = pa.Table.from_pylist([row], schema=arrow_schema(contracts.load("plays")))
    lake.write("plays", table, day="2016-11-28")
    assert entity_forms(lake, "skip") == dict.fromkeys(source_ids.KINDS, "integer") | {"track": "text"}
    lake.write("plays", table, report={"ids": {"user": "text"}}, day="2016-11-29")
    assert entity_forms(lake, "skip") == dict.fromkeys(source_ids.KINDS, "integer") | {"track": "text", "user": "text"}
    assert entity_forms(lake) == dict.fromkeys(source_ids.KINDS, "integer")


def test_every_route_accepts_and_returns_external_ids(service):
    tracks, artists = texts(service, "track", 1003, 1044), texts(service, "artist", 1, 2)
    user = service.external("user", int(small_week.warm_users(0)[0][7]))
    day = {"country": "FR", "user_id": user, "streams": {"tracks": tracks}, "onboarding": {"artists": artists}}
    day |= {"favourites": {"playlists": texts(service, "playlist", 3), "albums": texts(service, "album", 3)}}
    response = service.lists(day, k=30, explain=True)
    known = {service.external("track", int(track)) for track in small_week.tracks()[0]}
    assert response["unknown"] == {}
    assert {track["track_id"] for track in response["tracks"]} <= known
    signals = {signal["id"] for signal in response["reasons"]["top_signals"]}
    assert response["reasons"]["n_signals"] == 7
    assert signals <= {"FR", *tracks, *artists, *texts(service, "playlist", 3), *texts(service, "album", 3)}
    first = [track["track_id"] for track in response["tracks"][:3]]
    remaining = service.lists(day, k=27, exclude=first)["tracks"]
    assert [track["track_id"] for track in remaining] == [track["track_id"] for track in response["tracks"][3:]]
    bodies = [response]
    for kind, number in (("track", 1003), ("artist", 2), ("album", 1), ("playlist", 3)):
        path = f"/v1/{kind}s/{quote(service.external(kind, number), safe='')}"
        status, _, entity = service.call(path)
        assert (status, entity["id"]) == (200, service.external(kind, number))
        _, _, near = service.call(f"{path}/neighbours?of=artists&k=3")
        others = set(texts(service, "artist", 1, 2, 3)) - ({entity["id"]} if kind == "artist" else set())
        assert {one["id"] for one in near["neighbours"]} == others
        bodies += [entity, near]
    _, _, search = service.call("/v1/search?kind=artists")
    assert {one["id"] for one in search["results"]} == set(texts(service, "artist", 1, 2, 3))
    playlists = texts(service, "playlist", 1, 2, 3)
    _, _, row = service.call("/v1/carousels", {"listener": day, "exclude": playlists[:1], "n_nearest_tracks": 1})
    assert {one["playlist_id"] for one in row["playlists"]} == set(playlists[1:])
    status, _, vector = service.call(f"/v1/users/{user}")
    assert (status, vector["user_id"]) == (200, user)
    _, _, stored = service.call(f"/v1/users/{user}/recommendations?k=5")
    excluded = stored["tracks"][0]["track_id"]
    _, _, shorter = service.call(f"/v1/users/{user}/recommendations?k=4&exclude={excluded}")
    assert shorter["tracks"] == stored["tracks"][1:]
    assert (stored["user_id"], stored["method"]) == (user, "stored")
    for body in (*bodies, search, row, vector, stored):
        assert numbers_in(body) == []


def test_numbers_and_unknown_texts(service):
    response = service.lists({"streams": {"tracks": ["ö/ü?", "12", "ö/ü?"]}}, k=1)
    assert response["unknown"] == {"streams.tracks": ["ö/ü?", "12"]}
    bodies = (
        ("/v1/recommendations", {"listener": {"skips": {"albums": ["1", 7]}}}, "body.listener.skips.albums.1"),
        ("/v1/recommendations", {"listener": {"user_id": 7}}, "body.listener.user_id"),
        ("/v1/recommendations", {"listener": {}, "exclude": [7]}, "body.exclude.0"),
        ("/v1/recommendations/batch", {"listeners": [{}, {"bans": {"tracks": [7]}}]}, "body.listeners.1.bans.tracks.0"),
        ("/v1/carousels", {"listener": {}, "exclude": [7]}, "body.exclude.0"),
    )
    for path, body, field in bodies:
        status, _, response = service.call(path, body)
        if service.form == "integer":
            assert status == 200
        else:
            assert (status, response["details"][0]["field"]) == (422, field)
            assert "are strings" in response["details"][0]["message"]
    rounded = {"listener": {"onboarding": {"artists": [int(FORMS["integer"]("artist", 1))]}}}
    status, _, response = service.call("/v1/recommendations", rounded)
    assert (status, response["details"][0]["field"]) == (422, "body.listener.onboarding.artists.0")
    assert "as a string" in response["details"][0]["message"]


def test_an_id_with_slashes_reaches_the_routes(service):
    for path in ("/v1/tracks/https%3A%2F%2Fa%2Fb", "/v1/users/a%2Fb", "/v1/users/a%2Fb/recommendations"):
        status, _, response = service.call(path)
        assert status == 404
        assert "has no track https://a/b" in response["detail"] or "unknown user" in response["detail"]


def random_ids(n: int) -> list[str | int]:
    """Return ids of every kind: texts of any characters, decimal texts of any size, numbers."""
    rng = np.random.default_rng(11)
    points = [*range(1, 0x300), 0x2028, 0xFFFD, 0x1F3B5, 0x10FFFF]
    edges = ["0", "00", "-1", "+1", "1.0", " 1", "\u0661", "1e3", str(MAX_ID), str(MAX_ID + 1), 0, MAX_SAFE_INTEGER]
    free = ["".join(chr(rng.choice(points)) for _ in range(rng.integers(1, 40))) for _ in range(n)]
    decimal = [str(rng.integers(0, 10, rng.integers(1, 21)))[1:-1].replace(" ", "") for _ in range(n)]
    return [*edges, *free, *decimal, *rng.integers(0, MAX_SAFE_INTEGER, n).tolist()]


def test_every_id_is_reported_as_sent_or_refused(built, ready):
    """The release contains none of these ids: each is reported as the request contains it, and never altered."""
    integers = loaded(built["integer"].folder)
    for external in random_ids(300):
        body = json.dumps({"searches": {"tracks": [external]}})
        listener = schema.Listener.model_validate_json(body)
        signals = read_listener(integers, listener)
        assert signals.unknown == {"searches.tracks": [str(external)]}
        assert signals.lists["searches.tracks"] == [i for i in [internal_id(external, "integer")] if i is not None]
        assert read_options(integers, schema.ListOptions(exclude=[external])).exclude == ()
        if isinstance(external, int):
            with pytest.raises(RequestValidationError):
                read_listener(ready, listener)
        else:
            assert read_listener(ready, listener).lists["searches.tracks"] == [stable_id(external)]
            assert read_listener(ready, listener).unknown == {"searches.tracks": [external]}


def test_texts_of_ids_survive_the_arrays():
    rng = np.random.default_rng(5)
    for n in (0, 1, 500):
        texts = {int(i): str(text) for i, text in zip(rng.integers(0, MAX_ID, n), random_ids(n), strict=False)}
        table = IdTexts.build(texts)
        assert table.of(np.array(list(texts), np.int64)) == list(texts.values())
        assert all(
            (array.dtype.hasobject, array.ndim) == (False, 1) for array in (table.ids, table.offsets, table.utf8)
        )


def test_generated_ids_of_a_text_kind_are_their_decimal_text():
    generated = 2**62 + 5
    ids = ExternalIds({"playlist": "text"}, {"playlist": IdTexts.build({generated: str(generated)})})
    assert ids.outside("playlist", generated) == str(generated)
    assert ids.inside("playlist", str(generated)) == generated
    assert ids.inside("playlist", "mix") == stable_id("mix")


def test_release_without_texts_is_refused_and_an_older_one_has_integers(built, tmp_path):
    folder = shutil.copytree(built["text"].folder, tmp_path / built["text"].folder.name)
    (folder / external_ids.FOLDER / "track.utf8.npy").unlink()
    with pytest.raises(CheckFailed, match="external_ids/track cannot be read"):
        external_ids.read(folder, {"track": "text"})
    assert external_ids.read(folder, {}).outside("track", 7) == "7"


def test_exposure_log_and_outcomes_have_external_ids_and_become_internal_rows(built, ready, tmp_path):
    context, day = built["text"].context, "2026-11-24"
    arms = tuple(Arm(name=name, method="semi_pers", share=0.5) for name in ("a", "b"))
    experiment = Experiment(name="e", arms=arms, first_day=day, last_day=day)
    running = ActiveExperiment(experiment, np.random.default_rng(0), log_signals=True)
    users, track = [source_ids.as_uuid("user", n) for n in range(20)], source_ids.as_uuid("track", 1003)
    requests = [{"user_id": user, "streams": {"tracks": [track, "unknown"], "artists": []}} for user in users]
    listeners = [read_listener(ready, schema.Listener.model_validate(request)) for request in requests]
    at, options = datetime(2026, 11, 24, 9, tzinfo=UTC), read_options(ready, schema.ListOptions(k=3, exclude=[track]))
    shown = running.recommend(ready, listeners, options, at)
    log = ExposureLog(tmp_path)
    log.write(shown.lines)
    log.close()
    line = shown.lines[0]
    assert line["context"]["leave_out"] == [track]
    assert line["context"]["listener"] == {"streams": {"tracks": [track, "unknown"], "artists": []}}
    outcome = {"request_id": line["request_id"], "user_id": line["user_id"], "track_id": line["tracks"][1]}
    outcome |= {"ts": at.isoformat(), "kind": "stream"}
    (tmp_path / f"outcomes-{day}.jsonl").write_text(json.dumps(outcome) + "\n")
    report = ingest.run(context, tmp_path)
    assert (report["bad"], report["rows"]) == ({}, {"exposures": 60, "exposure_contexts": 20, "outcomes": 1})
    exposures = context.lake.read("exposures", day=day).to_pylist()
    assert {row["user_external_id"] for row in exposures} == set(users)
    assert all(row["user_id"] == stable_id(row["user_external_id"]) for row in exposures)
    assert {row["track_id"] for row in exposures} <= set(ready.track_idx)
    (streamed,) = context.lake.read("outcomes", day=day).to_pylist()
    assert (streamed["user_id"], streamed["track_id"]) == tuple(map(stable_id, (line["user_id"], line["tracks"][1])))
    (row, *_) = context.lake.read("exposure_contexts", day=day).to_pylist()
    assert row["streamed_songs"] == [stable_id(track), stable_id("unknown")]
    assert row["leave_out"] == [stable_id(track)]


def test_lists_do_not_depend_on_the_form_of_the_ids(built, ready):
    """The same listener gets the same tracks from releases that differ in ids only."""
    day = {"country": "DE", "streams": {"tracks": [1003, 1044]}}
    lists = []
    for form, week in built.items():
        release = ready if form == "text" else loaded(week.folder)
        tracks = [week.external("track", number) for number in day["streams"]["tracks"]]
        listener = schema.Listener.model_validate({**day, "streams": {"tracks": tracks}})
        lists.append(
            recommender.recommend(release, [read_listener(release, listener)], ListParameters(k=20))[0]["tracks"]
        )
    assert lists[0] == lists[1]
