"""The listeners that a release learned from, as rows for the store: streamed from the lake in bounded memory.

Input   warm_users, user_vectors of the release's week and space; its track vectors and centroids from the bundle
Shapes  U users, B of a block, d width of the space, n places of a list
Order   tables hold users by index or in no order; a store takes them as they come

The bundle holds no users, the lake's week may have been run again since: the two must show the same track vectors and
the same centroids, which are means over all users' vectors, or nothing is published.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from jobs.platform.list_columns import to_matrix
from jobs.platform.progress import progress
from models.cold_start.nearest_centroid import nearest_centroids
from models.cold_start.top_k import ItemIndex, normalise
from serving.release.bundle import OpenSpace, Release
from serving.stores.interface import WARM, Block, Filling

BLOCK = 8_192  # users held at once


def filling(context: Context, release: Release, n: int) -> tuple[Filling, Iterator[Block]]:
    """What to publish for the release's answering space, and its blocks; `context` is of the release's week.

    Raises:
        CheckFailed: the week's tables are not there, or not those that the release was made from.
    """
    lake, week, space = context.lake, context.week.name, release.answers[0]
    opened = release.spaces[space]
    _same_run(context, release, opened)
    warm = lake.read("warm_users", columns=["user_idx", "user_id"], week=week).sort_by("user_idx")
    user_ids = warm.column("user_id").to_numpy()
    versions = (
        lake.version(table, week=week, **where)
        for table, where in (("warm_users", {}), ("user_vectors", {"space": space}))
    )
    d, places = int(opened.layout["d"]), min(n, len(opened.array("track_vectors")))
    made_of = "/".join(versions)
    part = Filling(release.folder.name, space, WARM, release.week, user_ids, d, places, made_of)
    return part, _blocks(context, opened, release.track_ids, user_ids, places)


def _same_run(context: Context, release: Release, opened: OpenSpace) -> None:
    week, space = context.week.name, opened.folder.name
    tracks_ND = context.lake.matrix("track_vectors", week=week, space=space)
    segments = context.lake.read("segments", columns=["segment_id", "centroid"], week=week, space=space)
    pairs = {"track_vectors": tracks_ND, "centroids": to_matrix(segments.sort_by("segment_id"), "centroid")}
    for name, found in pairs.items():
        if not np.array_equal(found, opened.array(name)):
            raise CheckFailed(
                f"publish: week {week} in the lake has other {name} in {space} than release "
                f"{release.folder.name[:12]}: the week was run again since. Promote that week's own release "
                f"(overture release bundle, gate, promote --week {week}), then publish"
            )


def _blocks(context: Context, space: OpenSpace, track_ids: np.ndarray, user_ids: np.ndarray, n: int) -> Iterator[Block]:
    """Vectors as learned; lists as the release would rank its tracks for them, segments as it would choose them."""
    where = {"week": context.week.name, "space": space.folder.name}
    items = ItemIndex(space.array("track_vectors"), space.layout["similarity"])
    centroids_KD = np.asarray(space.array("centroids"))
    total = -(-len(user_ids) // BLOCK)
    for table in progress(context.lake.batches("user_vectors", BLOCK, **where), total, "known users by block"):
        idx = table.column("user_idx").to_numpy()
        if len(idx) and not 0 <= idx.min() <= idx.max() < len(user_ids):
            raise CheckFailed(f"user_vectors: user_idx {idx.max()} is no row of warm_users ({len(user_ids)} users)")
        vectors_BD = to_matrix(table)
        best_Bn = items.top_k(vectors_BD, n)
        yield Block(
            user_ids[idx], vectors_BD, nearest_centroids(normalise(vectors_BD), centroids_KD), track_ids[best_Bn]
        )
