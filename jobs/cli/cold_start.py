"""Commands of the cold-start engine: matrix, factorize, segments, features, train, evaluate."""

from __future__ import annotations

import typer

from jobs.cli.options import (
    BacktestOption,
    ConfigOption,
    SpaceOption,
    WeekOption,
    parse_space,
    print_json,
    week_context,
)

commands = typer.Typer()
matrix = typer.Typer(
    help="Compute the user-track matrix, the track pairs and the first-day signals from the events. Run `catalog` "
    "first, after `overture check`."
)
factorize = typer.Typer(help="Compute a joint space of users and tracks from the matrix. Run `matrix` first.")
PANEL = "3. Cold start, in this order"


@matrix.command("catalog")
def matrix_catalog(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Select the warm users and the catalogue of tracks. Run `overture check users tracks events playlists` first."""
    context = week_context(week, config, backtest)
    from jobs.matrix import catalog
    from jobs.release import weekly_run

    print_json(weekly_run.run_tracked(context, "catalog", None, catalog.run))


@matrix.command("user-track")
def matrix_user_track(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Compute the affinity of each warm user for each track of the catalogue."""
    context = week_context(week, config, backtest)
    from jobs.matrix import user_track
    from jobs.release import weekly_run

    print_json(weekly_run.run_tracked(context, "user_track", None, user_track.run))


@matrix.command("track-pairs")
def matrix_track_pairs(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Count how often two tracks occur in the same collection, and compute their positive PMI."""
    context = week_context(week, config, backtest)
    from jobs.matrix import track_pairs
    from jobs.release import weekly_run

    print_json(weekly_run.run_tracked(context, "track_pairs", None, track_pairs.run))


@matrix.command("first-day")
def matrix_first_day(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Extract the first-day signals of warm users and of the evaluation cohort, and the cohort's ground truth."""
    context = week_context(week, config, backtest)
    from jobs.matrix import first_day
    from jobs.release import weekly_run

    print_json(weekly_run.run_tracked(context, "first_day", None, first_day.run))


@factorize.command("als")
def factorize_als(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Fit UT-ALS: implicit alternating least squares on the user-track matrix (space ut_als)."""
    context = week_context(week, config, backtest)
    from jobs.factorize import als
    from jobs.release import weekly_run

    print_json(weekly_run.run_tracked(context, "als", "ut_als", als.run))


@factorize.command("svd")
def factorize_svd(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Fit TT-SVD: randomised SVD of the track-track PMI matrix (space tt_svd)."""
    context = week_context(week, config, backtest)
    from jobs.factorize import svd
    from jobs.release import weekly_run

    print_json(weekly_run.run_tracked(context, "svd", "tt_svd", svd.run))


@commands.command(rich_help_panel=PANEL)
def segments(
    week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False
) -> None:
    """Cluster the warm users into segments. Each segment gets a ranking of tracks and a card."""
    context = week_context(week, config, backtest)
    from jobs.cold_start import segments as job

    print_json(job.run(context, space=parse_space(space)))


@commands.command(rich_help_panel=PANEL)
def features(
    week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False
) -> None:
    """Compute the vectors of artists, albums, playlists and demographics, and the input vectors of the network."""
    context = week_context(week, config, backtest)
    from jobs.cold_start import features as job

    print_json(job.run(context, space=parse_space(space)))


@commands.command(rich_help_panel=PANEL)
def train(week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Train the network that predicts a warm user's vector from first-day signals. Trains the blend if it is served."""
    context = week_context(week, config, backtest)
    from jobs.cold_start import train as job

    print_json(job.run(context, space=parse_space(space)))


@commands.command(rich_help_panel=PANEL)
def evaluate(
    week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False
) -> None:
    """Evaluate every method on the validation and test cohorts, by slice, with confidence intervals."""
    context = week_context(week, config, backtest)
    from jobs.cold_start import evaluate as job

    print_json(job.run(context, space=parse_space(space)))
