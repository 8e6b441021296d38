"""A running experiment: the listener's arm chooses the method; displayed lists are logged with propensities.

Reads     experiments/<name>.json under OVERTURE_HOME, as `overture ab-plan` registered it: what runs is what was
planned
Ids       of lines are external ids, as text; the arm is that of the user's external id
Applies   where a request names a user, leaves the method to the service (`configured`), and the day is one of the
plan's
Explores  an arm may display, for a share of its lists, a random draw without repeats from a pool: the first tracks, as
          many as the list has, of its own method's list and of others. Each track of the pool is then at each position
          with probability 1 / pool, so the propensity of a position is exact:
          (1 - share) * [it is the arm's own] + share / pool
          The rules of lists hold for the pool; the order is random, so a prefix may exceed the limit per artist
Errors    never reach a listener: an arm whose method the release does not contain is answered as configured, and the
          logged line contains the method that was used
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import BadArgument, CheckFailed
from models.cold_start.input_vector import FirstDays
from models.evaluation.assignment import arm_index, bucket_bounds
from models.evaluation.off_policy import slate_propensities
from serving.block.tracks import blocked_tracks
from serving.bodies import RecommendationBody
from serving.experiment.exposure_log import ExposureLog
from serving.http.middleware import LOG
from serving.recommend import recommender
from serving.recommend.ruled_list import NO_FILTERS
from serving.recommend.signals import EPOCH, ON_TRACKS, OTHER_LEVELS, FirstDaySignals, ListParameters, cursor, days_of
from serving.release import files
from serving.release.loaded import LoadedRelease
from serving.settings import Arm, Experiment, ServiceSettings


def plan_path(home: Path, name: str) -> Path:
    """Return the path of a registered plan."""
    return home / "experiments" / f"{name}.json"


def read_plan(home: Path, name: str) -> dict[str, Any]:
    """Return a registered plan: {plan, digest, registered_at}.

    Raises:
        BadArgument: no plan has this name.
        CheckFailed: the plan is damaged, or was changed after its registration.
    """
    try:
        plan_file: dict[str, Any] = json.loads(plan_path(home, name).read_text())
        digest = files.digest(files.canonical(plan_file["plan"]))
    except FileNotFoundError:
        raise BadArgument(f"experiment: {name} is not registered; run `overture ab-plan` first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"{plan_path(home, name)} is not a registered plan: {error!r}") from None
    if digest != plan_file.get("digest"):
        raise CheckFailed(f"experiment {name}: the plan was changed after its registration; its digest does not match")
    return plan_file


@dataclass(frozen=True)
class LoggedLists:
    """Response bodies, and the lines of the exposure log that belong to them."""

    bodies: list[RecommendationBody]
    lines: list[dict[str, Any]]


class ActiveExperiment:
    """An experiment that runs in a service."""

    def __init__(self, experiment: Experiment, rng: np.random.Generator, log_signals: bool = False) -> None:
        """Prepare the assignment of listeners.

        Args:
            experiment: arms, shares and days.
            rng: generator of random lists and request ids.
            log_signals: whether logged lines contain first-day signals.
        """
        self.experiment, self.log_signals, self._rng = experiment, log_signals, rng
        self._bucket_ends = bucket_bounds([arm.share for arm in experiment.arms])

    @classmethod
    def from_plan(cls, home: Path, name: str, log_signals: bool) -> ActiveExperiment:
        """Return the registered experiment of this name.

        Raises:
            BadArgument: it is not registered.
            CheckFailed: its plan was changed.
        """
        plan = read_plan(home, name)["plan"]
        experiment = Experiment.model_validate({key: plan[key] for key in Experiment.model_fields})
        return cls(experiment, np.random.default_rng(), log_signals)

    def arm_of(self, user_id: str) -> Arm:
        """Return the arm of a listener with this external id."""
        return self.experiment.arms[arm_index(self.experiment.name, self.experiment.salt, user_id, self._bucket_ends)]

    def recommend(
        self,
        loaded: LoadedRelease,
        listeners: Sequence[FirstDaySignals],
        options: ListParameters,
        at: datetime,
        explain: bool = False,
    ) -> LoggedLists:
        """Return response bodies as `recommender.recommend` does; listeners in the experiment get their arm's list.

        Raises:
            BadArgument: as `recommender.recommend`.
        """
        runs = self.experiment.first_day <= f"{at:%Y-%m-%d}" <= self.experiment.last_day
        arms = [
            self.arm_of(listener.user_id)
            if runs and listener.user_id is not None and options.method == "configured"
            else None
            for listener in listeners
        ]
        if all(arm is None for arm in arms):
            return LoggedLists(recommender.recommend(loaded, listeners, options, explain), [])
        body_by_position: dict[int, RecommendationBody] = {}
        lines: list[dict[str, Any]] = []
        for arm in dict.fromkeys(arms):
            positions = [b for b, one in enumerate(arms) if one == arm]
            arm_listeners = [listeners[b] for b in positions]
            if arm is None:
                body_by_position |= zip(
                    positions, recommender.recommend(loaded, arm_listeners, options, explain), strict=True
                )
                continue
            days = loaded.watch.count(days_of(loaded, arm_listeners))
            bodies = recommender.recommend(
                loaded, arm_listeners, with_arm_method(loaded, arm.method, options), explain, days
            )
            propensities = self._explore(loaded, arm, arm_listeners, options, days, bodies)
            for b, listener, body, propensity in zip(positions, arm_listeners, bodies, propensities, strict=True):
                line = self._line(loaded, arm, listener, options, body, propensity, at)
                body["experiment"] = {
                    "experiment": line["experiment"],
                    "arm": line["arm"],
                    "request_id": line["request_id"],
                }
                lines.append(line)
                body_by_position[b] = body
        return LoggedLists([body_by_position[b] for b in range(len(listeners))], lines)

    def _explore(
        self,
        loaded: LoadedRelease,
        arm: Arm,
        arm_listeners: Sequence[FirstDaySignals],
        options: ListParameters,
        days: FirstDays,
        bodies: list[RecommendationBody],
    ) -> list[list[float]]:
        """Put random lists into some of the responses; return the propensity of every position of every list."""
        if arm.explore is None:
            return [[1.0] * len(body["tracks"]) for body in bodies]
        other_bodies = [
            recommender.recommend(loaded, arm_listeners, with_arm_method(loaded, method, options), days=days)
            for method in arm.explore.methods
        ]
        propensities = []
        for b, body in enumerate(bodies):
            own = body["tracks"]
            pool = dict.fromkeys(
                i
                for body_of_method in (body, *(bodies_of_method[b] for bodies_of_method in other_bodies))
                for i in body_of_method["tracks"]
            )
            if self._rng.random() < arm.explore.share:
                drawn = self._rng.permutation(np.fromiter(pool, np.int64, len(pool)))[: len(own)].tolist()
                body |= {"tracks": drawn, "n_filled": 0}
            propensities.append(slate_propensities(body["tracks"], own, len(pool), arm.explore.share).tolist())
        return propensities

    def _line(
        self,
        loaded: LoadedRelease,
        arm: Arm,
        listener: FirstDaySignals,
        options: ListParameters,
        body: RecommendationBody,
        propensity: list[float],
        at: datetime,
    ) -> dict[str, Any]:
        """Return one line of the exposure log (contracts/exposures.yaml and exposure_contexts.yaml)."""
        line: dict[str, Any] = {
            "request_id": uuid.UUID(bytes=self._rng.bytes(16), version=4).hex,
            "user_id": listener.user_id,
            "ts": at.isoformat(),
            "experiment": self.experiment.name,
            "arm": arm.name,
            "method": body["method"] if body["vector_source"] != recommender.MEAN else recommender.MEAN,
            "release": body["release"],
            "tracks": [loaded.track_texts[i] for i in body["tracks"]],
            "propensities": propensity,
        }
        if self.log_signals:
            blocked = blocked_tracks(loaded, options.block_list, listener.country)
            line["context"] = {
                "listener": logged_listener(listener),
                "leave_out": [
                    *(loaded.ids.outside("track", track) for track in options.exclude),
                    *(loaded.track_texts[i] for i in sorted(blocked)),
                ],
                "options": logged_options(loaded, options),
            }
        return line


class ExperimentRecommender:
    """Recommends with the running experiment, if there is one, and writes the exposure log."""

    def __init__(self, settings: ServiceSettings, home: Path) -> None:
        """Open the registered experiment that the settings name.

        Raises:
            BadArgument: the experiment is not registered.
            CheckFailed: its plan was changed after its registration.
        """
        name = settings.experiment
        self.running = ActiveExperiment.from_plan(home, name, settings.exposure_signals) if name else None
        self.log = ExposureLog(home / settings.exposure_log) if settings.exposure_log else None

    def methods(self, options: ListParameters) -> tuple[str, ...]:
        """Return the methods that a request may get: the requested one, or that of an arm."""
        arms = () if self.running is None else self.running.experiment.arms
        return (options.method, *(arm.method for arm in arms))

    def recommend(
        self,
        loaded: LoadedRelease,
        listeners: Sequence[FirstDaySignals],
        options: ListParameters,
        explain: bool = False,
    ) -> list[RecommendationBody]:
        """Return response bodies; listeners in the experiment get their arm's list, which is logged."""
        if self.running is None:
            return recommender.recommend(loaded, listeners, options, explain)
        result = self.running.recommend(loaded, listeners, options, datetime.now(UTC), explain)
        if self.log is not None:
            try:
                self.log.write(result.lines)
            except OSError as error:  # the listener gets the list; the analysis of the log detects missing displays
                facts = {"lines": len(result.lines), "why": f"{type(error).__name__}: {error.strerror}"}
                LOG.log(logging.ERROR, "exposures were not written", extra={"facts": facts})
        return result.bodies


