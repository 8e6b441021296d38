"""Options of a list in the query of a URL, for routes without a body."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import Query

from serving import schema
from serving.recommend.ruled_list import Filters
from serving.recommend.signals import EPOCH, ListParameters
from serving.release.loaded import LoadedRelease
from serving.schema import IdText

MAX_EXCLUDED = 200


class ListQuery:
    """The options of schema.ListOptions as query parameters.

    Attributes:
        k: Number of tracks.
        country: Country of the listener, or None.
        age: Age of the listener, or None.
    """

    def __init__(
        self,
        k: Annotated[int, Query(ge=1, le=schema.MAX_K, description="number of tracks")] = 50,
        exclude: Annotated[
            list[IdText], Query(max_length=MAX_EXCLUDED, description="track to leave out; can be repeated")
        ] = [],  # noqa: B006 - FastAPI copies it
        exclude_artist: Annotated[
            list[IdText], Query(max_length=MAX_EXCLUDED, description="artist to leave out; can be repeated")
        ] = [],  # noqa: B006
        exclude_album: Annotated[
            list[IdText], Query(max_length=MAX_EXCLUDED, description="album to leave out; can be repeated")
        ] = [],  # noqa: B006
        genre: Annotated[
            list[str], Query(max_length=50, description="genre, in any case; can be repeated; absent: every genre")
        ] = [],  # noqa: B006
        released_from: Annotated[date | None, Query(description="first release date")] = None,
        released_to: Annotated[date | None, Query(description="last release date")] = None,
        explicit: Annotated[
            bool | None,
            Query(description="false: no explicit track; true: also for listeners below the age of the settings"),
        ] = None,
        heard: Annotated[
            Literal["keep", "leave_out", "only_new_artists"] | None,
            Query(description="what happens to tracks that the listener has heard; absent: as in the release"),
        ] = None,
        per_artist: Annotated[
            int | None, Query(ge=0, le=schema.MAX_K, description="limit of tracks of one artist in 50 places; 0: none")
        ] = None,
        per_album: Annotated[
            int | None, Query(ge=0, le=schema.MAX_K, description="limit of tracks of one album in 50 places; 0: none")
        ] = None,
        diversity: Annotated[float | None, Query(ge=0, le=1, description="difference between tracks")] = None,
        country: Annotated[schema.Country | None, Query(description="country in which the tracks are played")] = None,
        age: Annotated[
            int | None, Query(ge=schema.MIN_AGE, le=schema.MAX_AGE, description="age, for explicit tracks")
        ] = None,
    ) -> None:
        """Store the parameters, which FastAPI has validated."""
        self.k, self.country, self.age = k, country, age
        self._tracks, self._artists, self._albums = exclude, exclude_artist, exclude_album
        self._genres, self._explicit = frozenset(name.lower() for name in genre), explicit
        self._from, self._to = (None if day is None else (day - EPOCH).days for day in (released_from, released_to))
        self._changed: dict[str, Any] = {
            name: limit or None
            for name, limit in (("per_artist", per_artist), ("per_album", per_album))
            if limit is not None
        }
        self._changed |= {
            name: value for name, value in (("heard", heard), ("diversity", diversity)) if value is not None
        }

    def parameters(self, loaded: LoadedRelease) -> ListParameters:
        """Return the options with the ids inside; ids that the release does not contain are ignored."""
        artists, albums, tracks = (
            tuple(i for i in (loaded.ids.inside(kind, one) for one in ids) if i is not None)
            for kind, ids in (("artist", self._artists), ("album", self._albums), ("track", self._tracks))
        )
        filters = Filters(self._genres, self._from, self._to, self._explicit, artists, albums)
        return ListParameters(
            k=self.k,
            exclude=tracks,
            filters=filters,
            rules=replace(loaded.rules, **self._changed) if self._changed else None,
        )
