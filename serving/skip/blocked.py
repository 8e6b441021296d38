"""Blocked tracks of a list that is to be re-ranked: they are removed from the request and reported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.block.entries import BlockList
from serving.block.tracks import blocked_ids, blocked_tracks
from serving.release.loaded import LoadedRelease
from serving.skip.release import SkipRelease
from serving.skip.schema import RerankRequest

NO_ID = -1


def without_blocked(
    request: RerankRequest, block_list: BlockList, release: SkipRelease | None, loaded: LoadedRelease | None
) -> tuple[RerankRequest, list[str]]:
    """Return the request without its blocked tracks, and the ids of those.

    A request names no country, so only entries without countries apply.

    Args:
        request: the request.
        block_list: the list in force.
        release: release of the skip engine, which knows artist and album of a track.
        loaded: cold-start release, which knows them where there is no release of the skip engine.
    """
    if not block_list.ids:
        return request, []
    texts = [str(track.track_id) for track in request.tracks]
    listed = block_list.sets("track", None)
    blocked = {i for i, text in enumerate(texts) if any(text in ids for ids in listed)}
    if release is not None:
        blocked |= _in_skip_release(texts, block_list, release)
    elif loaded is not None:
        hidden, inside = blocked_tracks(loaded, block_list, None), (loaded.ids.inside("track", text) for text in texts)
        blocked |= {i for i, one in enumerate(inside) if one is not None and loaded.track_idx.get(one) in hidden}
    if not blocked:
        return request, []
    kept = [track for i, track in enumerate(request.tracks) if i not in blocked]
    return request.model_copy(update={"tracks": kept}), [texts[i] for i in sorted(blocked)]


def _in_skip_release(texts: Sequence[str], block_list: BlockList, release: SkipRelease) -> set[int]:
    """Return the positions of tracks whose artist or album is blocked."""
    ids = blocked_ids(release.ids, block_list)
    inside = [release.ids.inside("track", text) for text in texts]
    known = np.asarray([NO_ID if one is None else one for one in inside], np.int64)
    columns, there = release.state.tracks_of(known)
    places = np.flatnonzero(there).tolist()
    pairs = zip(places, columns["artist_id"].tolist(), columns["album_id"].tolist(), strict=True)
    return {place for place, artist, album in pairs if artist in ids["artist"] or album in ids["album"]}
