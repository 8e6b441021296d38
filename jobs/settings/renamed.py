"""Settings that have a new name. `load` refuses an old name and reports the new one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

PREFIX = "OVERTURE__"

# Old dotted name -> new dotted name. Below `skip.recipes` are fields of the models' recipes (models/skip/estimators).
RENAMED: dict[str, str] = {
    "segments.ranking": "segments.ranking_length",
    "segments.card_floor": "groups.min_users",
    "segments.card_min_users": "groups.min_users",
    "network.holdout": "network.holdout_share",
    "melu.embedding": "melu.embedding_dim",
    "autoencoder.as_they_were": "autoencoder.real_share",
    "mixture.as_they_were": "mixture.real_share",
    "mixture.own_share": "mixture.mixture_weight",
    "neighbours.artist": "neighbours.artist_weight",
    "neighbours.album": "neighbours.album_weight",
    "neighbours.most": "neighbours.max_neighbours",
    "blend_share": "autoencoder_weight",
    "matrix.min_together": "matrix.min_cooccurrences",
    "matrix.max_collection": "matrix.max_collection_length",
    "checks.spark_from_mb": "checks.spark_min_mb",
    "evaluation.bootstrap": "evaluation.n_bootstrap",
    "evaluation.min_slice": "evaluation.min_slice_users",
    "evaluation.leave_out_first_day": "rules.heard",
    "gate.parity": "gate.parity_tolerance",
    "gate.grey_zone": "gate.delta",
    "monitor.limit": "monitor.psi_threshold",
    "monitor.chance": "monitor.false_positive_rate",
    "mlflow.experiment": "mlflow.cold_start.weekly_experiment",
    "mlflow.daily_experiment": "mlflow.cold_start.daily_experiment",
    "mlflow.registered_model": "mlflow.cold_start.registered_model",
    "mlflow.skip_experiment": "mlflow.skip.weekly_experiment",
    "mlflow.skip_daily_experiment": "mlflow.skip.daily_experiment",
    "mlflow.skip_model": "mlflow.skip.registered_model",
    "paper.min_described": "paper.card_min_users",
    "experiment.within_hours": "experiment.attribution_hours",
    "experiment.tracking": "experiment.mlflow_experiment",
    "service.headers_s": "service.header_timeout_s",
    "service.body_s": "service.body_timeout_s",
    "service.stop_s": "service.shutdown_timeout_s",
    "service.poll_s": "service.poll_interval_s",
    "store.retry_s": "store.breaker_reset_s",
    "skip.cleaning.durations": "skip.cleaning.duration_rule",
    "skip.cleaning.longest_s": "skip.cleaning.max_duration_s",
    "skip.cleaning.rare": "skip.cleaning.rare_rule",
    "skip.cleaning.rare_below": "skip.cleaning.rare_min_count",
    "skip.cleaning.oldest_release": "skip.cleaning.min_release_date",
    "skip.features.rows_a_group": "skip.features.rows_per_group",
    "skip.split.last": "skip.split.last_plays",
    "skip.blend.least_gain": "skip.blend.min_gain",
    "skip.blend.first_share": "skip.blend.initial_share",
    "skip.tuning.unpruned": "skip.tuning.startup_trials",
    "skip.evaluation.bootstrap": "skip.evaluation.n_bootstrap",
    "skip.evaluation.least": "skip.evaluation.min_class_plays",
    "skip.evaluation.explained": "skip.evaluation.explained_model",
    "skip.leakage.most": "skip.leakage.max_plays",
    "skip.gate.grey_zone": "skip.gate.delta",
    "skip.gate.bootstrap": "skip.gate.n_bootstrap",
    "skip.gate.parity": "skip.gate.parity_tolerance",
    "skip.gate.flow_floor": "skip.gate.flow_min_auc",
    "skip.gate.calibration_error": "skip.gate.max_calibration_error",
    "skip.update.decides": "skip.update.holdout_share",
    "skip.recipes.boosted_trees.least_in_leaf": "skip.recipes.boosted_trees.min_leaf_plays",
}


def in_file(raw: Mapping[str, object]) -> list[str]:
    """One message per old name in the content of a YAML file."""
    return [_message(name) for name in _dotted(raw) if name in RENAMED]


def in_environment(environment: Mapping[str, str]) -> list[str]:
    """One message per environment variable whose name, or whose JSON value, contains an old name."""
    messages = []
    for variable, value in environment.items():
        if variable.upper().startswith(PREFIX):
            section = variable[len(PREFIX) :].lower().replace("__", ".")
            names = [section, *_dotted(_json_object(value), f"{section}.")]
            messages += [f"environment variable {variable}: {_message(name)}" for name in names if name in RENAMED]
    return messages


def _message(name: str) -> str:
    return f"{name} was renamed to {RENAMED[name]}"


def _dotted(raw: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields, outer before inner."""
    for name, value in raw.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")


def _json_object(text: str) -> dict[str, object]:
    """The JSON object in `text`, empty if the text is something else."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
