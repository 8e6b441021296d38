"""Updates the champion with the plays of recent days: its members, its ensemble weights and its calibration.

Input   skip_features of the days before the day; the champion; the saved models that its members were exported from
Plays   of skip.update.window_days before the day, later than what the members were trained on, split by time:

    train        older half of the first part; every member is fine-tuned on it (SkipModel.partial_fit)
    validation   newer half of the first part; early stopping of the members, then ensemble weights and calibration
    holdout      the newest plays, skip.update.holdout_share of all; a member is accepted if its log loss falls, and the
                 combination of members, weights and calibration with the lowest Brier score is selected

A change is only accepted where it improves on the holdout. The plays of the day itself are not used: they evaluate the
release (jobs/release/skip/gate.py) and are used for training on later days. The holdout of today is training data of
tomorrow, so that the members are a few days behind, and no play is evaluated by a model that was trained on it.
A member is fine-tuned from the saved model that the release refers to. If that model is missing, it stays unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import CheckFailed
from jobs.skip import artifacts, dataset
from models.arrays import DoubleMatrix, DoubleVector
from models.skip.data.arrays import log_loss
from models.skip.ensemble.calibration import fit_best_calibration
from models.skip.ensemble.ensemble import Calibration, Mix, logit
from models.skip.ensemble.fit import fit_logistic
from models.skip.evaluation.metrics import brier

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from models.skip.data.play_history import Log
    from models.skip.data.plays import Plays
    from models.skip.estimators.base import SkipModel
    from serving.skip.release import SkipRelease


@dataclass(frozen=True, eq=False)
class ChampionUpdate:
    """The champion with fine-tuned members, and the ensemble and calibration that combine them.

    Attributes:
        champion: the release that is updated.
        members: the fine-tuned members by name; the other members are the champion's.
        mix: combines the log odds of all members, in the champion's order.
        calibration: calibration of the combined score.
        trained_until: seconds since 1970; no member was trained on a play of this second or later.
        report: for provenance.json: what was changed, and the metrics that decided it.
    """

    champion: SkipRelease
    members: Mapping[str, SkipModel]
    mix: Mix
    calibration: Calibration
    trained_until: int
    report: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, plays: Plays, log: Log) -> DoubleVector:
        """Return the probability that each of the cleaned plays is listened to, (N,)."""
        return self.calibration(self.mix(self.member_logits(plays, log)))

    def member_logits(self, plays: Plays, log: Log) -> DoubleMatrix:
        """Return the log odds of all members for cleaned plays, (N, M), in the champion's order."""
        proba = [
            self.members[member.name].predict_proba(plays)
            if member.name in self.members
            else member.predict(plays, log)
            for member in self.champion.members
        ]
        return logit(np.stack(proba, axis=1))


@dataclass(frozen=True, eq=False)
class UpdateParts:
    """New plays split by time.

    Attributes:
        train: the plays that members are fine-tuned on.
        validation: the plays that stop the fine-tuning.
        validation_halves: the same plays, older and newer half: for weights and calibration of fine-tuned members.
        first_halves: train and validation together, older and newer half: for weights and calibration of the
            champion's members, which were trained on none of them.
        holdout: the newest plays, on which a change is accepted or refused.
    """

    train: Plays
    validation: Plays
    validation_halves: tuple[Plays, Plays]
    first_halves: tuple[Plays, Plays]
    holdout: Plays

    def have_both_classes(self) -> bool:
        """Return whether every part that a model or an ensemble is fitted on has listened and skipped plays."""
        return all(len(np.unique(part.labels())) == 2 for part in (self.train, *self.validation_halves, self.holdout))


def update_champion(context: Context, champion: SkipRelease, day: str, log: Log) -> ChampionUpdate:
    """Return the champion updated with the plays before a day, or unchanged where no change improves it.

    Args:
        context: week, lake and settings; `skip.update` is used.
        champion: the release in service.
        day: YYYY-MM-DD; plays of this day and later are not used.
        log: cleaned plays; for each prediction a session model reads the strictly earlier ones.
    """
    settings = context.settings.skip.update
    unchanged = ChampionUpdate(champion, {}, champion.mix, champion.calibration, champion.description["trained_until"])
    plays = read_new_plays(context, champion, day)
    n_plays = 0 if plays is None else len(plays)
    if plays is None or n_plays < settings.min_plays:
        why = f"{n_plays} plays since training before {day}, fewer than skip.update.min_plays = {settings.min_plays}"
        return replace(unchanged, report={"why": why})
    parts = split_by_time(plays, settings.holdout_share)
    if not parts.have_both_classes():
        why = f"a part of the {n_plays} plays since training has one class only"
        return replace(unchanged, report={"why": why})
    members, member_reports = fine_tune_members(context, champion, parts, log)
    candidates = [unchanged, refit_ensemble(unchanged, parts.first_halves, log)]
    if members:
        fine_tuned = replace(unchanged, members=members, trained_until=int(parts.validation.ts_N[0]))
        candidates += [refit_ensemble(fine_tuned, parts.validation_halves, log), fine_tuned]
    best, brier_scores = select_on_holdout(candidates, parts.holdout, log)
    report = {
        "plays": n_plays,
        "members": member_reports,
        "fine_tuned": sorted(best.members),
        "brier": min(brier_scores),
        "champion_brier": brier_scores[0],
        "ensemble": "unchanged" if best.mix is champion.mix else "refitted",
    }
    return replace(best, report=report)


