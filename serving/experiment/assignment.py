"""A running experiment: the listener's arm chooses the method; displayed lists are logged with propensities.

Reads     experiments/<name>.json under OVERTURE_HOME, as `overture ab-plan` registered it: what runs is what was
planned
Applies   where a request names a user, leaves the method to the service (`configured`), and the day is one of the
plan's
Explores  an arm may display, for a share of its lists, a random draw without repeats from a pool: the first tracks, as
          many as the list has, of its own method's list and of others. Each track of the pool is then at each position
          with probability 1 / pool, so the propensity of a position is exact:
          (1 - share) * [it is the arm's own] + share / pool
Errors    never reach a listener: an arm whose method the release does not contain is answered as configured, and the
          logged line contains the method that was used
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import BadArgument, CheckFailed
from models.cold_start.input_vector import FirstDays
from models.evaluation.assignment import arm_index, bucket_bounds
from models.evaluation.off_policy import slate_propensities
from serving.recommend import recommender
from serving.recommend.signals import days_of
from serving.release import files
from serving.release.loaded import Ready
from serving.schema import Listener, ListOptions
from serving.settings import Arm, Experiment


def registered(home: Path, name: str) -> Path:
    """Return the path of a registered plan."""
    return home / "experiments" / f"{name}.json"


def read(home: Path, name: str) -> dict[str, Any]:
    """Return a registered plan: {plan, digest, registered_at}.

    Raises:
        BadArgument: no plan has this name.
        CheckFailed: the plan is damaged, or was changed after its registration.
    """
    try:
        found: dict[str, Any] = json.loads(registered(home, name).read_text())
        digest = files.digest(files.canonical(found["plan"]))
    except FileNotFoundError:
        raise BadArgument(f"experiment: {name} is not registered; run `overture ab-plan` first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"{registered(home, name)} is not a registered plan: {error!r}") from None
    if digest != found.get("digest"):
        raise CheckFailed(f"experiment {name}: the plan was changed after its registration; its digest does not match")
    return found


@dataclass(frozen=True)
class Shown:
    """Response bodies, and the lines of the exposure log that belong to them."""

    answers: list[dict[str, Any]]
    lines: list[dict[str, Any]]


class Running:
    """An experiment that runs in a service."""

    def __init__(self, experiment: Experiment, rng: np.random.Generator, signals: bool = False) -> None:
        """Prepare the assignment of listeners.

        Args:
            experiment: arms, shares and days.
            rng: generator of random lists and request ids.
            signals: whether logged lines contain first-day signals.
        """
        self.experiment, self.signals, self._rng = experiment, signals, rng
        self._ends = bucket_bounds([arm.share for arm in experiment.arms])

    @classmethod
    def of(cls, home: Path, name: str, signals: bool) -> Running:
        """Return the registered experiment of this name.

        Raises:
            BadArgument: it is not registered.
            CheckFailed: its plan was changed.
        """
        plan = read(home, name)["plan"]
        experiment = Experiment.model_validate({key: plan[key] for key in Experiment.model_fields})
        return cls(experiment, np.random.default_rng(), signals)

    def arm(self, user_id: int) -> Arm:
        """Return the arm of a listener."""
        return self.experiment.arms[arm_index(self.experiment.name, self.experiment.salt, user_id, self._ends)]

    def recommend(
        self, ready: Ready, listeners: Sequence[Listener], asked: ListOptions, at: datetime, explain: bool = False
    ) -> Shown:
        """Return response bodies as `recommender.recommend` does; listeners in the experiment get their arm's list.

        Raises:
            BadArgument: as `recommender.recommend`.
        """
        runs = self.experiment.first_day <= f"{at:%Y-%m-%d}" <= self.experiment.last_day
        arms = [
            self.arm(who.user_id) if runs and who.user_id is not None and asked.method == "configured" else None
            for who in listeners
        ]
        if all(arm is None for arm in arms):
            return Shown(recommender.recommend(ready, listeners, asked, explain), [])
        found: dict[int, dict[str, Any]] = {}
        lines: list[dict[str, Any]] = []
        for arm in dict.fromkeys(arms):
            mine = [b for b, one in enumerate(arms) if one == arm]
            people = [listeners[b] for b in mine]
            if arm is None:
                found |= zip(mine, recommender.recommend(ready, people, asked, explain), strict=True)
                continue
            days = ready.watch.seen(days_of(ready, people))
            said = recommender.recommend(ready, people, as_arm(ready, arm.method, asked), explain, days)
            propensities = self._explore(ready, arm, people, asked, days, said)
            for b, who, answer, propensity in zip(mine, people, said, propensities, strict=True):
                line = self._line(ready, arm, who, asked, answer, propensity, at)
                answer["experiment"] = {key: line[key] for key in ("experiment", "arm", "request_id")}
                lines.append(line)
                found[b] = answer
        return Shown([found[b] for b in range(len(listeners))], lines)

    def _explore(
        self, ready: Ready, arm: Arm, people: Sequence[Listener], asked: ListOptions, days: FirstDays, said: list[Any]
    ) -> list[list[float]]:
        """Put random lists into some of the responses; return the propensity of every position of every list."""
        if arm.explore is None:
            return [[1.0] * len(answer["tracks"]) for answer in said]
        others = [
            recommender.recommend(ready, people, as_arm(ready, method, asked), days=days)
            for method in arm.explore.methods
        ]
        propensities = []
        for b, answer in enumerate(said):
            own = answer["tracks"]
            pool = dict.fromkeys(i for one in (answer, *(other[b] for other in others)) for i in one["tracks"])
            if self._rng.random() < arm.explore.share:
                drawn = self._rng.permutation(np.fromiter(pool, np.int64, len(pool)))[: len(own)].tolist()
                answer |= {"tracks": drawn, "n_filled": 0}
            propensities.append(slate_propensities(answer["tracks"], own, len(pool), arm.explore.share).tolist())
        return propensities

    def _line(
        self,
        ready: Ready,
        arm: Arm,
        who: Listener,
        asked: ListOptions,
        answer: dict[str, Any],
        propensity: list[float],
        at: datetime,
    ) -> dict[str, Any]:
        """Return one line of the exposure log (contracts/exposures.yaml and exposure_contexts.yaml)."""
        said: dict[str, Any] = {
            "request_id": uuid.UUID(bytes=self._rng.bytes(16), version=4).hex,
            "user_id": who.user_id,
            "ts": at.isoformat(),
            "experiment": self.experiment.name,
            "arm": arm.name,
            "method": answer["method"] if answer["vector_source"] != recommender.MEAN else recommender.MEAN,
            "release": answer["release"],
            "tracks": [ready.tracks[i].track_id for i in answer["tracks"]],
            "propensities": propensity,
        }
        if self.signals:
            said["context"] = {
                "listener": who.model_dump(mode="json", exclude={"user_id"}, exclude_defaults=True),
                "leave_out": list(asked.exclude),
                "leave_out_first_day": asked.leave_out_first_day,
            }
        return said


def as_arm(ready: Ready, method: str, asked: ListOptions) -> ListOptions:
    """Return the request with the arm's method, or unchanged if the release does not contain that method."""
    held = method == recommender.MEAN or method in ready.space.methods or method in ready.space.problems
    return ListOptions(
        method=method if held else "configured",  # type: ignore[arg-type]
        k=asked.k,
        exclude=asked.exclude,
        leave_out_first_day=asked.leave_out_first_day,
    )
