"""The feature table of the skip engine in pandas, as one would write it for one machine: the peer of skip_features."""

from __future__ import annotations

import numpy as np
import pandas as pd

DAY = pd.Timedelta(days=1).as_unit("us")
KINDS = {
    "artist": ["artist_id"],
    "track": ["artist_id", "track_id"],
    "album": ["artist_id", "album_id"],
    "user": ["user_id"],
    "user_artist": ["user_id", "artist_id"],
    "user_genre": ["user_id", "genre_id"],
    "user_track": ["user_id", "track_id"],
    "user_album": ["user_id", "album_id"],
    "user_context": ["user_id", "context_type"],
    "user_platform": ["user_id", "platform_name"],
    "user_family": ["user_id", "platform_family"],
    "user_daypart": ["user_id", "daypart"],
    "track_kind": ["artist_id", "track_id", "is_flow"],
    "artist_kind": ["artist_id", "is_flow"],
    "user_kind": ["user_id", "is_flow"],
}
SHARED = {
    "context": ["context_type"],
    "genre": ["genre_id"],
    "genre_context": ["genre_id", "context_type"],
    "genre_gender": ["genre_id", "user_gender"],
    "genre_age": ["genre_id", "user_age"],
    "context_platform": ["context_type", "platform_name", "is_flow"],
}


def features(plays: pd.DataFrame, gap_s: int, smoothing: float) -> pd.DataFrame:
    """Every column of skip_features from every row of plays."""
    rows = plays.sort_values(["ts", "play_id"], ignore_index=True)
    rows["known"] = rows.is_listened.notna().astype("int64")
    rows["heard"] = rows.is_listened.eq(True).astype("int64")
    rows["flow"], rows["flow_heard"] = rows.known * rows.is_flow, rows.heard * rows.is_flow
    rows["day"], rows["daypart"] = rows.ts.dt.floor("D"), rows.ts.dt.hour // 6
    names = {"known": "plays", "heard": "listened", "flow": "flow_plays", "flow_heard": "flow_listened"}
    for kind, keys in KINDS.items():
        wanted = names if kind in ("track", "user") else {"known": "plays", "heard": "listened"}
        counted = earlier(rows, keys, list(wanted))
        for column, name in wanted.items():
            rows[f"{kind}_{name}"] = counted[column].astype("int32")
        if kind in ("track", "artist"):
            for days in (7, 30, 90):
                rows[f"{kind}_plays_{days}d"] = window(rows, keys, rows[f"{kind}_plays"], days)
    for kind, keys in SHARED.items():
        daily = rows.groupby([*keys, "day"])[["known", "heard"]].sum()
        before = daily.groupby(level=keys).cumsum() - daily
        found = rows[[*keys, "day"]].merge(before, left_on=[*keys, "day"], right_index=True, how="left")
        rows[f"{kind}_plays"] = found.known.astype("int32")
        rows[f"{kind}_listened"] = found.heard.astype("int32")
    last_hour(rows)
    return rates(with_calendar(with_users(rows, gap_s)), smoothing, gap_s)


def earlier(rows: pd.DataFrame, keys: list[str], columns: list[str]) -> pd.DataFrame:
    """Sums over rows of the same keys with a smaller time."""
    before = rows.groupby(keys, sort=False)[columns].cumsum() - rows[columns]
    return before.groupby([rows[key] for key in [*keys, "ts"]], sort=False).transform("first")


def window(rows: pd.DataFrame, keys: list[str], so_far: pd.Series, days: int) -> pd.Series:
    """Plays since midnight so many days before: those so far less those of the days before the window."""
    daily = rows.groupby([*keys, "day"], sort=False).known.sum().reset_index().sort_values("day")
    daily["upto"] = daily.groupby(keys, sort=False).known.cumsum()
    asked = rows[[*keys, "day"]].assign(day=rows.day - (days + 1) * DAY, place=rows.index)
    found = pd.merge_asof(asked, daily[[*keys, "day", "upto"]], on="day", by=keys).sort_values("place")
    return (so_far - found.upto.fillna(0).to_numpy()).astype("int32")


def last_hour(rows: pd.DataFrame) -> None:
    """The user's plays in the hour before: those so far less those of an hour ago."""
    sums = rows.groupby(["user_id", "ts"], sort=False)[["known", "heard"]].sum().reset_index()
    sums[["known", "heard"]] = sums.groupby("user_id", sort=False)[["known", "heard"]].cumsum()
    asked = rows[["user_id"]].assign(ts=rows.ts - pd.Timedelta(hours=1).as_unit("us"))
    old = pd.merge_asof(asked, sums, on="ts", by="user_id", allow_exact_matches=False).fillna(0)
    rows["user_plays_1h"] = (rows.user_plays - old.known).astype("int32")
    rows["user_listened_1h"] = (rows.user_listened - old.heard).astype("int32")


