"""Compute skip probabilities and re-rankings from one release.

Shapes   N requested tracks, R recent plays that the release does not contain yet

The features of a request are computed by models/skip from the release's state and the recent plays of the request: they
are bit-identical to those of the offline table. Recent plays that the state already contains are dropped, so that none
counts twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray

from contracts.entity_ids import stable_id
from contracts.errors import BadArgument
from models.skip.data.play_history import Log
from models.skip.data.plays import Plays
from models.skip.features.columns import as_plays, feature_columns
from models.skip.features.counters import HOUR_S, NO_KEY, Counters
from models.skip.features.point_in_time import DAY_S
from models.skip.features.shared import KEYS as SHARED
from models.skip.features.shared import DailyCounts, shared_counts
from models.skip.features.track import track_counts
from models.skip.features.user import user_counts
from models.skip.ranking.reasons import reasons, sentence
from models.skip.ranking.rerank import rerank
from serving.bodies import RecentPlaysBody, RerankedBody, SkipPredictionBody, SkipReleaseFields, SkipsBody
from serving.recommend.signals import convert_ids, number_error
from serving.skip.release import SkipRelease
from serving.skip.schema import RerankRequest, SkipContext, SkipRequest, TrackReference

UNKNOWN = -1
MAX_SKEW_S = 300  # recent plays may be this much later than the time of the prediction, because clocks differ
UNCHANGED = "the given order"  # name of the fallback of /v1/rerank


@dataclass(frozen=True)
class ListenPredictions:
    """Predictions for the known tracks: positions in the request, plays, listening probabilities; other positions."""

    place_N: NDArray[np.int64]
    plays: Plays
    listen_N: NDArray[np.float64]
    unknown_places: list[int]
    recent: RecentPlaysBody


@dataclass(frozen=True)
class RequestIds:
    """Ids inside of a request: the user, the tracks, and the tracks of the recent plays in the order of the request."""

    user: int
    tracks: list[int]
    recent: list[int]


def read_ids(release: SkipRelease, request: SkipContext, tracks: Sequence[TrackReference]) -> RequestIds:
    """Return the ids of a request as ids inside. A text that cannot be an id becomes the id of an unknown entity.

    Args:
        release: the release.
        request: the request.
        tracks: its tracks.

    Raises:
        RequestValidationError: an id is a number, but ids of its kind are texts.
    """

    def known_or_hash(external: Sequence[str | int], ids: Iterable[int | None]) -> list[int]:
        pairs = zip(external, ids, strict=True)
        return [stable_id(str(text)) if inside is None else inside for text, inside in pairs]

    if type(request.user_id) is int and release.ids.forms["user"] == "text":
        raise number_error("user", ("body", "user_id"))
    played, requested = [play.track_id for play in request.recent], [track.track_id for track in tracks]
    return RequestIds(
        known_or_hash([request.user_id], [release.ids.inside("user", request.user_id)])[0],
        known_or_hash(requested, convert_ids(release.ids, "track", requested, ("body", "tracks"), "track_id")),
        known_or_hash(played, convert_ids(release.ids, "track", played, ("body", "recent"), "track_id")),
    )


def prediction_second(request: SkipContext) -> int:
    """Return the second of the prediction: the requested time, or now, but after every recent play.

    Clocks of clients differ from the service's: a play of this second, or of at most `MAX_SKEW_S` seconds later, moves
    the prediction to the second after it.

    Raises:
        RequestValidationError: a recent play is later than that.
    """
    at = int((request.at or datetime.now(UTC)).timestamp())
    seconds = [int(play.at.timestamp()) for play in request.recent]
    message = f"the play is more than {MAX_SKEW_S} s after the time of the prediction"
    wrong = [
        {"type": "future_play", "loc": ("body", "recent", i, "at"), "msg": message}
        for i, second in enumerate(seconds)
        if second > at + MAX_SKEW_S
    ]
    if wrong:
        raise RequestValidationError(wrong)
    return max([at, *(second + 1 for second in seconds)])


def predict(release: SkipRelease, request: SkipContext, ids: RequestIds) -> ListenPredictions:
    """Return the listening probabilities of the tracks that the release contains.

    Args:
        release: the release.
        request: time and context.
        ids: the ids of the request.

    Raises:
        BadArgument: the requested time is before the release's time.
        RequestValidationError: a recent play is in the future.
    """
    at = prediction_second(request)
    if at < release.state_until:
        until = datetime.fromtimestamp(release.state_until, UTC).isoformat()
        raise BadArgument(f"at: release {release.name[:12]} contains plays up to {until}; request a later time")
    tracks, there = release.state.tracks_of(np.asarray(ids.tracks, np.int64))
    recent, n_recent_plays = recent_play_rows(release, request, ids)
    rows = concatenate_rows(recent, candidate_rows(request, ids.user, tracks, at))
    n_recent = len(recent["ts"])
    counters = release.state.counters(rows)
    counts = track_counts(rows, counters) | user_counts(rows, counters, release.gap_s)
    counts |= shared_counts(rows, rows["ts"] // DAY_S, shared_daily_counts(recent, counters))
    mean_probability = np.full(len(rows["ts"]), release.mean_probability)
    features = feature_columns(rows, counts, mean_probability, release.gap_s, release.smoothing)
    if request.age is None:
        features["user_age"] = np.full(len(rows["ts"]), np.nan)
    if request.gender is None:
        features["md_mf_group"] = np.full(len(rows["ts"]), UNKNOWN)
    requested_rows = {name: column[n_recent:] for name, column in rows.items()}
    plays = as_plays(requested_rows, {n: c[n_recent:] for n, c in features.items()}, release.names, release.categories)
    plays = release.cleaned(plays)
    log = history(release, ids.user, recent)
    listen_N = release.predict(plays, log) if len(plays) else np.zeros(0)
    return ListenPredictions(np.flatnonzero(there), plays, listen_N, np.flatnonzero(~there).tolist(), n_recent_plays)


def candidate_rows(request: SkipContext, user_id: int, tracks: dict[str, np.ndarray], at: int) -> dict[str, np.ndarray]:
    """Return known tracks as plays without an outcome, all at one second."""
    n = len(tracks["track_id"])
    same = {
        "ts": at,
        "user_id": user_id,
        "listened": UNKNOWN,
        "context_type": category_code(request.context_type),
        "platform_name": category_code(request.platform_name),
        "platform_family": category_code(request.platform_family),
        "user_gender": category_code(request.gender),
        "user_age": category_code(request.age),
    }
    rows = {name: np.full(n, value, np.int64) for name, value in same.items()}
    return add_time_keys(rows | {"is_flow": np.full(n, request.is_flow)} | tracks)


def add_time_keys(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return rows with the keys derived from their second and from Flow, as in jobs/skip/build_features.py."""
    return rows | {
        "daypart": rows["ts"] % DAY_S // (6 * HOUR_S),
        "platform_flow": rows["platform_name"] * 2 + rows["is_flow"],
    }


