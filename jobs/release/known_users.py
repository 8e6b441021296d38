"""Reads the users that a release was trained on, as rows for the store, in bounded memory.

Input   warm_users, user_vectors of the release's week and space, user_history of the week; its track vectors and
        centroids from the bundle
Shapes  U users, B of a block, d width of the space, n places of a list
Lists   the best tracks by the user's vector, without what the user banned as a track, an artist or an album
Order   tables contain users by index or in no order; a store accepts them in any order

The bundle contains no users, and the week in the lake may have been run again since. Nothing is published unless both
have the same track vectors and the same centroids, which are means over all users' vectors.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from jobs.platform.list_columns import to_matrix
from jobs.platform.progress import progress
from jobs.release import user_history
from jobs.release.banned_tracks import banned_tracks, best_without
from models.arrays import IdVector
from models.cold_start.nearest_centroid import nearest_centroids
from models.cold_start.top_k import ItemIndex, normalise
from serving.release.bundle import Release, SpaceBundle
from serving.stores.interface import WARM, Block, StorePart

BLOCK = 8_192  # users in memory at once


def read_part(context: Context, release: Release, n: int) -> tuple[StorePart, Iterator[Block]]:
    """Return what to publish for the space that the release recommends from, and its rows in blocks.

    Args:
        context: the context of the release's week.
        release: the release.
        n: length of the lists.

    Raises:
        CheckFailed: the tables of the week do not exist, or are not those that the release was built from.
            `user_history.update` writes the last of them.
    """
    lake, week, space = context.lake, context.week.name, release.space_and_method[0]
    opened = release.spaces[space]
    _require_same_run(context, release, opened)
    warm = lake.read("warm_users", columns=["user_idx", "user_id"], week=week).sort_by("user_idx")
    user_ids = warm.column("user_id").to_numpy()
    versions = (
        lake.version(table, week=week, **partition)
        for table, partition in (("warm_users", {}), ("user_vectors", {"space": space}), (user_history.TABLE, {}))
        if table != user_history.TABLE or lake.exists(table, week=week)  # a dry run does not compute it
    )
    d, list_length = int(opened.layout["d"]), min(n, len(opened.array("track_vectors")))
    part = StorePart(release.folder.name, space, WARM, release.week, user_ids, d, list_length, "/".join(versions))
    return part, _blocks(context, release, opened, user_ids, list_length)


def _require_same_run(context: Context, release: Release, opened: SpaceBundle) -> None:
    week, space = context.week.name, opened.folder.name
    tracks_ND = context.lake.matrix("track_vectors", week=week, space=space)
    segments = context.lake.read("segments", columns=["segment_id", "centroid"], week=week, space=space)
    pairs = {"track_vectors": tracks_ND, "centroids": to_matrix(segments.sort_by("segment_id"), "centroid")}
    for name, in_lake in pairs.items():
        if not np.array_equal(in_lake, opened.array(name)):
            raise CheckFailed(
                f"publish: {name} of week {week} in {space} differ between the lake and release "
                f"{release.folder.name[:12]}: the week was run again. Promote the release of that run "
                f"(overture release bundle, gate, promote --week {week}), then publish"
            )


def _blocks(context: Context, release: Release, space: SpaceBundle, user_ids: IdVector, n: int) -> Iterator[Block]:
    """Yield the learned vectors with the lists and segments that the release computes for them, block by block."""
    partition = {"week": context.week.name, "space": space.folder.name}
    items = ItemIndex(space.array("track_vectors"), space.layout["similarity"])
    facts, track_ids = release.track_facts, release.track_ids
    place = dict(zip(track_ids.tolist(), range(len(track_ids)), strict=True))
    centroids_KD = np.asarray(space.array("centroids"))
    total = -(-len(user_ids) // BLOCK)
    with user_history.opened(context) as histories:
        for table in progress(context.lake.batches("user_vectors", BLOCK, **partition), total, "known users by block"):
            idx = table.column("user_idx").to_numpy()
            if len(idx) and not 0 <= idx.min() <= idx.max() < len(user_ids):
                raise CheckFailed(
                    f"user_vectors: user_idx {idx.max()} is not a row of warm_users ({len(user_ids)} users)"
                )
            vectors_BD, history = to_matrix(table), histories.of(user_ids[idx])
            segments_B = nearest_centroids(normalise(vectors_BD), centroids_KD)
            block = Block(user_ids[idx], vectors_BD, segments_B, np.zeros((len(idx), n), np.int64), history)
            banned = [banned_tracks(facts, place, block.history_of(b)) for b in range(len(idx))]
            best_Bn = best_without(items, vectors_BD, n, banned)
            block.tracks_Bn[:] = np.where(best_Bn < 0, -1, track_ids[best_Bn])
            yield block