def logged_listener(listener: FirstDaySignals) -> dict[str, Any]:
    """Return the signals of a listener as schema.Listener, without the user and without lists that are empty.

    An empty list of artists or albums of tracks stays: without it, the service would fill the list in.
    """
    logged: dict[str, Any] = {
        name: value for name, value in (("country", listener.country), ("age", listener.age)) if value is not None
    }
    for signal, texts in listener.external.items():
        word, level = signal.split(".")
        if texts or (word in ON_TRACKS and level in OTHER_LEVELS):
            logged.setdefault(word, {})[level] = texts
    return logged


def logged_options(loaded: LoadedRelease, options: ListParameters) -> dict[str, Any]:
    """Return the options that change a list, without method, length and excluded tracks, as schema.ListOptions."""
    logged: dict[str, Any] = {}
    if options.rules is not None:
        rules = options.rules
        logged = {name: getattr(rules, name) for name in ("heard", "per_artist", "per_album", "diversity")}
    if options.filters != NO_FILTERS:
        filters = options.filters
        days = {"released_from": filters.released_from, "released_to": filters.released_to}
        logged["filters"] = {
            "genres": sorted(filters.genres),
            **{name: str(EPOCH + timedelta(days=day)) for name, day in days.items() if day is not None},
            "explicit": filters.explicit,
            "exclude_artists": [loaded.ids.outside("artist", one) for one in filters.artists],
            "exclude_albums": [loaded.ids.outside("album", one) for one in filters.albums],
        }
    if options.shown:
        logged["shown"] = [loaded.ids.outside("track", one) for one in options.shown]
    if options.offset:
        logged["cursor"] = cursor(loaded, options.offset)
    return logged


def with_arm_method(loaded: LoadedRelease, method: str, options: ListParameters) -> ListParameters:
    """Return the request with the arm's method, or unchanged if the release does not contain that method."""
    available = method == recommender.MEAN or method in loaded.space.methods or method in loaded.space.problems
    return replace(options, method=method if available else "configured")
