"""A small skip week on simulated plays, trained, blended and evaluated, for tests of releases and of the service."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np

from jobs.ingest.dsg17 import adapter as dsg17
from jobs.ingest.dsg17 import generate as dsg17_make
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.quality import check
from jobs.release import bundle, gate, pointer, promote
from jobs.settings.settings import load
from jobs.settings.skip import SkipSettings
from jobs.skip import artifacts, blend, build_features, evaluate, train
from models.skip.data import splits
from models.skip.ensemble.calibration import fit_best_calibration
from models.skip.ensemble.ensemble import Mix, logit
from serving.skip.release import SkipRelease
from tests.helpers import release_keys

MODELS = ("boosted_trees", "logistic_features", "session_gru", "collaborative")
SMALL = {
    "models": MODELS,
    "features": {"rows_per_group": 4_000},
    "cleaning": {"rare_min_count": 5},
    "recipes": {"boosted_trees": {"rounds": 60}, "session_gru": {"epochs": 1, "hidden": 8, "length": 5}},
    "blend": {"members": ["boosted_trees", "logistic_features", "session_gru"], "folds": 2},
    "evaluation": {
        "n_bootstrap": 20,
        "min_class_plays": 20,
        "importance_draws": 1,
        "learning_steps": 2,
        "importance_plays": 200,
    },
    "gate": {
        "min_plays": 50,
        "slice_min_plays": 10,
        "n_bootstrap": 50,
        "margin_over_rate": -0.2,
        "flow_min_auc": 0.4,
        "max_calibration_error": 0.2,
        "latency_ms": 10_000,
        "delta": 0.2,
    },
    "update": {"min_plays": 100},
}
ROWS = 8_000
WEEK = "2016-11-28"
DAY, BEFORE = "2016-11-28", "2016-11-27"  # the first day after the plays of the week, and the last of them


def at(home, week=WEEK, **changes):
    """Return the skip engine's context over a home."""
    settings = load()
    skip = SkipSettings.model_validate({**SMALL, **changes})
    return Context(settings.model_copy(update={"skip": skip}), Week.parse(week), home, "skip")


def copied(home, tmp_path, monkeypatch):
    """Return a copy of the week with a champion, in a home of its own."""
    monkeypatch.setenv("OVERTURE_HOME", str(tmp_path / "home"))
    shutil.copytree(home, tmp_path / "home")
    return at(tmp_path / "home")


def champion(context):
    """Return the release in service."""
    now = pointer.read(context.release_home)
    return SkipRelease(pointer.releases(context.release_home) / now.release, now)


def with_gate_settings(context, **changes):
    """Return the context with changed settings of the gate."""
    skip = context.settings.skip
    changed = skip.model_copy(update={"gate": skip.gate.model_copy(update=changes)})
    return replace(context, settings=context.settings.model_copy(update={"skip": changed}))


def train_and_evaluate(context):
    """Train, blend and evaluate the models of the week."""
    check.run(context, ["plays"])
    build_features.run(context, end="2016-11-27")
    for name in MODELS:
        train.run(context, name)
    blend.run(context)
    blend_all_members(context)
    evaluate.run(context)


def blend_all_members(context):
    """Write a blend of all candidates with equal weights, so that every member is in the release."""
    document, scores = artifacts.read_blend(context), artifacts.read_scores(context, "blend")
    members = context.settings.skip.blend.members
    logits = np.stack([logit(artifacts.read_scores(context, name).proba_N) for name in members], axis=1)
    mix = Mix("mean", np.full(len(members), 1 / len(members)), 0.0)
    valid = scores.split_N == splits.VALIDATION
    calibration = fit_best_calibration(scores.listened_N[valid], mix(logits[valid]))
    blended = replace(scores, proba_N=calibration(mix(logits)))
    artifacts.write_blend(context, list(members), mix, calibration, blended, document["plays"], {})


def build_week(home):
    """Write the plays of November, and train a week on those before its Monday."""
    context = at(home)
    release_keys.add_keys(home)
    dsg17_make.run(home / "data", ROWS)
    dsg17.run(context, home / "data")
    train_and_evaluate(context)
    bundle.run(context)
    gate.run(context)
    promote.run(context)
    return context
