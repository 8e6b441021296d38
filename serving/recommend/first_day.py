"""The first day of a listener from the events of the profile, as the batch computes it (jobs/matrix/first_day.py).

The input vector is bit-identical to that of the batch over the same events if the release's catalogue contains their
tracks: lists are in the order of (ts, id inside), events with equal time, kind and entity count once, and the day is
that of `matrix.first_day` in the release's settings. Tracks that the release does not contain are left out and
reported, as the batch leaves out tracks that are not in its table of tracks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from serving.block.entries import BlockList
from serving.bodies import KnownRecommendationBody, RecommendationBody
from serving.profile.days import Record, facts_of
from serving.profile.lines import LEVEL
from serving.profile.profiles import Today
from serving.recommend.list_query import ListQuery
from serving.recommend.signals import BLOCK, ON_TRACKS, OTHER_LEVELS, FirstDaySignals, ListParameters
from serving.release.loaded import LoadedRelease

SIGNALS = {
    "onboarding": "onboarding",
    "stream": "streams",
    "skip": "skips",
    "ban": "bans",
    "favorite": "favourites",
    "search": "searches",
}
DERIVED = {f"{word}.{level}" for word in ON_TRACKS for level in OTHER_LEVELS}


NEW = "new"
Recommend = Callable[[LoadedRelease, Sequence[FirstDaySignals], ListParameters], list[RecommendationBody]]


@dataclass(frozen=True)
class FirstDay:
    """The first day of a listener.

    Attributes:
        signals: What the network reads, with the ids inside.
        start: Registration, or the first event where the registration is unknown.
        n_events: Number of events in the day.
    """

    signals: FirstDaySignals
    start: datetime
    n_events: int


def end_of_day(moment: datetime, settings: Mapping[str, Any]) -> datetime:
    """Return the end, excluded, of the first day of a listener who registered at `moment`.

    Args:
        moment: Time of the registration, with a time zone.
        settings: `matrix.first_day`: length and time_zone; empty for a release of an older version.
    """
    if settings.get("length") == "24_hours":
        return moment + timedelta(hours=24)
    zone = ZoneInfo(settings.get("time_zone", "UTC"))
    next_day = moment.astimezone(zone).date() + timedelta(days=1)
    return datetime(next_day.year, next_day.month, next_day.day, tzinfo=zone).astimezone(UTC)


def first_day(loaded: LoadedRelease, user_id: str, events: Sequence[Record]) -> FirstDay | None:
    """Return the first day of a listener; None if there are no events and no registration.

    Args:
        loaded: The release.
        user_id: External id of the listener.
        events: Events of the profile, in the order of time and id.
    """
    if not events:
        return None
    facts = facts_of(events)
    start = datetime.fromisoformat(facts["registered_at"] or events[0]["ts"])
    end = end_of_day(start, loaded.release.provenance["settings"].get("matrix", {}).get("first_day", {}))
    of_day = [event for event in events if start <= datetime.fromisoformat(event["ts"]) < end]
    unknown: dict[str, list[str]] = {}
    if facts["country"] is not None and facts["country"] not in loaded.space.demographics.country:
        unknown["country"] = [facts["country"]]
    rows: dict[str, set[tuple[str, int, str]]] = {}
    for event in of_day:
        level = LEVEL[event["entity"]]
        signal = f"{SIGNALS[event['kind']]}.{level}"
        if signal not in BLOCK or (signal in DERIVED and event["kind"] != "ban"):  # the batch does not read it
            continue
        inside = loaded.ids.inside(event["entity"], event["entity_id"])
        if inside not in loaded.known_ids[level]:
            unknown.setdefault(signal, []).append(event["entity_id"])
        if inside is not None and (level != "tracks" or inside in loaded.track_idx):
            rows.setdefault(signal, set()).add((event["ts"], inside, event["entity_id"]))
    # Bans of artists and albums are rules of the list; the network reads the artists and albums of banned tracks.
    ordered = {signal: sorted(rows.get(signal, ())) for signal in BLOCK if signal not in DERIVED or signal in rows}
    signals = FirstDaySignals(
        facts["country"],
        facts["age"],
        user_id,
        {signal: [inside for _, inside, _ in entries] for signal, entries in ordered.items()},
        {signal: [text for *_, text in entries] for signal, entries in ordered.items()},
        {signal: list(dict.fromkeys(ids)) for signal, ids in unknown.items()},
    )
    return FirstDay(signals, start, len(of_day))


def banned_tracks(loaded: LoadedRelease, events: Sequence[Record]) -> list[int]:
    """Return the ids inside of the tracks that the events ban: the track itself, all of an artist, all of an album."""
    ids: dict[str, set[int]] = {}
    for event in events:
        inside = loaded.ids.inside(event["entity"], event["entity_id"]) if event["kind"] == "ban" else None
        if inside is not None:
            ids.setdefault(event["entity"], set()).add(inside)
    tracks = [i for i in ids.get("track", ()) if i in loaded.track_idx]
    catalogue = loaded.space.space.catalogue
    for entity, column in (("artist", catalogue.artist_id_N), ("album", catalogue.album_id_N)):
        if entity in ids:
            tracks += np.asarray(catalogue.track_id_N)[np.isin(column, list(ids[entity]))].tolist()
    return list(dict.fromkeys(tracks))


def recommend_first_day(
    loaded: LoadedRelease, recommend: Recommend, user_id: str, query: ListQuery, block_list: BlockList, today: Today
) -> KnownRecommendationBody | None:
    """Return a KnownRecommendation with track_idx for a new listener; None if no event of today is known.

    Args:
        loaded: the release.
        recommend: makes the list, as for POST /v1/recommendations.
        user_id: external id of the listener.
        query: options of the request.
        block_list: the block list in force.
        today: the remembered events.
    """
    day = first_day(loaded, user_id, today.events)
    if day is None:
        return None
    parameters = replace(query.parameters(loaded), block_list=block_list)
    # Bans outside the first day, such as those before the registration is known, hold too.
    exclude = (*parameters.exclude, *banned_tracks(loaded, today.events))
    (made,) = recommend(loaded, [day.signals], replace(parameters, exclude=exclude))
    body: KnownRecommendationBody = {
        "release": made["release"],
        "week": made["week"],
        "space": made["space"],
        "user_id": user_id,
        "method": made["method"],
        "kind": NEW,
        "since": f"{day.start:%Y-%m-%d}",
        "vector_source": made["vector_source"],
        "degraded": made["degraded"],
        "tracks": made["tracks"],
        "n_computed": made["n_filled"],
        "relaxed": made["relaxed"],
        "short": made["short"],
        "segment": made["segment"],
        "reasons": made["reasons"],
        "n_events": day.n_events,
        "unknown": made["unknown"],
    }
    if "experiment" in made:
        body["experiment"] = made["experiment"]
    return body
