"""Opens the destination of releases, and reads the champion and its files from there."""

from __future__ import annotations

from pathlib import Path

from jobs.platform.context import Context
from jobs.release import pointer
from jobs.release.destination_folder import Destination, FolderDestination
from jobs.release.destination_s3 import S3Destination
from jobs.release.pointer import Pointer


def open_destination(context: Context) -> Destination:
    """Return the destination of a context's engine."""
    root = context.settings.release.destination
    if not root.startswith("s3://"):
        base = Path(root).absolute() if root else context.home
        return FolderDestination(base / context.release_home.relative_to(context.home), context)
    return S3Destination(root, context)


def all_places(context: Context) -> list[Destination]:
    """Return the destination, and the folder of the releases that this machine builds where it is another one."""
    home = FolderDestination(context.release_home, context)
    return [open_destination(context), home] if context.settings.release.destination else [home]


def read_champion(context: Context) -> Pointer | None:
    """Return the pointer of the engine's champion, or None before the first promotion.

    Raises:
        CheckFailed: it is damaged.
        OvertureError: the destination is unavailable.
    """
    return open_destination(context).read_pointer()


def release_folder(context: Context, release: str) -> Path:
    """Return the folder of a promoted release: the one that this machine built, else it is fetched.

    Raises:
        CheckFailed: the destination has none, it is damaged, or its signature is wrong.
    """
    folder = pointer.releases(context.release_home) / release
    return (
        folder
        if folder.is_dir() or not context.settings.release.destination
        else open_destination(context).fetch(release)
    )
