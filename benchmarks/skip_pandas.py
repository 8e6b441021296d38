"""Compute the feature table of the skip engine in pandas, as for one machine: a peer in skip_features.py."""

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
DAILY_KINDS = {
    "context": ["context_type"],
    "genre": ["genre_id"],
    "genre_context": ["genre_id", "context_type"],
    "genre_gender": ["genre_id", "user_gender"],
    "genre_age": ["genre_id", "user_age"],
    "context_platform": ["context_type", "platform_name", "is_flow"],
}


def features(plays: pd.DataFrame, gap_s: int, smoothing: float) -> pd.DataFrame:
    """Return every column of skip_features for each row of plays.

    Args:
        plays: rows of the table plays.
        gap_s: silence in seconds after which a new session starts.
        smoothing: weight of the prior in smoothed rates.
    """
    rows = plays.sort_values(["ts", "play_id"], ignore_index=True)
    rows["known"] = rows.is_listened.notna().astype("int64")
    rows["heard"] = rows.is_listened.eq(True).astype("int64")
    rows["flow"], rows["flow_heard"] = rows.known * rows.is_flow, rows.heard * rows.is_flow
    rows["day"], rows["daypart"] = rows.ts.dt.floor("D"), rows.ts.dt.hour // 6
    names = {"known": "plays", "heard": "listened", "flow": "flow_plays", "flow_heard": "flow_listened"}
    for kind, keys in KINDS.items():
        columns = names if kind in ("track", "user") else {"known": "plays", "heard": "listened"}
        sums = earlier(rows, keys, list(columns))
        for column, name in columns.items():
            rows[f"{kind}_{name}"] = sums[column].astype("int32")
        if kind in ("track", "artist"):
            for days in (7, 30, 90):
                rows[f"{kind}_plays_{days}d"] = window(rows, keys, rows[f"{kind}_plays"], days)
    for kind, keys in DAILY_KINDS.items():
        daily = rows.groupby([*keys, "day"])[["known", "heard"]].sum()
        before = daily.groupby(level=keys).cumsum() - daily
        earlier_days = rows[[*keys, "day"]].merge(before, left_on=[*keys, "day"], right_index=True, how="left")
        rows[f"{kind}_plays"] = earlier_days.known.astype("int32")
        rows[f"{kind}_listened"] = earlier_days.heard.astype("int32")
    last_hour(rows)
    return rates(with_calendar(with_users(rows, gap_s)), smoothing, gap_s)


def earlier(rows: pd.DataFrame, keys: list[str], columns: list[str]) -> pd.DataFrame:
    """Return sums of columns over the earlier rows with the same keys."""
    before = rows.groupby(keys, sort=False)[columns].cumsum() - rows[columns]
    return before.groupby([rows[key] for key in [*keys, "ts"]], sort=False).transform("first")


def window(rows: pd.DataFrame, keys: list[str], so_far: pd.Series, days: int) -> pd.Series:
    """Return the number of plays since midnight `days` days ago: plays so far minus plays before the window."""
    daily = rows.groupby([*keys, "day"], sort=False).known.sum().reset_index().sort_values("day")
    daily["upto"] = daily.groupby(keys, sort=False).known.cumsum()
    query = rows[[*keys, "day"]].assign(day=rows.day - (days + 1) * DAY, place=rows.index)
    totals = pd.merge_asof(query, daily[[*keys, "day", "upto"]], on="day", by=keys).sort_values("place")
    return (so_far - totals.upto.fillna(0).to_numpy()).astype("int32")


def last_hour(rows: pd.DataFrame) -> None:
    """Add the user's plays of the previous hour: plays so far minus plays until an hour ago."""
    sums = rows.groupby(["user_id", "ts"], sort=False)[["known", "heard"]].sum().reset_index()
    sums[["known", "heard"]] = sums.groupby("user_id", sort=False)[["known", "heard"]].cumsum()
    query = rows[["user_id"]].assign(ts=rows.ts - pd.Timedelta(hours=1).as_unit("us"))
    hour_ago = pd.merge_asof(query, sums, on="ts", by="user_id", allow_exact_matches=False).fillna(0)
    rows["user_plays_1h"] = (rows.user_plays - hour_ago.known).astype("int32")
    rows["user_listened_1h"] = (rows.user_listened - hour_ago.heard).astype("int32")


