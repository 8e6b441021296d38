"""Simulated listeners, a block at a time: country, age, tastes, and everything that they do.

A block is a fixed number of users with a seed of its own (seed, block): its rows depend on neither the size of a chunk
nor the other blocks. No loop over users: everything is an array over users, (user, day) pairs or streams.

Shapes  B users of a block, P pairs of user and active day, M moments (a track that starts), K scenes of a user
Time    seconds since first_day 00:00 UTC until the last line, which converts them into microseconds since 1970
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from jobs.ingest.event_buffer import code, events
from jobs.ingest.simulate.catalogue import AGES, ALBUM, ARTIST, COUNTRIES, PLAYLIST, TRACK, World, draw_row, public_ids
from jobs.ingest.simulate.context_taste import N_CONTEXTS, contexts, draw_context_weights, draw_session_starts
from jobs.settings.source import SimulateSettings

BLOCK = 4096
DAY = 86_400
BACKLOG = 0.12  # share of users who registered before the log begins
STREAM_ON_DAY_ONE, ACTIVE_ON_DAY_ONE = 0.77, 0.95
NO_COUNTRY, NO_AGE = 0.06, 0.14
MAX_PER_DAY = 100  # moments; 100 of 15 minutes would not fit into a day, so lengths are cut to the rest of the day
WEEKDAY = np.array([0.95, 0.93, 0.95, 0.98, 1.08, 1.1, 1.01])  # Monday first
PERSONAL_SCENES = 2
OWN_ARTISTS = 3  # of each scene of a user
# Shares of moments: a favourite artist, a scene of the listener, else what the country streams.
FROM_OWN_ARTIST, FROM_CHART = 0.35, 0.08

# User (index in the block), second, code, public id, seconds listened; each (n,) or one value for all.
Rows = tuple[np.ndarray, np.ndarray, np.ndarray | int, np.ndarray, np.ndarray | int]


@dataclass(frozen=True)
class Ids:
    """Public ids of the entities of the world, by hidden index."""

    track: np.ndarray
    artist: np.ndarray
    album: np.ndarray

    @classmethod
    def of(cls, world: World, settings: SimulateSettings) -> Ids:
        """Return the ids that the table `tracks` contains."""
        n_albums = int(world.track_album[-1]) + 1
        return cls(
            TRACK + public_ids(len(world.track_artist), settings, "track"),
            ARTIST + public_ids(len(world.artist_scene), settings, "artist"),
            ALBUM + public_ids(n_albums, settings, "album"),
        )


@dataclass(frozen=True)
class Span:
    """The days of the log."""

    first: int  # days since 1970
    n_days: int

    @property
    def start_us(self) -> int:
        """Start of the log, microseconds since 1970."""
        return self.first * DAY * 1_000_000

    def weekday(self, day: np.ndarray) -> np.ndarray:
        """Return the weekday of each day (n,) since the first; 0 = Monday."""
        return (self.first + day + 3) % 7


@dataclass(frozen=True)
class Block:
    """The rows of one block; `playlists` columns are ordered by owner."""

    users: dict[str, np.ndarray]
    event_day: np.ndarray  # days since 1970
    events: np.ndarray
    playlists: dict[str, np.ndarray]


@dataclass(frozen=True)
class UserTraits:
    """Hidden properties of the users of a block."""

    country: np.ndarray  # (B,) index
    age: np.ndarray  # (B,) years
    registered: np.ndarray  # (B,) seconds since the first day, negative for the backlog
    scenes: np.ndarray  # (B, K)
    scene_cum: np.ndarray  # (B * K,) stacked
    artists: np.ndarray  # (B, K, OWN_ARTISTS)
    rate: np.ndarray  # moments per day while new
    context_cum: np.ndarray | None = None  # (B * N_CONTEXTS * K,) stacked; None: taste does not depend on the time


def draw_traits(world: World, user: np.ndarray, span: Span, n_users: int, rng: np.random.Generator) -> UserTraits:
    """Draw users (B,) by index: registrations in order of index, a constant share on every day of the log."""
    n = len(user)
    country = rng.choice(len(COUNTRIES), n, p=np.array(list(COUNTRIES.values())))
    age = draw_ages(n, rng)
    n_backlog = round(n_users * BACKLOG)
    weight = np.cumsum(WEEKDAY[span.weekday(np.arange(span.n_days))])
    place = (user - n_backlog + rng.random(n)) / max(1, n_users - n_backlog)
    day = np.searchsorted(weight / weight[-1], np.clip(place, 0, 1 - 1e-12), side="right")
    old = user < n_backlog
    day = np.where(old, -1 - np.minimum(rng.exponential(200, n), 1500).astype(np.int64), day)
    second = (rng.beta(3.0, 2.0, n) * (DAY - 1800)).astype(np.int64)

    tribe = world.draw_tribe(country, age, rng.random(n))
    own = np.stack([world.draw_scene(country, rng.random(n)) for _ in range(PERSONAL_SCENES)], axis=1)
    scenes = np.concatenate([world.tribe_scenes[tribe], own], axis=1)
    weights = np.concatenate([0.75 * world.tribe_weights[tribe], np.tile([0.15, 0.10], (n, 1))], axis=1)
    weights *= np.exp(0.6 * rng.standard_normal(weights.shape))
    cum = np.cumsum(weights / weights.sum(1, keepdims=True), axis=1)
    cum[:, -1] = 1.0
    wide = np.repeat(scenes[:, :, None], OWN_ARTISTS, axis=2)
    artists = world.track_artist[world.draw_in_scene(wide.ravel(), rng.random(wide.size))].reshape(wide.shape)
    return UserTraits(
        country,
        age,
        day * DAY + second,
        scenes,
        (cum + np.arange(n)[:, None]).ravel(),
        artists,
        rate=np.minimum(1.75 * np.exp(0.7 * rng.standard_normal(n)), 25.0),
    )


def with_context_taste(
    world: World, traits: UserTraits, settings: SimulateSettings, rng: np.random.Generator
) -> UserTraits:
    """Return the users with weights of their scenes by context; unchanged, and without a draw, if the option is off."""
    strength = settings.context_taste
    if not strength:
        return traits
    cum_BK = traits.scene_cum.reshape(traits.scenes.shape) - np.arange(len(traits.scenes))[:, None]
    weights_BK, genre_BK = np.diff(cum_BK, axis=1, prepend=0.0), world.scene_genre[traits.scenes]
    return replace(traits, context_cum=draw_context_weights(weights_BK, genre_BK, strength, settings.seed, rng))


def draw_ages(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ages (n,): mostly young adults, families, a long tail."""
    part = rng.choice(3, n, p=[0.55, 0.33, 0.12])
    mean, deviation = np.array([22.0, 37.0, 55.0])[part], np.array([4.5, 8.0, 11.0])[part]
    return np.clip(np.rint(mean + deviation * rng.standard_normal(n)), AGES[0], AGES[-1]).astype(np.int64)


