"""MLflow's model registry: one version a release, three aliases.

`challenger` is what the last bundle made, `champion` what serves, `previous` what a rollback returns to. The pointer
(pointer.py) decides; the aliases follow it, for people and for those who load models from MLflow.
"""

from __future__ import annotations

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from jobs.release.pointer import Pointer
from jobs.tracking.store import translate_errors
from jobs.tracking.tracker import Tracker

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"


def version_of(context: Context, tracker: Tracker, release: str) -> str | None:
    """The registered version that is this release, or None."""
    name = context.mlflow_names.registered_model
    with translate_errors(tracker.uri):
        found = tracker.client.search_model_versions(f"name = '{name}' and tags.`release` = '{release}'")
    return str(max(int(version.version) for version in found)) if found else None


def register(run: Tracker, release: str, model_uri: str) -> str:
    """Make a version of the release; returns its number."""
    from mlflow.exceptions import MlflowException

    name, client = run.context.mlflow_names.registered_model, run.client
    tags = {"release": release, "week": run.context.week.name, "commit": run.context.commit}
    with translate_errors(run.uri):
        try:
            client.create_registered_model(name, description=f"{run.context.engine}: one version a release")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = client.create_model_version(name, model_uri, run_id=run.run_id, tags=tags)
    return str(made.version)


def set_alias(context: Context, tracker: Tracker, alias: str, version: str) -> None:
    """Let an alias point at a version; one write."""
    with translate_errors(tracker.uri):
        tracker.client.set_registered_model_alias(context.mlflow_names.registered_model, alias, version)


def drop_alias(context: Context, tracker: Tracker, alias: str) -> None:
    """Take an alias away; one write."""
    with translate_errors(tracker.uri):
        tracker.client.delete_registered_model_alias(context.mlflow_names.registered_model, alias)


def aliases(context: Context, tracker: Tracker) -> dict[str, str]:
    """Alias -> release; empty before the first registration."""
    name, client = context.mlflow_names.registered_model, tracker.client
    with translate_errors(tracker.uri):
        found = client.search_registered_models(f"name = '{name}'")
        held = dict(found[0].aliases) if found else {}
        return {
            alias: client.get_model_version(name, str(version)).tags.get("release", "?")
            for alias, version in held.items()
        }


def follow(context: Context, champion: str, previous: str | None, tracker: Tracker | None = None) -> int:
    """Bring `previous` and `champion` in line with these releases, in this order; returns how many were moved.

    Raises:
        CheckFailed: the champion is in no registry; its bundle was never registered here.
        OvertureError: MLflow is away.
    """
    tracker = tracker or Tracker.connect(context)
    now, moved = aliases(context, tracker), 0
    for alias, release in ((PREVIOUS, previous), (CHAMPION, champion)):
        if now.get(alias) == release:
            continue
        version = version_of(context, tracker, release) if release else None
        if version:
            set_alias(context, tracker, alias, version)
        elif alias == CHAMPION:
            raise CheckFailed(
                f"release {champion[:12]} has no version of '{context.mlflow_names.registered_model}' in MLflow; "
                "run `overture release bundle` for its week first"
            )
        elif alias in now:
            drop_alias(context, tracker, alias)
        else:
            continue
        moved += 1
    return moved


def agree(pointer: Pointer | None, held: dict[str, str]) -> bool:
    """Whether the aliases say what the pointer says."""
    champion, previous = (pointer.release, pointer.previous) if pointer else (None, None)
    return held.get(CHAMPION) == champion and held.get(PREVIOUS) == previous