def with_users(rows: pd.DataFrame, gap_s: int) -> pd.DataFrame:
    """Return the rows with sessions, last plays and top genre."""
    labelled = rows[rows.known == 1]
    seconds = (
        labelled.groupby(["user_id", "ts"], sort=True).agg(n=("known", "sum"), heard=("heard", "sum")).reset_index()
    )
    by_user = seconds.groupby("user_id", sort=False)
    gap = by_user.ts.diff().dt.total_seconds()
    is_first = gap.isna() | (gap > gap_s)
    seconds["session"] = is_first.cumsum()
    seconds["n_sessions"] = is_first.astype("int64").groupby(seconds.user_id).cumsum()
    seconds["session_s"] = gap.where(~is_first, 0.0).groupby(seconds.user_id).cumsum()
    by_session = seconds.groupby("session", sort=False)
    seconds["session_start"] = by_session.ts.transform("first")
    seconds["session_plays"], seconds["session_listened"] = by_session.n.cumsum(), by_session.heard.cumsum()
    seconds["last_listened"] = (seconds.heard == seconds.n).astype("int64")
    n_listened = (seconds.heard > 0).astype("int64").groupby(seconds.user_id).cumsum()
    streak = seconds.n.where(seconds.heard == 0, 0)
    seconds["skips_in_a_row"] = streak.groupby([seconds.user_id, n_listened]).cumsum()
    seconds["last_ts"], seconds["first_ts"] = seconds.ts, by_user.ts.transform("first")
    seconds = seconds.drop(columns=["n", "heard", "session"]).sort_values("ts")
    rows = pd.merge_asof(rows, seconds, on="ts", by="user_id", allow_exact_matches=False)
    for kind in ("user_artist", "user_track"):
        keys = KINDS[kind]
        times = labelled[[*keys, "ts"]].drop_duplicates().assign(last=lambda t: t.ts)
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
    """Return the rows with the columns that need no history."""
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
    """Return the rows with rates, each smoothed towards the next coarser one."""
    daily = rows.groupby("day")[["known", "heard"]].sum()
    earlier_days = daily.cumsum() - daily
    overall_rate = rows.day.map((earlier_days.heard + 1) / (earlier_days.known + 2))

    def smoothed(name: str, prior: pd.Series) -> pd.Series:
        return (rows[f"{name}_listened"] + smoothing * prior) / (rows[f"{name}_plays"] + smoothing)

    artist, user = smoothed("artist", overall_rate), smoothed("user", overall_rate)
    track = smoothed("track", artist)
    columns = {"artist_rate": artist, "avg_song_listened": track, "album_rate": smoothed("album", artist)}
    columns |= {"track_flow_rate": smoothed("track_flow", track), "user_rate": user}
    columns |= {
        f"{kind}_rate": smoothed(kind, user) for kind in ("user_flow", "user_artist", "user_genre", "user_track")
    }
    columns["skip_score"] = 1 - rows.track_listened / rows.track_plays.where(rows.track_plays > 0)
    user_plays = rows.user_plays.where(rows.user_plays > 0)
    columns["behavior_index"] = rows.user_genre_listened / user_plays
    columns["is_top_genre"] = (rows.user_top_genre == rows.genre_id).where(rows.user_top_genre >= 0)
    for name in ("last_ts", "first_ts"):
        columns[f"since_{name[:-3]}_s"] = (rows.ts - rows[name]).dt.total_seconds()
    in_session = columns["since_last_s"] <= gap_s
    columns["session_length_s"] = (rows.ts - rows.session_start).dt.total_seconds().where(in_session, 0)
    for name in ("session_plays", "session_listened"):
        columns[name] = rows[name].where(in_session, 0)
    columns["last_skipped"] = 1 - rows.last_listened
    columns["songs_per_session"] = user_plays / rows.n_sessions
    columns["mean_session_s"] = rows.session_s / rows.n_sessions
    columns["n_sessions"], columns["skips_in_a_row"] = rows.n_sessions.fillna(0), rows.skips_in_a_row.fillna(0)
    return rows.assign(**{name: value.astype("float32") for name, value in columns.items()})