def read_new_plays(context: Context, champion: SkipRelease, day: str) -> Plays | None:
    """Return the cleaned labelled plays of the window before the day that no member was trained on, in time order.

    None where the window has no features.
    """
    first = str(date.fromisoformat(day) - timedelta(days=context.settings.skip.update.window_days))
    if not [p for p in context.lake.partitions("skip_features") if p["variant"] == "past" and first <= p["day"] < day]:
        return None
    plays, _ = dataset.read_rows(context, champion.names, "past", first, day)
    n_seen = int(np.searchsorted(plays.ts_N, champion.description["trained_until"]))
    return champion.cleaned(plays.rows(slice(n_seen, None)))


def split_by_time(plays: Plays, holdout_share: float) -> UpdateParts:
    """Split plays into train, validation and holdout; plays of one second are not split between the first two."""

    def between(start: int, stop: int | None) -> Plays:
        return plays.rows(slice(start, stop))

    n_first = int((1 - holdout_share) * len(plays))
    n_train = int(np.searchsorted(plays.ts_N, plays.ts_N[n_first // 2]))
    middle = (n_train + n_first) // 2
    return UpdateParts(
        train=between(0, n_train),
        validation=between(n_train, n_first),
        validation_halves=(between(n_train, middle), between(middle, n_first)),
        first_halves=(between(0, n_first // 2), between(n_first // 2, n_first)),
        holdout=between(n_first, None),
    )


def fine_tune_members(
    context: Context, champion: SkipRelease, parts: UpdateParts, log: Log
) -> tuple[dict[str, SkipModel], dict[str, dict[str, Any]]]:
    """Return the members whose holdout loss fell by fine-tuning, and a report for each member, by name."""
    members: dict[str, SkipModel] = {}
    reports: dict[str, dict[str, Any]] = {}
    for entry in champion.description["members"]:
        name = entry["name"]
        reports[name], model = fine_tune_member(context, entry, parts, log)
        if model is not None:
            members[name] = model
    return members, reports


def fine_tune_member(
    context: Context, entry: Mapping[str, Any], parts: UpdateParts, log: Log
) -> tuple[dict[str, Any], SkipModel | None]:
    """Fine-tune one member of the champion from its saved model.

    Args:
        context: settings, seeds and folders.
        entry: the member's entry in the release: name, weight, state.
        parts: the new plays.
        log: play history that a session model reads.

    Returns:
        The holdout losses, or why the member stays unchanged; and the model, or None where its holdout loss did not
        fall.
    """
    name = entry["name"]
    if not entry.get("state"):
        return {"why": "the release does not refer to a saved model"}, None
    try:
        model = artifacts.load_referenced_model(context, name, entry["state"], log)
    except CheckFailed as error:
        return {"why": str(error).replace(f"{context.home}/", "")}, None
    loss_before = log_loss(parts.holdout.labels(), model.predict_proba(parts.holdout))
    try:
        model.partial_fit(parts.train, parts.validation, context.seed(f"skip/{name}"))
    except ValueError as error:  # a loss that is no longer finite: the member stays unchanged
        return {"why": str(error)}, None
    loss = log_loss(parts.holdout.labels(), model.predict_proba(parts.holdout))
    return {"loss": loss, "loss_before": loss_before}, model if loss < loss_before else None


def refit_ensemble(update: ChampionUpdate, halves: tuple[Plays, Plays], log: Log) -> ChampionUpdate:
    """Return the update with weights fitted on the older half and a calibration fitted on the newer half."""
    older, newer = halves
    mix = fit_logistic(update.member_logits(older, log), older.labels())
    calibration = fit_best_calibration(newer.labels(), mix(update.member_logits(newer, log)))
    return replace(update, mix=mix, calibration=calibration)


def select_on_holdout(
    candidates: Sequence[ChampionUpdate], holdout: Plays, log: Log
) -> tuple[ChampionUpdate, list[float]]:
    """Return the candidate with the lowest Brier score on the holdout (the first of equals), and all the scores."""
    scores = [brier(holdout.labels(), candidate.predict(holdout, log)) for candidate in candidates]
    return candidates[int(np.argmin(scores))], scores
