"""What the generators of made-up files share: a new folder, and a simulated service to take the content from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from contracts.errors import BadArgument
from jobs.ingest.simulate import adapter as simulate
from jobs.platform.context import Context
from jobs.platform.lake import Lake
from jobs.platform.week import Week
from jobs.settings.settings import Settings


def new_folder(out: Path) -> None:
    """Create the folder of a generator.

    Raises:
        BadArgument: The folder contains files.
    """
    if out.exists() and any(out.iterdir()):
        raise BadArgument(f"--out: {out} is not empty; choose a new folder")
    out.mkdir(parents=True, exist_ok=True)


@contextmanager
def simulated_lake(out: Path, sizes: dict[str, Any]) -> Iterator[Lake]:
    """Run the source `simulate` into a temporary lake, which is removed at the end.

    Args:
        out: Folder for the temporary lake.
        sizes: Fields of section `simulate` of the settings.
    """
    with TemporaryDirectory(dir=out) as folder:
        settings = Settings.model_validate({"name": "made_up", "week": "2026-11-16", "simulate": sizes})
        context = Context(settings, Week.parse(settings.week), Path(folder))
        simulate.run(context, None)
        yield context.lake
