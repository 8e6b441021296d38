"""Start the service (`overture serve`): in this process with one worker, else in one process per worker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import uvicorn
from pydantic import SecretStr
from uvicorn.supervisors import Multiprocess

from serving.app import make_app
from serving.experiment import assignment
from serving.http.middleware import ServiceMiddleware, log_to_stderr
from serving.release.folders import open_folders
from serving.release.signature import PublicKeys
from serving.settings import ProfileSettings, ServiceSettings, StoreSettings

SETTINGS, STORE, HOME = "OVERTURE_SERVICE_SETTINGS", "OVERTURE_SERVICE_STORE", "OVERTURE_HOME"
PROFILE = "OVERTURE_SERVICE_PROFILE"

# uvloop accepts one connection of a socket in each turn of the event loop. With duplicates of the socket it accepts as
# many as there are; otherwise new connections, such as /healthz, wait for seconds when many arrive under a high load.
ACCEPTED_AT_ONCE = 16


def worker() -> ServiceMiddleware:
    """Return the application of a worker process, which reads its settings from the environment that the parent set."""
    log_to_stderr()
    store = StoreSettings.model_validate_json(os.environ[STORE])
    profile = ProfileSettings.model_validate_json(os.environ[PROFILE])
    return make_app(ServiceSettings.model_validate_json(os.environ[SETTINGS]), Path(os.environ[HOME]), store, profile)


def with_secrets(settings: ServiceSettings | StoreSettings) -> str:
    """Return settings as JSON for a worker's environment, with readable secrets."""
    secrets = {name: value.get_secret_value() for name, value in settings if isinstance(value, SecretStr)}
    return json.dumps(settings.model_dump(mode="json") | secrets)


def serve(
    settings: ServiceSettings,
    home: Path,
    store: StoreSettings,
    profile: ProfileSettings = ProfileSettings(),  # noqa: B008 - frozen
) -> None:
    """Serve until SIGTERM or SIGINT; running requests are completed first.

    Args:
        settings: the section `service`.
        home: OVERTURE_HOME.
        store: the section `store`.
        profile: the section `profile`.

    Raises:
        BadArgument: the settings name an experiment that is not registered, or a wrong source of releases.
        CheckFailed: the plan of the experiment was changed after its registration, or there is no public key.
    """
    if settings.experiment:  # checked before workers start, which would fail repeatedly
        assignment.read_plan(home, settings.experiment)
    PublicKeys.of(settings.release_key, home).files()
    open_folders(settings, home)
    log_to_stderr()
    os.environ |= {SETTINGS: with_secrets(settings), STORE: with_secrets(store), HOME: str(home)}
    os.environ[PROFILE] = profile.model_dump_json()
    # uvicorn shuts down in order and then raises the signal again: exit with 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack:
        if settings.workers > 1:
            numbers = stack.enter_context(tempfile.TemporaryDirectory(prefix="overture-metrics-"))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = numbers
        config = uvicorn.Config(
            "serving.main:worker",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http="serving.http.header_timeout:HeaderTimeoutProtocol",
            timeout_keep_alive=settings.keep_alive_timeout_s,
            timeout_graceful_shutdown=settings.shutdown_timeout_s,
        )
        server = uvicorn.Server(config)
        listening = config.bind_socket()
        sockets = [listening, *(listening.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]
        if settings.workers > 1:
            Multiprocess(config, sockets).run()
        else:
            server.run(sockets)
            if not server.started:
                sys.exit(1)