def shared_daily_counts(recent: dict[str, np.ndarray], counters: dict[str, Counters]) -> dict[str, DailyCounts]:
    """Return the daily counts of keys that many listeners share, the request's recent plays included."""
    counts, ones = {}, np.ones(len(recent["ts"]), np.int64)
    for kind, (first, second) in SHARED.items():
        entries = {
            "key": recent[first],
            "other": recent[second] if second is not None else np.full(len(ones), NO_KEY),
            "day": recent["ts"] // DAY_S,
            "n_plays": ones,
            "n_listened": recent["listened"],
        }
        counts[kind] = DailyCounts.from_entries(entries, counters[kind])
    return counts


def category_code(value: int | None) -> int:
    """Return a category, or -1 if it is not given."""
    return UNKNOWN if value is None else value


def recent_play_rows(
    release: SkipRelease, request: SkipContext, ids: RequestIds
) -> tuple[dict[str, np.ndarray], RecentPlaysBody]:
    """Return the request's recent plays that the state lacks, by time, and counts of used and dropped plays."""
    since = max(release.state_until, release.state.last_ts(ids.user) + 1)
    plays = sorted(zip(request.recent, ids.recent, strict=True), key=lambda pair: pair[0].at)
    new = [(play, track) for play, track in plays if play.at.timestamp() >= since]
    tracks, there = release.state.tracks_of(np.asarray([track for _, track in new], np.int64))
    used = [play for (play, _), is_known in zip(new, there, strict=True) if is_known]
    rows = candidate_rows(request, ids.user, tracks, 0)
    rows["ts"] = np.asarray([int(play.at.timestamp()) for play in used], np.int64)
    rows["listened"] = np.asarray([int(play.listened) for play in used], np.int64)
    rows["is_flow"] = np.asarray([play.is_flow for play in used], bool)
    for name in ("context_type", "platform_name", "platform_family"):
        own = [getattr(play, name) for play in used]
        rows[name] = np.where([one is None for one in own], rows[name], [category_code(one) for one in own]).astype(
            np.int64
        )
    n_plays: RecentPlaysBody = {
        "used": len(used),
        "already_known": len(request.recent) - len(new),
        "unknown_tracks": len(new) - len(used),
    }
    return add_time_keys(rows), n_plays


