"""Test the simulated service: equal seeds give equal bytes, shares and cohorts are correct, streams are predictable."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import contracts
from contracts.errors import BadArgument
from jobs.ingest.event_buffer import EventBuffer, event_table, events, sort_day
from jobs.ingest.simulate import adapter as simulate
from jobs.ingest.simulate.catalogue import BEFORE_LOG, build, track_table
from jobs.ingest.simulate.listeners import Ids, draw_block
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import Settings

SIZES = {"n_users": 9000, "n_tracks": 3000, "n_playlists": 900, "first_day": "2026-09-28", "last_day": "2026-11-15"}


def context_at(home, **changes):
    settings = Settings.model_validate({"name": "t", "week": "2026-11-16", "simulate": {**SIZES, **changes}})
    return Context(settings, Week.parse("2026-11-16"), home)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    context = context_at(tmp_path_factory.mktemp("simulate"))
    return context, simulate.run(context, None)


@pytest.fixture(scope="module")
def users(simulated):
    return simulated[0].lake.read("users").to_pandas()


@pytest.fixture(scope="module")
def log(simulated, users):
    lake = simulated[0].lake
    parts = []
    for partition in lake.partitions("events"):
        parts.append(lake.read("events", **partition).to_pandas().assign(day=partition["day"]))
    joined = pd.concat(parts, ignore_index=True).merge(users, on="user_id", how="left", validate="many_to_one")
    since = joined.ts.dt.floor("D") - joined.registered_at.dt.floor("D")
    return joined.assign(since=since.dt.days)


@pytest.fixture(scope="module")
def tracks(simulated):
    return simulated[0].lake.read("tracks").to_pandas()


def digest(context):
    """Return one hash of all Parquet bytes of the lake, by table and partition."""
    sha = hashlib.sha256()
    for table in ("users", "tracks", "playlists", "events"):
        for partition in context.lake.partitions(table):
            for file in map(Path, context.lake.files(table, **partition)):
                sha.update(json.dumps(partition).encode() + file.read_bytes())
    return sha.hexdigest()


SMALL = {"n_users": 8500, "n_tracks": 300, "n_playlists": 60, "first_day": "2026-11-08"}
# rows of SMALL, computed before `release_share` was added
ROWS_WITHOUT_RELEASES = "82eee006c81a921aa8121432deae2d28005d51687bd741cb76da178ed54801d2"


def test_same_seed_and_sizes_give_the_same_bytes_for_any_chunk_size(tmp_path):
    contexts = {
        name: context_at(tmp_path / name, **SMALL, **changes)
        for name, changes in {"a": {}, "b": {"chunk_users": 1}, "c": {"seed": 8}}.items()
    }
    for context in contexts.values():
        simulate.run(context)
    before = digest(contexts["a"])
    assert before == digest(contexts["b"])
    assert before != digest(contexts["c"])
    simulate.run(contexts["a"])
    assert digest(contexts["a"]) == before


def test_a_smaller_span_removes_old_days_and_temporary_files(tmp_path):
    simulate.run(context_at(tmp_path, **SMALL))
    report = simulate.run(context_at(tmp_path, **SMALL | {"n_users": 500, "last_day": "2026-11-13"}))
    assert report["days_dropped"] == ["2026-11-14", "2026-11-15"]
    lake = context_at(tmp_path).lake
    assert [p["day"] for p in lake.partitions("events")] == [f"2026-11-{d:02d}" for d in range(8, 14)]
    assert not list((tmp_path / "scratch").glob("ingest*"))


def test_report_counts_equal_the_rows_of_the_lake(simulated, log):
    context, report = simulated
    assert report["rows"] == {
        "users": 9000,
        "tracks": 3000,
        "events": len(log),
        "playlists": context.lake.rows("playlists"),
    }
    assert report["days"] == {"written": 49, "first": "2026-09-28", "last": "2026-11-15"}
    assert report["events_repeated"] == 0


def test_events_are_unique_sorted_within_their_day_and_never_outside_the_span(log):
    tied = log[log.duplicated(["user_id", "ts"], keep=False)]
    assert len(tied) > 0
    assert not tied.duplicated(list(contracts.load("events").grain)).any()
    assert (log.ts.dt.strftime("%Y-%m-%d") == log.day).all()
    assert log.ts.min() >= pd.Timestamp("2026-09-28", tz="UTC")
    assert log.ts.max() < pd.Timestamp("2026-11-16", tz="UTC")
    by_day, ts, user = log.day.to_numpy(), log.ts.astype("int64").to_numpy(), log.user_id.to_numpy()
    later = (ts[1:] > ts[:-1]) | ((ts[1:] == ts[:-1]) & (user[1:] >= user[:-1]))
    assert (later | (by_day[1:] != by_day[:-1])).all()


def test_no_event_precedes_registration(log):
    assert (log.ts >= log.registered_at).all()


def test_every_reference_exists_at_its_level(simulated, log, tracks):
    playlists = simulated[0].lake.read("playlists").to_pandas()
    known = {
        "track": set(tracks.track_id),
        "artist": set(tracks.artist_id),
        "album": set(tracks.album_id),
        "playlist": set(playlists.playlist_id),
    }
    for entity, ids in known.items():
        assert set(log.entity_id[log.entity == entity]) <= ids
    for one, other in (("track", "artist"), ("artist", "album"), ("album", "playlist")):
        assert not known[one] & known[other]
    assert set(playlists.track_id) <= known["track"]
    assert tracks.groupby("album_id").artist_id.nunique().max() == 1


def test_all_kinds_and_levels_occur_and_only_allowed_pairs(log):
    pairs = {kind: set(part.entity) for kind, part in log.groupby("kind")}
    all_levels = {"track", "artist", "album", "playlist"}
    assert pairs == {
        "stream": {"track"},
        "skip": {"track"},
        "ban": {"track"},
        "favorite": all_levels,
        "search": all_levels,
        "onboarding": {"artist"},
    }
    assert (log.listened_s.notna() == log.kind.isin(["stream", "skip"])).all()
    assert log.listened_s[log.kind == "skip"].max() < 30 <= log.listened_s[log.kind == "stream"].min()
    assert set(log.since[log.kind == "onboarding"]) == {0}


def test_shares_of_the_first_day(log, users):
    new = users[users.registered_at >= pd.Timestamp("2026-09-28", tz="UTC")]
    first = log[log.since == 0]
    assert first.user_id[first.kind == "stream"].nunique() / len(new) == pytest.approx(0.77, abs=0.015)
    assert first.user_id.nunique() / len(new) == pytest.approx(0.95, abs=0.01)


def test_countries_and_ages_have_realistic_shares(users):
    shares = users.country.value_counts(normalize=True)
    assert len(shares) == 12
    assert shares.iloc[0] > 5 * shares.iloc[-1]
    assert users.country.isna().mean() == pytest.approx(0.06, abs=0.01)
    assert users.age.isna().mean() == pytest.approx(0.14, abs=0.015)
    assert users.age.min() >= 5
    assert users.age.max() <= 90
    classes = np.histogram(users.age.dropna(), [0, 18, 25, 35, 50, 200])[0] / users.age.notna().sum()
    assert classes.min() > 0.05


def test_every_week_has_a_cohort_of_the_same_size_and_there_is_a_backlog(users):
    since = (users.registered_at - pd.Timestamp("2026-09-28", tz="UTC")).dt.days
    weeks = (since[since >= 0] // 7).value_counts()
    assert len(weeks) == 7
    assert weeks.max() - weeks.min() <= 4
    assert (since < 0).sum() == round(0.12 * 9000)


def test_most_new_listeners_have_a_ground_truth(log, users):
    first_week = users.registered_at.between(
        pd.Timestamp("2026-09-28", tz="UTC"), pd.Timestamp("2026-10-05", tz="UTC"), inclusive="left"
    )
    streams = log[(log.kind == "stream") & log.since.between(1, 30) & log.user_id.isin(users.user_id[first_week])]
    n_tracks = streams.groupby("user_id").entity_id.nunique().reindex(users.user_id[first_week], fill_value=0)
    assert (n_tracks >= 20).mean() >= 0.70
    assert n_tracks.std() > 10


def hits_at_50(rankings, truth):
    return np.mean([len(set(rankings[user]) & relevant) / min(len(relevant), 50) for user, relevant in truth.items()])


def test_first_day_predicts_streams_better_than_country_and_age(log, tracks, users):
    streams = log[log.kind == "stream"]
    cut = pd.Timestamp("2026-10-12", tz="UTC")
    warm = streams[streams.registered_at < cut].drop_duplicates(["user_id", "entity_id"])
    late = streams[(streams.registered_at >= cut) & streams.since.between(1, 30) & (streams.user_id % 7 == 0)]
    first = streams[(streams.since == 0) & (streams.user_id % 7 == 0)].groupby("user_id").entity_id
    truth = {user: set(group) for user, group in late.groupby("user_id").entity_id if group.nunique() >= 20}
    truth = {user: truth[user] for user in truth.keys() & first.groups.keys()}
    column = {track: i for i, track in enumerate(tracks.track_id)}
    rows, inverse = np.unique(warm.user_id, return_inverse=True)
    matrix = np.zeros((len(rows), len(column)), np.float32)
    matrix[inverse, warm.entity_id.map(column)] = 1
    total = matrix.sum(0)

    def top(score):
        return tracks.track_id.to_numpy()[np.argsort(-score)[:50]]

    by_popularity = hits_at_50(dict.fromkeys(truth, top(total)), truth)
    normal = matrix / np.sqrt(total + 1) / np.sqrt(matrix.sum(1, keepdims=True) + 1)
    neighbour_rankings = {}
    for user in truth:
        similarity = normal[:, first.get_group(user).map(column)].sum(1)
        peers = np.argsort(-similarity)[:60]
        neighbour_rankings[user] = top(similarity[peers] @ matrix[peers])
    by_first_day = hits_at_50(neighbour_rankings, truth)

    facts = users.assign(age_class=pd.cut(users.age, [0, 18, 25, 35, 50, 200], right=False, labels=False))
    facts = facts.set_index("user_id")[["country", "age_class"]]
    known, means = facts.loc[rows], {}
    for name in facts:
        for value in known[name].dropna().unique():
            peers = (known[name] == value).to_numpy()
            means[name, value] = (matrix[peers].sum(0) + 50 * total / len(rows)) / (peers.sum() + 50)
    facts_rankings = {}
    for user in truth:
        own = [means[key] for key in facts.loc[user].items() if key in means]
        facts_rankings[user] = top(np.prod(own, axis=0)) if own else top(total)
    by_facts = hits_at_50(facts_rankings, truth)

    assert by_popularity * 1.1 < by_facts < by_first_day
    assert by_first_day > 2.2 * by_popularity
    assert 0.2 < by_first_day < 0.6


def test_playlists_have_dense_positions_dates_and_one_owner(simulated, users):
    playlists = simulated[0].lake.read("playlists").to_pandas()
    assert not playlists.duplicated(["playlist_id", "position"]).any()
    assert not playlists.duplicated(["playlist_id", "track_id"]).any()
    assert (playlists.groupby("playlist_id").position.max() + 1 == playlists.groupby("playlist_id").size()).all()
    assert playlists.playlist_id.nunique() == 900
    assert playlists.groupby("playlist_id").user_id.nunique().max() == 1
    assert playlists.added_at.max() < pd.Timestamp("2026-11-16", tz="UTC")
    owned = playlists.dropna(subset="user_id").merge(users, on="user_id", how="left")
    assert (owned.added_at >= owned.registered_at).all()
    assert 0.1 < 1 - len(owned) / len(playlists) < 0.5


def test_editorial_playlists_and_four_in_five_of_the_owned_ones_are_public(simulated):
    playlists = simulated[0].lake.read("playlists").to_pandas()
    assert playlists.public[playlists.user_id.isna()].all()
    owned = playlists.dropna(subset="user_id").groupby("playlist_id").public
    assert owned.nunique().max() == 1
    assert owned.first().mean() == pytest.approx(0.8, abs=0.01)
    assert playlists.title.notna().all()
    assert playlists.groupby("playlist_id").title.nunique().max() == 1


@pytest.mark.parametrize(
    ("changes", "setting"),
    [({"last_day": "2026-02-30"}, "simulate.last_day"), ({"first_day": "2026-11-15"}, "after first_day")],
)
def test_an_invalid_span_raises_with_the_setting(tmp_path, changes, setting):
    with pytest.raises(BadArgument, match=setting):
        simulate.run(context_at(tmp_path, **changes))


def test_a_data_folder_is_rejected(tmp_path):
    with pytest.raises(BadArgument, match="--data"):
        simulate.run(context_at(tmp_path), tmp_path)


def test_very_few_users_and_tracks_are_supported(tmp_path):
    report = simulate.run(context_at(tmp_path, n_users=30, n_tracks=25, n_playlists=1))
    assert report["rows"]["users"] == 30
    assert report["rows"]["tracks"] == 25


def test_event_buffer_groups_do_not_depend_on_the_number_of_additions(tmp_path):
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 5, 1000)
    rows = events(rng.integers(0, 50, 1000), keys * 86_400_000_000 + rng.integers(0, 99, 1000), 0, np.arange(1000))
    one, many = EventBuffer(tmp_path, "one"), EventBuffer(tmp_path, "many")
    one.add(keys, rows)
    for part in np.array_split(np.arange(1000), 7):
        many.add(keys[part], rows[part])
    for (key, a), (other, b) in zip(one.groups(), many.groups(), strict=True):
        assert key == other
        assert np.array_equal(a, b)
        assert np.array_equal(np.sort(a["entity_id"]), np.flatnonzero(keys == key))


def test_sort_day_drops_only_exact_repeats():
    rows = events(
        np.array([2, 1, 2, 2, 1]), np.array([5, 5, 5, 5, 4]), np.array([0, 0, 0, 4, 0]), np.array([9, 9, 9, 9, 8])
    )
    ordered, repeats = sort_day(rows)
    assert repeats == 1
    assert ordered[["ts", "user_id", "code"]].tolist() == [(4, 1, 0), (5, 1, 0), (5, 2, 0), (5, 2, 4)]
    assert event_table(ordered)["listened_s"].null_count == 4
    assert event_table(ordered)["kind"].to_pylist() == ["stream", "stream", "stream", "skip"]
    assert event_table(ordered).schema.field("ts").type == pa.timestamp("us", "UTC")


def day_numbers(table, column):
    """Return a date or timestamp column as days since 1970, -1 where unknown."""
    days = table.column(column).cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]").astype(np.int64)
    return np.where(np.isnat(table.column(column).cast(pa.timestamp("us")).to_numpy()), -1, days)


def read_events(context):
    return pa.concat_tables([context.lake.read("events", **part) for part in context.lake.partitions("events")])


@pytest.fixture(scope="module")
def releasing(tmp_path_factory):
    context = context_at(tmp_path_factory.mktemp("releasing"), release_share=0.3)
    simulate.run(context, None)
    return context


def test_without_releases_the_rows_are_those_of_the_versions_before_the_option():
    settings = context_at(Path("unused"), **SMALL).settings.simulate
    world, span = build(settings), simulate.read_span(settings)
    assert settings.release_share == 0
    assert (world.track_release == BEFORE_LOG).all()
    ids = Ids.of(world, settings)
    block = draw_block(world, ids, settings, span, 1)
    sha = hashlib.sha256(block.events.tobytes())
    for name in ("playlist_id", "position", "track_id", "added_at"):
        sha.update(block.playlists[name].astype(np.int64).tobytes())
    for column in [*simulate.editorial(world, ids, settings, span), *track_table(world, settings).columns]:
        sha.update(json.dumps(column.to_pylist(), default=str).encode())
    assert sha.hexdigest() == ROWS_WITHOUT_RELEASES


def test_features_reveal_the_scene_and_change_nothing_else():
    settings = context_at(Path("unused"), **SMALL, content_width=16).settings.simulate
    world = build(settings)
    table = track_table(world, settings)
    plain = settings.model_copy(update={"content_width": 0})
    assert table.drop_columns("content_features") == track_table(build(plain), plain)
    hidden = np.argsort(Ids.of(world, settings).track)  # the table is in the order of ids
    scene = world.artist_scene[world.track_artist][hidden]
    x = np.stack(table.column("content_features").to_numpy())
    assert x.shape == (SMALL["n_tracks"], 16)
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    same = scene[:, None] == scene[None]
    np.fill_diagonal(distance, np.inf)
    assert same[np.arange(len(x)), distance.argmin(axis=1)].mean() > 3 * same.mean()


def test_a_share_of_the_albums_is_released_on_days_spread_evenly_over_the_log(releasing, tracks):
    first, last = (np.datetime64(SIZES[name], "D").astype(np.int64) for name in ("first_day", "last_day"))
    table = releasing.lake.read("tracks")
    released = day_numbers(table, "release_date")
    frame = pd.DataFrame({"album": table.column("album_id").to_numpy(), "day": released})
    new = frame[frame.day >= first]
    assert new.groupby("album").day.nunique().max() == 1
    days = new.groupby("album").day.first().to_numpy()
    assert len(days) == round(0.3 * frame.album.nunique())
    assert frame[frame.album.isin(new.album)].day.min() >= first  # an album is released as a whole
    per_day = np.bincount(days - first, minlength=last - first + 1)
    assert len(per_day) == last - first + 1
    assert per_day.max() - per_day.min() <= 1
    old = tracks.set_index("track_id").release_date
    assert (pd.to_datetime(old.dropna()) < pd.Timestamp(SIZES["first_day"])).all()
    same = ["track_id", "artist_id", "album_id", "genre", "duration_s"]
    assert table.select(same).to_pandas().equals(tracks[same])


def test_nothing_is_about_a_track_before_its_release(releasing):
    table, log = releasing.lake.read("tracks"), read_events(releasing)
    track_id, released = table.column("track_id").to_numpy(), day_numbers(table, "release_date")
    order = np.argsort(track_id)

    def release_of(ids):
        return released[order[np.searchsorted(track_id, ids, sorter=order)]]

    is_track = np.asarray(log.column("entity").to_pylist()) == "track"
    day = day_numbers(log, "ts")[is_track]
    of_event = release_of(log.column("entity_id").to_numpy()[is_track])
    first = np.datetime64(SIZES["first_day"], "D").astype(np.int64)
    assert (of_event <= day).all()
    new = of_event >= first
    assert 0.05 < new.mean() < 0.3
    assert ((day - of_event)[new] == 0).any()  # from the very day on
    assert len(np.unique(log.column("entity_id").to_numpy()[is_track][new])) > 0.8 * (released >= first).sum()
    playlists = releasing.lake.read("playlists")
    of_entry, added = release_of(playlists.column("track_id").to_numpy()), day_numbers(playlists, "added_at")
    new_entry = of_entry >= first
    assert (of_entry <= added)[new_entry].all()
    assert 0.02 < new_entry.mean() < 0.3
    assert not (new_entry[playlists.column("user_id").is_null().to_numpy()]).any()
    positions = playlists.to_pandas().groupby("playlist_id").position
    assert (positions.max() + 1 == positions.size()).all()


def test_onboarding_shows_only_artists_with_a_released_track(releasing):
    table, log = releasing.lake.read("tracks").to_pandas(), read_events(releasing).to_pandas()
    first = pd.to_datetime(table.release_date.astype(str), errors="coerce").fillna(pd.Timestamp(0))
    debut = first.groupby(table.artist_id).min()
    likes = log[log.kind == "onboarding"]
    assert (debut > pd.Timestamp(SIZES["first_day"])).any()
    assert (likes.entity_id.map(debut).to_numpy() <= likes.ts.dt.tz_localize(None).to_numpy()).all()


def test_releases_do_not_depend_on_the_size_of_a_chunk(tmp_path):
    contexts = {
        name: context_at(tmp_path / name, **SMALL, release_share=0.5, **changes)
        for name, changes in {"a": {}, "b": {"chunk_users": 1}}.items()
    }
    for context in contexts.values():
        simulate.run(context)
    assert digest(contexts["a"]) == digest(contexts["b"])


def test_a_track_of_the_scene_replaces_one_whose_range_is_not_yet_released(tmp_path):
    world = build(context_at(tmp_path, release_share=1.0).settings.simulate)
    rng = np.random.default_rng(0)
    assert (world.track_release[world.scene_start[:-1]] == BEFORE_LOG).all()
    assert (world.track_release == BEFORE_LOG).sum() < len(world.track_release) / 2
    debut = np.flatnonzero(world.artist_release > BEFORE_LOG)
    day = np.full(len(debut), BEFORE_LOG)
    drawn = world.draw_released(world.artist_start[debut], world.artist_start[debut + 1], day, rng)
    assert (world.track_release[drawn] == BEFORE_LOG).all()
    assert (world.artist_scene[world.track_artist[drawn]] == world.artist_scene[debut]).all()
