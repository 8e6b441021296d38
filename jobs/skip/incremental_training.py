"""What the plays of some days can teach a champion: its members, their mix, their calibration; each if it gets better.

Input   skip_features of the days before the day; the champion; the models that training, or an earlier update, kept
Plays   of the skip.update.window_days before the day, later than what the members have learned from, by time:

    older half of the first part    every member goes on learning from it (SkipModel.learn_more)
    newer half of the first part    stops the members; then teaches weights, the rest of it the calibration
    newest, skip.update.holdout_share decides: a member by log loss, what joins them by Brier's score of the whole answer

The day itself teaches nothing: its plays judge the release (jobs/release/skip/gate.py), and teach the days after it. What
was left to decide today teaches members tomorrow, so that these are a few days behind and no play is judged by a model
that has learned from it. A member goes on from the save that the release names; where that is gone it stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import CheckFailed
from jobs.skip import artifacts, dataset
from models.skip.ensemble.calibration import choose
from models.skip.ensemble.ensemble import Calibration, Mix, logit
from models.skip.ensemble.fit import logistic
from models.skip.estimators.base import log_loss
from models.skip.evaluation.metrics import brier

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from models.skip.data.play_history import Log
    from models.skip.data.plays import Plays
    from models.skip.estimators.base import SkipModel
    from serving.skip.release import SkipRelease


@dataclass(frozen=True, eq=False)
class Relearned:
    """Who answers after the update, and how it came to that.

    Attributes:
        old: the champion.
        members: of its members those that learned on, by name.
        mix: joins all members, in the champion's order.
        calibration: of the mix.
        trained_until: no member has learned from a play of this second or later.
        told: for people: what stayed, what changed, by which numbers.
    """

    old: SkipRelease
    members: Mapping[str, SkipModel]
    mix: Mix
    calibration: Calibration
    trained_until: int
    told: Mapping[str, Any]

    def predict(self, plays: Plays, log: Log) -> NDArray[np.float64]:
        """Chance of a listen of cleaned plays, (N,)."""
        return self.calibration(self.mix(logits(self.old, self.members, plays, log)))


def relearn(context: Context, old: SkipRelease, day: str, log: Log) -> Relearned:
    """The champion after the plays before the day; `log`: cleaned plays, of which the strictly earlier count."""
    plays = unseen(context, old, day)
    as_it_was = Relearned(old, {}, old.mix, old.calibration, old.told["trained_until"], {})
    chosen = context.settings.skip.update
    if plays is None or len(plays) < chosen.min_plays:
        n = 0 if plays is None else len(plays)
        why = f"{n} plays since training before {day}, skip.update.min_plays asks for {chosen.min_plays}"
        return replace(as_it_was, told={"why": why})
    n_first = int((1 - chosen.holdout_share) * len(plays))
    n_learn = int(np.searchsorted(plays.ts_N, plays.ts_N[n_first // 2]))  # plays of one second stay together
    learn, newer, decide = (plays.rows(slice(*ends)) for ends in ((0, n_learn), (n_learn, n_first), (n_first, None)))
    half = plays.rows(slice(n_learn, (n_learn + n_first) // 2)), plays.rows(slice((n_learn + n_first) // 2, n_first))
    if any(len(np.unique(part.labels())) < 2 for part in (learn, *half, decide)):
        return replace(as_it_was, told={"why": f"of the {len(plays)} plays since training a part is of one class"})
    members: dict[str, SkipModel] = {}
    said: dict[str, Any] = {}
    for one in old.told["members"]:
        said[one["name"]], model = went_on(context, one, (learn, newer, decide), log)
        if model is not None:
            members[one["name"]] = model
    ways = [as_it_was]
    for some in [{}, members] if members else [{}]:
        teach = half if some else (plays.rows(slice(0, n_first // 2)), plays.rows(slice(n_first // 2, n_first)))
        mix = logistic(logits(old, some, teach[0], log), teach[0].labels())
        calibration = choose(teach[1].labels(), mix(logits(old, some, teach[1], log)))
        until = int(newer.ts_N[0]) if some else as_it_was.trained_until
        ways.append(Relearned(old, some, mix, calibration, until, {}))
        if some:
            ways.append(Relearned(old, some, old.mix, old.calibration, until, {}))
    scores = [brier(decide.labels(), way.predict(decide, log)) for way in ways]
    best = ways[int(np.argmin(scores))]  # the first of equals: as it was
    told = {
        "plays": len(plays),
        "members": said,
        "learned_on": sorted(best.members),
        "brier": min(scores),
        "brier_of_champion": scores[0],
        "mix": "learned anew" if best.mix is not old.mix else "the champion's",
    }
    return replace(best, told=told)


def unseen(context: Context, old: SkipRelease, day: str) -> Plays | None:
    """Cleaned labelled plays of the window before the day that no member has learned from, in order of time."""
    first = str(date.fromisoformat(day) - timedelta(days=context.settings.skip.update.window_days))
    if not [p for p in context.lake.partitions("skip_features") if p["variant"] == "past" and first <= p["day"] < day]:
        return None
    plays, _ = dataset.load(context, old.names, "past", first, day, asked=False)
    return old.cleaned(plays.rows(slice(int(np.searchsorted(plays.ts_N, old.told["trained_until"])), None)))


def went_on(
    context: Context, member: Mapping[str, Any], parts: tuple[Plays, Plays, Plays], log: Log
) -> tuple[dict[str, Any], SkipModel | None]:
    """What became of a member, and the model where it got better by plays to learn from, to stop by and to decide."""
    name, (learn, stop, decide) = member["name"], parts
    if not member.get("state"):
        return {"why": "the release does not say which save of the model it answers with"}, None
    try:
        model = artifacts.load_state(context, name, member["state"], log)
    except CheckFailed as error:
        return {"why": str(error).replace(f"{context.home}/", "")}, None
    before = log_loss(decide.labels(), model.predict_proba(decide))
    try:
        model.learn_more(learn, stop, context.seed(f"skip/{name}"))
    except ValueError as error:  # a loss that is no longer finite: the member as it was is better
        return {"why": str(error)}, None
    after = log_loss(decide.labels(), model.predict_proba(decide))
    return {"loss": after, "loss_before": before}, model if after < before else None


def logits(old: SkipRelease, changed: Mapping[str, SkipModel], plays: Plays, log: Log) -> NDArray[np.float64]:
    """Log odds of all members about cleaned plays, (N, M): of those that changed, and of the champion's others."""
    said = [
        changed[member.name].predict_proba(plays) if member.name in changed else member.predict(plays, log)
        for member in old.members
    ]
    return logit(np.stack(said, axis=1))
