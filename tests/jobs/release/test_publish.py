"""Tests of publishing known users: the rows of the champion's own week under the champion, or nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from contracts.errors import BadArgument, CheckFailed
from jobs.platform.list_columns import to_list_column
from jobs.release import bundle, known_users, pointer, promote, publish, rollback
from jobs.release.cold_start import bundle as cold_start_bundle
from models.cold_start.top_k import normalise, top_k
from serving.release.bundle import open_release
from serving.settings import StoreSettings
from serving.stores import open_store
from serving.stores.interface import HISTORY, NotPublished, StoreUnavailable, find_user
from tests.helpers import small_week


@pytest.fixture
def champion(home):
    """Return the context of a home with the first week as champion."""
    return small_week.staged(home, "champion")


@pytest.fixture
def stored_champion(champion, store_settings):
    """Return the same, for each kind of store in turn."""
    return with_store(champion, store_settings)


def with_store(context, settings, **changes):
    """Return the context with other settings of the store."""
    changed = context.settings.model_copy(update={"store": settings.model_copy(update=changes)})
    return type(context)(changed, context.week, context.home)


def find_row(context, release, user):
    """Return the row of a user, read through a connection of its own."""
    store = open_store(context.settings.store, context.home)
    try:
        return find_user(store, release, "tt_svd", int(user))
    finally:
        store.close()


def test_known_user_has_learned_vector_nearest_segment_and_best_tracks(stored_champion, monkeypatch):
    champion = stored_champion
    monkeypatch.setattr(known_users, "BLOCK", 100)  # more than one block, the last one short
    report = publish.run(champion)
    assert report["users"] == {"warm": small_week.N_WARM, "cold": 0}
    release = open_release(pointer.releases(champion.home) / report["release"])
    ids, vectors = small_week.warm_users()
    space = release.spaces["tt_svd"]
    lists = release.track_ids[top_k(vectors, space.array("track_vectors"), 50, space.layout["similarity"])]
    gaps = normalise(vectors)[:, None] - space.array("centroids")[None]
    segments = (gaps**2).sum(2).argmin(1)
    store = open_store(champion.settings.store, champion.home)
    for u in range(small_week.N_WARM):
        row = find_user(store, release.folder.name, "tt_svd", int(ids[u]))
        assert (row.kind, row.since) == ("warm", small_week.FIRST)
        np.testing.assert_array_equal(row.vector_D, vectors[u])
        np.testing.assert_array_equal(row.track_ids, lists[u])
        if u < small_week.N_WARM - 1:  # all centroids have the same distance from an empty vector
            assert row.segment_id == segments[u]
    assert find_user(store, release.folder.name, "tt_svd", 9_000) is None
    store.close()


def test_rows_have_the_history_and_lists_without_what_was_banned(stored_champion, monkeypatch):
    champion = stored_champion
    monkeypatch.setattr(known_users, "BLOCK", 100)
    release = open_release(pointer.releases(champion.home) / bundle.release_of_week(champion))
    catalogue, space = release.spaces["tt_svd"].catalogue, release.spaces["tt_svd"]
    ids, vectors = small_week.warm_users()
    order = release.track_ids[top_k(vectors, space.array("track_vectors"), small_week.N_TRACKS, "dot")]
    artist_of = dict(zip(catalogue.track_id_N.tolist(), catalogue.artist_id_N.tolist(), strict=True))
    histories = {
        7: {"heard_tracks": order[7, :3].tolist(), "banned_tracks": order[7, [0, 2, 60]].tolist()},
        8: {"banned_artists": [artist_of[int(order[8, 0])]]},
        9: {"banned_albums": [artist_of[int(order[9, 0])]]},  # an album has the id of its artist
        10: {"banned_artists": [1, 2, 3], "banned_tracks": [5]},
    }
    small_week.write_history(champion, [{"user_id": int(ids[u])} | lists for u, lists in histories.items()])
    before = publish.run(champion, dry_run=True)["publication"]
    assert publish.run(champion)["users"]["warm"] == small_week.N_WARM
    for u in range(6, 12):
        row, lists = find_row(champion, release.folder.name, ids[u]), histories.get(u, {})
        for name in HISTORY:
            assert getattr(row, name).tolist() == lists.get(name, [])
        artists = lists.get("banned_artists", lists.get("banned_albums", []))
        banned = {*lists.get("banned_tracks", []), *(track for track in artist_of if artist_of[track] in artists)}
        allowed = [track for track in order[u].tolist() if track not in banned][:50]
        assert row.track_ids.tolist() == allowed + [-1] * (50 - len(allowed))
    small_week.write_history(champion, [{"user_id": int(ids[7]), "banned_tracks": [1]}])
    assert publish.run(champion, dry_run=True)["publication"] != before


def test_repeated_publishing_gives_equal_rows_and_retains_the_previous_release(stored_champion, store_settings):
    champion = stored_champion
    first = publish.run(champion)
    again = publish.run(champion)
    assert {**again, "mlflow_run": "", "mlflow_url": ""} == {**first, "mlflow_run": "", "mlflow_url": ""}
    second = small_week.build_and_gate(small_week.ready(champion.home, small_week.SECOND))
    promote.run(second)
    second = with_store(second, store_settings)
    assert publish.run(second)["retired"] == []
    user = small_week.warm_users()[0][0]
    assert find_row(champion, first["release"], user), "rows of the previous release are needed for a rollback"
    assert find_row(champion, bundle.release_of_week(second), user)
    rollback.run(second)
    assert publish.run(second)["release"] == first["release"]


def test_third_release_retires_the_first(stored_champion, store_settings):
    """The first publication after the grace period removes the release."""
    champion = stored_champion
    publish.run(champion)
    first, user = bundle.release_of_week(champion), small_week.warm_users()[0][0]
    for n, week in enumerate((small_week.SECOND, "2026-11-30")):
        context = small_week.build_and_gate(small_week.ready(champion.home, week))
        promote.run(context)
        report = publish.run(with_store(context, store_settings))
        assert report["retired"] == ([first] if n else [])
    assert find_row(champion, first, user)
    assert publish.run(with_store(context, store_settings, grace_s=0))["removed"] == [first]
    with pytest.raises(NotPublished):
        find_row(champion, first, user)


def test_week_that_was_run_again_raises(stored_champion):
    champion = stored_champion
    lake, where = champion.lake, {"week": small_week.FIRST, "space": "tt_svd"}
    publish.run(champion)
    before = find_row(champion, bundle.release_of_week(champion), small_week.warm_users()[0][0])
    for table, column in (("track_vectors", "vector"), ("segments", "centroid")):
        rows = lake.read(table, **where)
        at = rows.schema.get_field_index(column)
        other = np.stack(rows.column(column).to_pylist()).astype(np.float32)
        other[0] += 0.5
        lake.write(table, rows.set_column(at, rows.schema.field(at), to_list_column(other)), **where)
        with pytest.raises(CheckFailed, match="the week was run again"):
            publish.run(champion)
        lake.write(table, rows, **where)
    lake.write("user_vectors", lake.read("user_vectors", **where).slice(5), **where)
    with pytest.raises(CheckFailed, match=r"5 of 240 users have no row"):
        publish.run(champion)
    after = find_row(champion, bundle.release_of_week(champion), before.user_id)
    np.testing.assert_array_equal(after.vector_D, before.vector_D)
    lake.drop("user_vectors", **where)
    with pytest.raises(CheckFailed, match=r"user_vectors: .* has not been written"):
        publish.run(champion)


def test_list_length_is_the_setting_but_at_most_the_catalogue(stored_champion, store_settings):
    champion = stored_champion
    for wanted, length in ((7, 7), (1_000, small_week.N_TRACKS)):
        report = publish.run(with_store(champion, store_settings, list_length=wanted))
        row = find_row(champion, report["release"], small_week.warm_users()[0][3])
        assert len(row.track_ids) == length


def test_dry_run_reports_and_writes_nothing(champion):
    before = sorted(str(path) for path in champion.home.rglob("*"))
    report = publish.run(champion, dry_run=True)
    assert (report["users"], report["bytes"]) == ({"warm": 240, "cold": 0}, 240 * (8 + 4 + 4 * 10 + 8 * 50))
    assert report["history_bytes_at_most"] == 240 * 8 * 1_000
    assert publish.run(champion, "redis", dry_run=True)["store"] == "redis 127.0.0.1:6379"
    assert sorted(str(path) for path in champion.home.rglob("*")) == before


def test_error_names_unknown_and_unavailable_stores(champion, monkeypatch):
    with pytest.raises(
        BadArgument, match="--store: 'cassette' is not a kind of store; choose memory, redis, cassandra"
    ):
        publish.run(champion, "cassette")
    settings = champion.settings.model_copy(
        update={"store": StoreSettings(kind="redis", redis_url="redis://:sesame@127.0.0.1:1/0")}
    )
    with pytest.raises(StoreUnavailable, match=r"the redis 127\.0\.0\.1:1 store does not answer") as raised:
        publish.run(type(champion)(settings, champion.week, champion.home))
    assert raised.value.exit_code == 1
    assert not (pointer.releases(champion.home) / pointer.PUBLISHED).exists()
    assert "sesame" not in str(raised.value)


def test_command_publishes_to_the_named_store(champion, command, monkeypatch, tmp_path):
    settings = tmp_path / "small.yaml"
    settings.write_text(json.dumps(small_week.settings().model_dump(mode="json", exclude={"service", "store"})))
    code, out, err = command("release", "publish", "--week", small_week.FIRST, "--config", settings, "--dry-run")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["users"]["warm"] == small_week.N_WARM
    code, _, err = command("release", "publish", "--week", small_week.FIRST, "--config", settings, "--store", "x")
    assert (code, "--store" in err) == (2, True)


def test_addresses_and_store_do_not_change_the_release_name(home, tmp_path):
    names = set()
    for n, store in enumerate((StoreSettings(), StoreSettings(kind="redis", redis_url="redis://elsewhere:1/0"))):
        context = small_week.ready(tmp_path / str(n))
        context.settings = context.settings.model_copy(update={"store": store})
        names.add(bundle.build(context, cold_start_bundle)[0].name)
    assert len(names) == 1
