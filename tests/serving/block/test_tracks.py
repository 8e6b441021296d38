"""What a block list hides of a release."""

from __future__ import annotations

import numpy as np
import pytest

from serving.block.entries import EMPTY, BlockList, Collector
from serving.block.tracks import blocked_tracks, hidden
from serving.release.loaded import LoadedRelease
from serving.release.pointer import Pointer
from tests.helpers import small_week


@pytest.fixture(scope="module")
def loaded(template_home):
    from serving.release import pointer
    from serving.release.bundle import open_release

    name = (template_home / f"{small_week.FIRST}.txt").read_text()
    folder = pointer.releases(template_home) / name
    return LoadedRelease(open_release(folder), Pointer(name, None, 1, small_week.FIRST))


def block_list(*entries) -> BlockList:
    collector = Collector("x")
    for kind, external_id, *countries in entries:
        collector.add(kind, str(external_id), countries)
    return BlockList.merge("x", [collector])


def tracks_of(loaded, of_kind: str, entity: int) -> set[int]:
    return {i for i, track in enumerate(loaded.tracks) if getattr(track, of_kind) == entity}


def test_a_track_an_artist_and_an_album_hide_their_tracks(loaded):
    track = loaded.tracks[3]
    assert blocked_tracks(loaded, block_list(("track", track.track_id)), None) == {3}
    for kind in ("artist", "album"):
        expected = tracks_of(loaded, f"{kind}_id", 2)
        assert blocked_tracks(loaded, block_list((kind, 2)), None) == expected
        assert blocked_tracks(loaded, block_list((kind, 2), ("track", track.track_id)), None) == expected | {3}


def test_an_empty_list_and_unknown_ids_hide_nothing(loaded):
    unknown = block_list(("track", "no such id"), ("artist", 10**12), ("album", "0001"))
    assert hidden(loaded, EMPTY, "DE").tracks == hidden(loaded, unknown, "DE").tracks == frozenset()
    assert not any(hidden(loaded, unknown, None).ids.values())


def test_countries_apply_to_their_listeners_only(loaded):
    first, second = (track.track_id for track in loaded.tracks[:2])
    entries = block_list(("track", first), ("track", second, "DE", "AT"))
    assert blocked_tracks(loaded, entries, "DE") == blocked_tracks(loaded, entries, "AT") == {0, 1}
    assert blocked_tracks(loaded, entries, "FR") == blocked_tracks(loaded, entries, None) == {0}


def test_an_artist_without_any_track_left_is_hidden(loaded):
    tracks = [("track", loaded.tracks[i].track_id) for i in tracks_of(loaded, "artist_id", 2)]
    assert hidden(loaded, block_list(*tracks[1:]), None).ids["artists"] == frozenset()
    everything = hidden(loaded, block_list(*tracks), None)
    assert (everything.ids["artists"], everything.ids["albums"]) == ({2}, {2})
    assert not everything.keeps(loaded, "artists", 2)
    assert everything.keeps(loaded, "artists", 1)
    assert everything.keeps(loaded, "playlists", 2)


def test_a_long_list_equals_a_short_one(loaded):
    chosen = np.random.default_rng(3).choice(small_week.N_TRACKS, 40, replace=False).tolist()
    entries = [("track", loaded.tracks[i].track_id) for i in chosen]
    others = [("track", 10**9 + i) for i in range(1_000)]
    assert blocked_tracks(loaded, block_list(*entries), None) == set(chosen)
    assert blocked_tracks(loaded, block_list(*entries, *others), None) == set(chosen)
