"""Private playlists are in no release; a release without any playlist serves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from jobs.cold_start import features
from jobs.release import bundle
from jobs.release.cold_start import bundle as cold_start_bundle
from serving import schema
from serving.release import manifest
from tests.helpers import release_keys, small_week
from tests.helpers.live import Live

EDITORIAL, PUBLIC, PRIVATE, MIXED = 7_100_200_300_401, 7_100_200_300_402, 7_100_200_300_403, 7_100_200_300_404
IS_PUBLIC = {EDITORIAL: [True] * 20, PUBLIC: [True] * 20, PRIVATE: [False] * 20, MIXED: [True] * 19 + [False]}


def build_release(home, playlists: dict[int, list[bool]]):
    """Build a release whose entity vectors are computed from collections, by id and by row whether it is public."""
    context = small_week.ready(home)
    rng, n = np.random.default_rng(5), sum(len(rows) for rows in playlists.values())
    collections = {
        "playlist_id": np.repeat(list(playlists), [len(rows) for rows in playlists.values()]),
        "position": np.concatenate([np.arange(len(rows), dtype=np.int32) for rows in playlists.values()]),
        "track_idx": rng.integers(0, small_week.N_TRACKS, n).astype(np.int32),
        "public": np.concatenate(list(playlists.values())),
    }
    context.lake.write("collections", pa.table(collections), week=context.week.name)
    entities = {space: features.entity_vectors(context, space) for space in small_week.SPACES}
    folder, _ = bundle.build(context, cold_start_bundle)
    return context, entities, folder


def start(context, folder) -> Live:
    release_keys.promote(context.home, folder.name)
    return Live(context.home)


def test_no_file_of_a_release_contains_the_id_of_a_private_playlist(home):
    context, entities, folder = build_release(home, IS_PUBLIC)
    for space in small_week.SPACES:
        assert entities[space].ids["playlist"].tolist() == [EDITORIAL, PUBLIC]
        table = context.lake.read("entity_vectors", week=context.week.name, space=space)
        of_kind = {row["entity_id"] for row in table.to_pylist() if row["kind"] == "playlist"}
        assert of_kind == {EDITORIAL, PUBLIC}
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for playlist, contained in {EDITORIAL: True, PUBLIC: True, PRIVATE: False, MIXED: False}.items():
        assert (playlist.to_bytes(8, "little") in content) == contained
        assert str(playlist).encode() not in content


def test_no_response_contains_a_private_playlist(home):
    context, _, folder = build_release(home, IS_PUBLIC)
    live = start(context, folder)
    try:
        listener = {"country": "BR", "favourites": {"playlists": [PRIVATE, PUBLIC]}}
        status, _, row = live.call("/v1/carousels", {"listener": listener, "n": 50})
        assert status == 200
        assert {playlist["playlist_id"] for playlist in row["playlists"]} == {str(EDITORIAL), str(PUBLIC)}
        assert row["unknown"] == {"favourites.playlists": [str(PRIVATE)]}, (
            "it is as unknown as an id that never existed"
        )
        assert live.call(f"/v1/playlists/{PUBLIC}")[0] == 200
        assert live.call(f"/v1/playlists/{PRIVATE}")[0] == 404
        _, _, near = live.call(f"/v1/playlists/{PUBLIC}/neighbours?k=50")
        assert {neighbour["id"] for neighbour in near["neighbours"]} == {str(EDITORIAL)}
    finally:
        live.stop()


def test_a_release_without_public_playlists_serves(home):
    context, entities, folder = build_release(home, {PRIVATE: [False] * 20})
    assert entities["tt_svd"].vectors["playlist"].shape == (0, small_week.D)
    manifest.verify(folder)
    live = start(context, folder)
    try:
        assert live.call("/readyz")[2]["ready"]
        listener = {"country": "BR", "favourites": {"playlists": [PRIVATE]}}
        status, _, row = live.call("/v1/carousels", {"listener": listener, "n_nearest_tracks": 2})
        schema.Carousel.model_validate(row)
        assert (status, row["playlists"], row["expected_relevance"], row["similarity"]) == (200, [], 0, 0)
        status, _, recommended = live.call("/v1/recommendations", {"listener": listener})
        assert (status, recommended["degraded"], len(recommended["tracks"])) == (200, None, 50)
        assert recommended["unknown"] == {"favourites.playlists": [str(PRIVATE)]}
        assert live.call("/v1/artists/1/neighbours?of=playlists")[2]["neighbours"] == []
        assert live.call(f"/v1/playlists/{PRIVATE}")[0] == 404
        assert live.call("/v1/release")[2]["spaces"]["tt_svd"]["playlists"] == 0
        assert len(live.call("/v1/search?kind=artists")[2]["results"]) == small_week.N_GROUPS
    finally:
        live.stop()