def with_users(rows: pd.DataFrame, gap_s: int) -> pd.DataFrame:
    """Sessions, last plays, top genre."""
    known = rows[rows.known == 1]
    seconds = known.groupby(["user_id", "ts"], sort=True).agg(n=("known", "sum"), heard=("heard", "sum")).reset_index()
    of_user = seconds.groupby("user_id", sort=False)
    silence = of_user.ts.diff().dt.total_seconds()
    begins = silence.isna() | (silence > gap_s)
    seconds["session"] = begins.cumsum()
    seconds["n_sessions"] = begins.astype("int64").groupby(seconds.user_id).cumsum()
    seconds["session_s"] = silence.where(~begins, 0.0).groupby(seconds.user_id).cumsum()
    of_session = seconds.groupby("session", sort=False)
    seconds["session_start"] = of_session.ts.transform("first")
    seconds["session_plays"], seconds["session_listened"] = of_session.n.cumsum(), of_session.heard.cumsum()
    seconds["last_listened"] = (seconds.heard == seconds.n).astype("int64")
    good = (seconds.heard > 0).astype("int64").groupby(seconds.user_id).cumsum()
    streak = seconds.n.where(seconds.heard == 0, 0)
    seconds["skips_in_a_row"] = streak.groupby([seconds.user_id, good]).cumsum()
    seconds["last_ts"], seconds["first_ts"] = seconds.ts, of_user.ts.transform("first")
    seconds = seconds.drop(columns=["n", "heard", "session"]).sort_values("ts")
    rows = pd.merge_asof(rows, seconds, on="ts", by="user_id", allow_exact_matches=False)
    for kind in ("user_artist", "user_track"):
        keys = KINDS[kind]
        times = known[[*keys, "ts"]].drop_duplicates().assign(last=lambda t: t.ts)
        last = pd.merge_asof(rows[[*keys, "ts"]], times, on="ts", by=keys, allow_exact_matches=False)["last"]
        rows[f"since_{kind[5:]}_s"] = (rows.ts - last).dt.total_seconds().astype("float32")
    genre, ids = pd.factorize(rows.genre_id, sort=True)
    upto = rows.groupby(KINDS["user_genre"], sort=False).known.cumsum()
    value = (upto * len(ids) + (len(ids) - 1 - genre)).where(rows.known == 1, -1)
    best = value.groupby(rows.user_id, sort=False).cummax().groupby(rows.user_id, sort=False).shift(1, fill_value=-1)
    best = best.groupby([rows.user_id, rows.ts], sort=False).transform("first")
    rows["user_top_genre"] = np.where(best >= 0, ids[(len(ids) - 1 - best % len(ids)) % len(ids)], -1)
    return rows


def with_calendar(rows: pd.DataFrame) -> pd.DataFrame:
    """What needs no history."""
    ts = rows.ts.dt
    rows["hour"], rows["weekday"], rows["is_weekend"] = ts.hour, ts.weekday, (ts.weekday > 4).astype("int32")
    rows["day_of_month"], rows["month"], rows["year"] = ts.day, ts.month, ts.year
    rows["week"] = ts.isocalendar().week.astype("int32")
    rows["bin_time"] = rows.hour // 6
    released = pd.to_datetime(rows.release_date, utc=True)
    rows["song_age_days"] = ((rows.day - released) // DAY).astype("float32")
    years = (1970, 1980, 1990, 2000, 2010, 2014, 2016)
    rows["bin_release_year"] = np.where(released.isna(), -1, np.searchsorted(years, released.dt.year, side="right"))
    rows["bin_duration"] = np.searchsorted((120, 180, 210, 240, 300, 600), rows.duration_s, side="right")
    rows["md_mf_group"] = rows.bin_duration + 7 * rows.user_gender
    return rows


def rates(rows: pd.DataFrame, smoothing: float, gap_s: int) -> pd.DataFrame:
    """Shares, smoothed from the coarse to the fine."""
    daily = rows.groupby("day")[["known", "heard"]].sum()
    before = daily.cumsum() - daily
    everybody = rows.day.map((before.heard + 1) / (before.known + 2))

    def smoothed(name: str, prior: pd.Series) -> pd.Series:
        return (rows[f"{name}_listened"] + smoothing * prior) / (rows[f"{name}_plays"] + smoothing)

    artist, user = smoothed("artist", everybody), smoothed("user", everybody)
    track = smoothed("track", artist)
    found = {"artist_rate": artist, "avg_song_listened": track, "album_rate": smoothed("album", artist)}
    found |= {"track_flow_rate": smoothed("track_flow", track), "user_rate": user}
    found |= {f"{kind}_rate": smoothed(kind, user) for kind in ("user_flow", "user_artist", "user_genre", "user_track")}
    found["skip_score"] = 1 - rows.track_listened / rows.track_plays.where(rows.track_plays > 0)
    user_plays = rows.user_plays.where(rows.user_plays > 0)
    found["behavior_index"] = rows.user_genre_listened / user_plays
    found["is_top_genre"] = (rows.user_top_genre == rows.genre_id).where(rows.user_top_genre >= 0)
    for name in ("last_ts", "first_ts"):
        found[f"since_{name[:-3]}_s"] = (rows.ts - rows[name]).dt.total_seconds()
    going_on = found["since_last_s"] <= gap_s
    found["session_length_s"] = (rows.ts - rows.session_start).dt.total_seconds().where(going_on, 0)
    for name in ("session_plays", "session_listened"):
        found[name] = rows[name].where(going_on, 0)
    found["last_skipped"] = 1 - rows.last_listened
    found["songs_per_session"] = user_plays / rows.n_sessions
    found["mean_session_s"] = rows.session_s / rows.n_sessions
    found["n_sessions"], found["skips_in_a_row"] = rows.n_sessions.fillna(0), rows.skips_in_a_row.fillna(0)
    return rows.assign(**{name: value.astype("float32") for name, value in found.items()})