def concatenate_rows(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return two sets of rows, one after the other."""
    return {name: np.concatenate([first[name], second[name]]) for name in second}


def history(release: SkipRelease, user_id: int, recent: dict[str, np.ndarray]) -> Log:
    """Return the user's earlier plays, the request's included; empty if no member uses them.

    Ids are cleaned as in training, so that rare ones are equal.
    """
    if not release.reads_history:
        return Log.empty()
    columns = {
        name: release.cleaning.category(f"{name}_id", recent[f"{name}_id"])
        for name in ("user", "track", "artist", "album", "genre")
    }
    columns |= {name: recent[name] for name in ("ts", "is_flow", "listened")}
    return release.state.history(user_id).union(Log(columns))


def skips_response(release: SkipRelease, request: SkipRequest, ids: RequestIds) -> SkipsBody:
    """Return the response body of POST /v1/skips; `ids` are those of the request."""
    predictions = predict(release, request, ids)
    sentences: list[str | None] = [None] * len(predictions.listen_N)
    if request.explain and release.explanation is not None:
        reasons_per_play = reasons(release.explanation, predictions.plays)
        sentences = [
            sentence(play_reasons, float(p))
            for play_reasons, p in zip(reasons_per_play, predictions.listen_N, strict=True)
        ]
    tracks: list[SkipPredictionBody] = [
        {"track_id": str(request.tracks[int(place)].track_id), "skip_probability": 1 - float(p), "reason": reason}
        for place, p, reason in zip(predictions.place_N, predictions.listen_N, sentences, strict=True)
    ]
    return {
        **release_fields(release, request, ids),
        "tracks": tracks,
        "unknown": [str(request.tracks[place].track_id) for place in predictions.unknown_places],
        "recent": predictions.recent,
    }


def release_fields(release: SkipRelease, request: SkipContext, ids: RequestIds) -> SkipReleaseFields:
    """Return the fields that describe the release and whether it contains the listener."""
    return {
        "release": release.name,
        "week": release.week,
        "user_id": str(request.user_id),
        "known_user": release.state.last_ts(ids.user) >= 0,
        "state_as_of": datetime.fromtimestamp(release.state_until, UTC).isoformat(),
    }


def rerank_response(release: SkipRelease, request: RerankRequest, blocked: list[str]) -> RerankedBody:
    """Return the response body of POST /v1/rerank; `blocked` are the ids that were removed from the request.

    A track that the release does not contain gets the mean probability of the known ones (of all plays, if none is
    known), and an artist of its own.
    """
    texts = [str(track.track_id) for track in request.tracks]
    ids = read_ids(release, request, request.tracks)
    predictions = predict(release, request, ids)
    n = len(texts)
    mean = float(predictions.listen_N.mean()) if len(predictions.listen_N) else release.mean_probability
    listen, artists = np.full(n, mean), -2 - np.arange(n)
    listen[predictions.place_N] = predictions.listen_N
    tracks, _ = release.state.tracks_of(np.asarray(ids.tracks, np.int64))
    artists[predictions.place_N] = tracks["artist_id"]
    given_relevance = [track.relevance for track in request.tracks if track.relevance is not None]
    relevance = [given_relevance] if given_relevance else None  # given for all tracks or for none
    order = rerank([np.arange(n)], [listen], request.diversity, relevance, [artists])[0].tolist()
    skip = {int(place): 1 - float(p) for place, p in zip(predictions.place_N, predictions.listen_N, strict=True)}
    return {
        **release_fields(release, request, ids),
        "tracks": [{"track_id": texts[i], "skip_probability": skip.get(i)} for i in order],
        "unknown": [texts[place] for place in predictions.unknown_places],
        "blocked": blocked,
        "recent": predictions.recent,
        "degraded": None,
    }


def unchanged_list(request: RerankRequest, blocked: list[str], why: str) -> RerankedBody:
    """Return the list unchanged: the fallback if no release is available. Blocked tracks are already removed."""
    return {
        "release": None,
        "week": None,
        "user_id": str(request.user_id),
        "known_user": False,
        "state_as_of": None,
        "tracks": [{"track_id": str(track.track_id), "skip_probability": None} for track in request.tracks],
        "unknown": [],
        "blocked": blocked,
        "recent": {"used": 0, "already_known": 0, "unknown_tracks": 0},
        "degraded": {"fallback": UNCHANGED, "reason": why},
    }
