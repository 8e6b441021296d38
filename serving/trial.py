"""Lists of the running experiment, or the release's own, and the exposure log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.experiment.assignment import Running
from serving.experiment.exposure_log import ExposureLog
from serving.http.middleware import LOG
from serving.recommend import recommender
from serving.release.loaded import Ready
from serving.schema import Listener, ListOptions
from serving.settings import ServiceSettings


class Trial:
    """The experiment of a service, if one runs."""

    def __init__(self, settings: ServiceSettings, home: Path) -> None:
        """Open the registered experiment that the settings name.

        Raises:
            BadArgument: the experiment is not registered.
            CheckFailed: its plan was changed after its registration.
        """
        name = settings.experiment
        self.running = Running.of(home, name, settings.exposure_signals) if name else None
        self.log = ExposureLog(home / settings.exposure_log) if settings.exposure_log else None

    def recommend(
        self, ready: Ready, listeners: Sequence[Listener], asked: ListOptions, explain: bool = False
    ) -> list[dict[str, Any]]:
        """Return response bodies; listeners in the experiment get their arm's list, which is logged."""
        if self.running is None:
            return recommender.recommend(ready, listeners, asked, explain)
        shown = self.running.recommend(ready, listeners, asked, datetime.now(UTC), explain)
        if self.log is not None:
            try:
                self.log.write(shown.lines)
            except OSError as error:  # the listener gets the list; the analysis of the log detects missing displays
                facts = {"lines": len(shown.lines), "why": f"{type(error).__name__}: {error.strerror}"}
                LOG.log(logging.ERROR, "exposures were not written", extra={"facts": facts})
        return shown.answers