def draw_moments(traits: UserTraits, span: Span, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw how often each user listens on each day: (user, day, count), each (P,), by user, then day.

    Full rate for about five weeks after registration, then it falls to a sixth. 77 % stream on their first day.
    """
    n = len(traits.rate)
    reg_day = traits.registered // DAY
    seen = np.maximum(reg_day + 1, 0)
    user = np.repeat(np.arange(n), np.maximum(span.n_days - seen, 0))
    starts = np.concatenate([[0], np.cumsum(np.maximum(span.n_days - seen, 0))])[:-1]
    day = np.arange(len(user)) - starts[user] + seen[user]
    since = day - reg_day[user]
    strength = 0.15 + 0.85 * np.exp(-((since / 42.0) ** 3))
    often = (0.25 + 0.65 * rng.random(n))[user]
    active = rng.random(len(user)) < often
    user, day = user[active], day[active]
    mean = traits.rate[user] * (strength[active] / often[active]) * WEEKDAY[span.weekday(day)]
    count = np.minimum(rng.poisson(mean), MAX_PER_DAY)

    new = np.flatnonzero((reg_day >= 0) & (rng.random(n) < STREAM_ON_DAY_ONE))
    first = 1 + np.minimum(rng.poisson(3.5 * np.sqrt(traits.rate[new])), MAX_PER_DAY - 1)
    user, day = np.concatenate([user, new]), np.concatenate([day, reg_day[new]])
    count = np.concatenate([count, first])
    order = np.lexsort((day, user))
    order = order[count[order] > 0]
    return user[order], day[order], count[order]


def draw_tracks(
    world: World,
    traits: UserTraits,
    user: np.ndarray,
    day: np.ndarray,
    rng: np.random.Generator,
    context: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a track (M,) for each moment of a user (M,): by a favourite artist, in an own scene, or the country's.

    The track is released by the day (M,), days since 1970. With the context of each moment (M,), the weights of the
    scenes are those of the context.
    """
    k = traits.scenes.shape[1]
    cum, row = traits.scene_cum, user
    if context is not None and traits.context_cum is not None:
        cum, row = traits.context_cum, user * N_CONTEXTS + context
    slot = draw_row(cum, row, k, rng.random(len(user)))
    scene = traits.scenes[user, slot]
    how = rng.random(len(user))
    chart = how < FROM_CHART
    scene[chart] = world.draw_scene(traits.country[user[chart]], rng.random(int(chart.sum())))
    start, end = world.scene_start[scene], world.scene_start[scene + 1]
    own = np.flatnonzero(how >= 1 - FROM_OWN_ARTIST)
    artist = traits.artists[user[own], slot[own], rng.integers(0, OWN_ARTISTS, len(own))]
    start[own], end[own] = world.artist_start[artist], world.artist_start[artist + 1]
    return world.draw_released(start, end, day, rng)


def draw_events(
    world: World, ids: Ids, traits: UserTraits, user_id: np.ndarray, span: Span, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw all events of a block with their day since 1970, ordered by user, then time of the moment."""
    pair_user, pair_day, count = draw_moments(traits, span, rng)
    user, pair = np.repeat(pair_user, count), np.repeat(np.arange(len(count)), count)
    n = len(user)
    begins = np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int64)
    is_first, registered = pair_day == traits.registered[pair_user] // DAY, traits.registered[pair_user] % DAY
    planned: np.ndarray | None = None
    context: np.ndarray | None = None
    if traits.context_cum is not None:
        planned = draw_session_starts(len(count), rng)
        context = contexts(np.where(is_first, registered, planned), span.weekday(pair_day))[pair]
    track = draw_tracks(world, traits, user, span.first + pair_day[pair], rng, context)
    first_day = is_first[pair]
    opening = np.zeros(n, bool)
    opening[begins] = True
    skipped = (rng.random(n) < 0.14) & ~(opening & first_day)
    full = world.track_duration[track]
    share = np.minimum(1.0, 0.35 + rng.beta(3.0, 1.2, n))
    heard = np.where(skipped, rng.integers(2, 30, n), np.maximum((full * share).astype(np.int64), 31))
    # One session per day: tracks follow each other; on the first day it starts soon after the registration.
    takes = 6 + heard + rng.integers(0, 20, n)
    after = np.cumsum(takes)
    total = np.add.reduceat(takes, begins) if n else np.zeros(0, np.int64)
    offset = after - takes - (after[begins] - takes[begins])[pair]
    if planned is None:
        evening = (DAY * rng.beta(3.2, 1.9, len(count))).astype(np.int64)
        planned = np.maximum(np.minimum(evening, DAY - 60 - total), 0)
    soon = registered + rng.integers(120, 600, len(count))
    start = np.where(is_first, soon, planned)
    at = start[pair] + offset
    keep = at + 6 <= DAY - 1
    user, track, skipped, heard, at, pair = (a[keep] for a in (user, track, skipped, heard, at, pair))
    at = at + pair_day[pair] * DAY
    n = len(user)

    # Searches come just before, favourites just after the track starts; bans follow skips.
    chance = rng.random((3, n))
    stream = ~skipped
    artist, album, scene = world.track_artist[track], world.track_album[track], _scene(world, track)
    plain = np.where(skipped, code("skip", "track"), code("stream", "track"))
    parts: list[Rows] = [(np.arange(n), at + 2, plain, ids.track[track], heard)]

    def follow(chosen: np.ndarray, shift: int, kind: str, entity: str) -> None:
        where = np.flatnonzero(chosen)
        parts.append((where, at[where] + shift, code(kind, entity), _entity(entity, where), -1))

    def _entity(entity: str, where: np.ndarray) -> np.ndarray:
        if entity == "playlist":
            return PLAYLIST + 1 + world.editorial(scene[where], rng.random(len(where)))
        public, hidden = {"track": (ids.track, track), "artist": (ids.artist, artist), "album": (ids.album, album)}[
            entity
        ]
        entity_ids: np.ndarray = public[hidden[where]]
        return entity_ids

    follow(skipped & (chance[0] < 0.08), 3, "ban", "track")
    follow(stream & (chance[0] < 0.030), 3, "favorite", "track")
    follow(stream & (chance[0] > 0.985), 4, "favorite", "artist")
    follow(stream & (chance[1] < 0.010), 4, "favorite", "album")
    follow(stream & (chance[1] > 0.995), 5, "favorite", "playlist")
    for entity, low, high in (
        ("track", 0, 0.03),
        ("artist", 0.03, 0.05),
        ("album", 0.05, 0.06),
        ("playlist", 0.06, 0.07),
    ):
        follow((chance[2] >= low) & (chance[2] < high), 0, "search", entity)
    rows: list[Rows] = [(user[row], when, what, entity, heard_s) for row, when, what, entity, heard_s in parts]
    rows += _first_signals(world, ids, traits, set_of(user[first_day[keep]], len(traits.rate)), span, rng)
    who = np.concatenate([r[0] for r in rows])
    second = np.concatenate([r[1] for r in rows])
    rows_by_user = events(
        user_id[who],
        span.start_us + second * 1_000_000,
        np.concatenate([np.broadcast_to(r[2], len(r[0])) for r in rows]),
        np.concatenate([r[3] for r in rows]),
        np.concatenate([np.broadcast_to(r[4], len(r[0])) for r in rows]),
    )
    order = np.lexsort((second, who))
    return span.first + second[order] // DAY, rows_by_user[order]


def set_of(members: np.ndarray, n: int) -> np.ndarray:
    """Return whether each of 0 to n - 1 is among the members: (n,) bool."""
    is_member = np.zeros(n, bool)
    is_member[members] = True
    return is_member


def _scene(world: World, track: np.ndarray) -> np.ndarray:
    scene: np.ndarray = world.artist_scene[world.track_artist[track]]
    return scene


def _first_signals(
    world: World, ids: Ids, traits: UserTraits, streams: np.ndarray, span: Span, rng: np.random.Generator
) -> list[Rows]:
    """Draw onboarding likes and searches within two minutes of the registration: 95 % of new users do something."""
    n, day = len(streams), span.first + traits.registered // DAY
    new = traits.registered >= 0
    some = new & ~streams & (rng.random(n) < (ACTIVE_ON_DAY_ONE - STREAM_ON_DAY_ONE) / (1 - STREAM_ON_DAY_ONE))
    fills_form = (streams & new & (rng.random(n) < 0.8)) | (some & (rng.random(n) < 0.88))
    likes = np.where(fills_form, 1 + np.minimum(rng.poisson(3.0, n), 11), 0)
    user = np.repeat(np.arange(n), likes)
    turn = np.arange(len(user)) - np.repeat(np.cumsum(likes) - likes, likes)
    liked = traits.artists.reshape(n, -1)[user, rng.integers(0, traits.artists[0].size, len(user))]
    # The form also shows what the country streams; some of it is liked.
    shown = rng.random(len(user)) < 0.3
    scene = world.draw_scene(traits.country[user[shown]], rng.random(int(shown.sum())))
    liked[shown] = world.track_artist[world.draw_in_scene(scene, rng.random(len(scene)))]
    known = world.artist_release[liked] <= day[user]
    user, turn, liked = user[known], turn[known], liked[known]
    _, once = np.unique(user * len(world.artist_scene) + liked, return_index=True)
    once.sort()
    user, turn, liked = user[once], turn[once], liked[once]
    like = (user, traits.registered[user] + 10 + 4 * turn, code("onboarding", "artist"), ids.artist[liked], -1)
    look = np.flatnonzero(some & (~fills_form | (rng.random(n) < 0.3)))
    registered = traits.registered[look]
    context = contexts(registered % DAY, span.weekday(registered // DAY))
    wanted = draw_tracks(world, traits, look, day[look], rng, context)
    track = (look, traits.registered[look] + 100, code("search", "track"), ids.track[wanted], -1)
    return [like, track]


def draw_playlists(
    world: World,
    ids: Ids,
    traits: UserTraits,
    user_id: np.ndarray,
    numbers: np.ndarray,
    span: Span,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Draw playlists of listeners, with numbers (L,) of their own: tracks of the owner's taste, added over time.

    A track that would be added before its release is left out.
    """
    empty = np.zeros(0, np.int64)
    can = np.flatnonzero(traits.registered < (span.n_days - 1) * DAY)
    if not len(numbers) or not len(can):
        return {"playlist_id": empty, "position": empty, "track_id": empty, "user_id": empty, "added_at": empty}
    owner = rng.choice(can, len(numbers))
    size = np.clip(rng.lognormal(3.1, 0.6, len(numbers)), 5, 150).astype(np.int64)
    which = np.repeat(np.arange(len(numbers)), size)
    any_day = np.full(len(which), span.first + span.n_days)
    track = draw_tracks(world, traits, owner[which], any_day, rng)
    _, once = np.unique(which * len(world.track_artist) + track, return_index=True)
    once.sort()
    which, track = which[once], track[once]
    low = np.maximum(traits.registered[owner], 0) + 3600
    high = span.n_days * DAY
    made = low + (rng.random(len(numbers)) ** 2 * (high - low)).astype(np.int64)
    # Half of the tracks are there from the start; the rest are added over the following weeks.
    later = (rng.random(len(which)) < 0.5) * rng.exponential(8 * DAY, len(which))
    added = np.minimum(made[which] + later.astype(np.int64), high - 1)
    added = added[np.lexsort((added, which))]
    released = world.track_release[track] <= span.first + added // DAY
    which, track, added = which[released], track[released], added[released]
    position = np.arange(len(which)) - np.searchsorted(which, np.arange(len(numbers)))[which]
    return {
        "playlist_id": PLAYLIST + 1 + numbers[which],
        "position": position,
        "track_id": ids.track[track],
        "user_id": user_id[owner[which]],
        "added_at": span.start_us + added * 1_000_000,
    }


def draw_block(world: World, ids: Ids, settings: SimulateSettings, span: Span, block: int) -> Block:
    """Return users [block * BLOCK, (block + 1) * BLOCK) and everything that they do; it depends on nothing else."""
    rng = np.random.default_rng(np.random.SeedSequence((settings.seed, 100, block)))
    user = np.arange(block * BLOCK, min((block + 1) * BLOCK, settings.n_users))
    user_id = user + 1
    traits = with_context_taste(world, draw_traits(world, user, span, settings.n_users, rng), settings, rng)
    day, event_rows = draw_events(world, ids, traits, user_id, span, rng)
    n_owned = max(0, settings.n_playlists - world.n_editorial)
    low, high = ((n_owned * int(edge)) // settings.n_users for edge in (user[0], user[-1] + 1))
    numbers = world.n_editorial + np.arange(low, high)
    names = np.array(list(COUNTRIES))
    hide = rng.random((2, len(user)))
    return Block(
        users={
            "user_id": user_id,
            "country": names[traits.country],
            "country_unknown": hide[0] < NO_COUNTRY,
            "age": traits.age.astype(np.int32),
            "age_unknown": hide[1] < NO_AGE,
            "registered_at": span.start_us + traits.registered * 1_000_000,
        },
        event_day=day,
        events=event_rows,
        playlists=draw_playlists(world, ids, traits, user_id, numbers, span, rng),
    )
