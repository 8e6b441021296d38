"""Registers releases in MLflow's model registry: one version per release, four aliases.

`challenger` is the release of the last bundle task, `champion` the one in service, `previous` the one that a rollback
returns to. For these the pointer (pointer.py) is authoritative, and the aliases follow it, for users of MLflow. The
alias `anchor` (anchor.py) and the tag `anchor_since` of its version are kept nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from jobs.release.pointer import Pointer
from jobs.tracking.store import translate_errors
from jobs.tracking.tracker import Tracker

SINCE = "anchor_since"
CHALLENGER, CHAMPION, PREVIOUS, ANCHOR = "challenger", "champion", "previous", "anchor"


def find_version(context: Context, tracker: Tracker, release: str) -> str | None:
    """Return the number of the registered version of a release, or None."""
    name = context.mlflow_names.registered_model
    with translate_errors(tracker.uri):
        versions = tracker.client.search_model_versions(f"name = '{name}' and tags.`release` = '{release}'")
    return str(max(int(version.version) for version in versions)) if versions else None


def register(run: Tracker, release: str, model_uri: str) -> str:
    """Create a version for a release.

    Args:
        run: the MLflow run of the bundle task.
        release: name of the release.
        model_uri: URI of the logged model.

    Returns:
        The number of the version.
    """
    from mlflow.exceptions import MlflowException

    name, client = run.context.mlflow_names.registered_model, run.client
    tags = {"release": release, "week": run.context.week.name, "commit": run.context.commit}
    with translate_errors(run.uri):
        try:
            client.create_registered_model(name, description=f"{run.context.engine}: one version per release")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(name, model_uri, run_id=run.run_id, tags=tags)
    return str(version.version)


def set_alias(context: Context, tracker: Tracker, alias: str, version: str) -> None:
    """Point an alias at a version."""
    with translate_errors(tracker.uri):
        tracker.client.set_registered_model_alias(context.mlflow_names.registered_model, alias, version)


def drop_alias(context: Context, tracker: Tracker, alias: str) -> None:
    """Delete an alias."""
    with translate_errors(tracker.uri):
        tracker.client.delete_registered_model_alias(context.mlflow_names.registered_model, alias)


def read_aliases(context: Context, tracker: Tracker) -> dict[str, str]:
    """Return the release of each alias; empty before the first registration."""
    name, client = context.mlflow_names.registered_model, tracker.client
    with translate_errors(tracker.uri):
        models = client.search_registered_models(f"name = '{name}'")
        versions = dict(models[0].aliases) if models else {}
        return {
            alias: client.get_model_version(name, str(version)).tags.get("release", "?")
            for alias, version in versions.items()
        }


def align_aliases(context: Context, champion: str, previous: str | None, tracker: Tracker | None = None) -> int:
    """Set the aliases `previous` and `champion`, in this order.

    Args:
        context: engine and settings.
        champion: release of the alias `champion`.
        previous: release of the alias `previous`; None: the alias is deleted.
        tracker: the current run; None: connect to MLflow.

    Returns:
        The number of aliases that were changed.

    Raises:
        CheckFailed: the champion has no registered version.
        OvertureError: MLflow is unavailable.
    """
    tracker = tracker or Tracker.connect(context)
    current, n_moved = read_aliases(context, tracker), 0
    for alias, release in ((PREVIOUS, previous), (CHAMPION, champion)):
        if current.get(alias) == release:
            continue
        version = find_version(context, tracker, release) if release else None
        if version:
            set_alias(context, tracker, alias, version)
        elif alias == CHAMPION:
            raise CheckFailed(
                f"release {champion[:12]} has no version of '{context.mlflow_names.registered_model}' in MLflow; "
                "run `overture release bundle` for its week first"
            )
        elif alias in current:
            drop_alias(context, tracker, alias)
        else:
            continue
        n_moved += 1
    return n_moved


def aliases_match(pointer: Pointer | None, aliases: dict[str, str]) -> bool:
    """Return whether the aliases name the same champion and previous release as the pointer."""
    champion, previous = (pointer.release, pointer.previous) if pointer else (None, None)
    return aliases.get(CHAMPION) == champion and aliases.get(PREVIOUS) == previous


@dataclass(frozen=True)
class Anchor:
    """The anchor.

    Attributes:
        release: its digest.
        since: name of the champion's week when it was set or confirmed.
    """

    release: str
    since: str


def read_anchor(context: Context, tracker: Tracker) -> Anchor | None:
    """Return the anchor, or None where there is none. Without the tag it counts from the week of the release.

    Raises:
        OvertureError: MLflow is unavailable.
    """
    name, client = context.mlflow_names.registered_model, tracker.client
    with translate_errors(tracker.uri):
        models = client.search_registered_models(f"name = '{name}'")
        number = models[0].aliases.get(ANCHOR) if models else None
        tags = client.get_model_version(name, str(number)).tags if number is not None else None
    return Anchor(str(tags["release"]), str(tags.get(SINCE, tags["week"]))) if tags else None


def set_anchor(context: Context, tracker: Tracker, release: str, since: str) -> Anchor:
    """Make a release the anchor.

    Args:
        context: engine and settings.
        tracker: connection to MLflow.
        release: digest of a registered release.
        since: the week of the champion.

    Raises:
        CheckFailed: the release has no registered version.
    """
    version = find_version(context, tracker, release)
    if version is None:
        raise CheckFailed(
            f"anchor: release {release[:12]} has no version of '{context.mlflow_names.registered_model}' in MLflow; "
            "run `overture release bundle` for its week first"
        )
    with translate_errors(tracker.uri):
        tracker.client.set_model_version_tag(context.mlflow_names.registered_model, version, SINCE, since)
    set_alias(context, tracker, ANCHOR, version)
    return Anchor(release, since)
