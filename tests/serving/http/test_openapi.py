"""The OpenAPI document, and a typed client generated from it.

The generator runs in an environment of its own, which uv creates from the package index.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.serving.http.test_problems import send

UV = Path(sys.prefix).parent / "tools" / "bin" / "uv"
CLIENT = ("openapi-python-client==0.26.2",)


def tool(packages: tuple[str, ...], *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the first package in an environment with all of them; skip the test if uv cannot create it."""
    if not UV.exists():
        pytest.skip(f"{UV} is missing: run `make setup`")
    run = [str(UV), "tool", "run", "--from", packages[0], *(part for one in packages[1:] for part in ("--with", one))]
    created = subprocess.run(
        [*run, "python", "-c", ""], cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )
    if created.returncode:
        pytest.skip(f"{packages[0]} cannot be installed: {created.stderr[-300:]}")
    return subprocess.run([*run, *command], cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def document(live, tmp_path) -> Path:
    """The OpenAPI document of the running service, as a file."""
    path = tmp_path / "openapi.json"
    path.write_bytes(send(live, "GET", "/openapi.json")[2])
    return path


def test_every_operation_describes_its_errors_as_problems(document):
    api = json.loads(document.read_text())
    operations = [(path, one) for path, methods in api["paths"].items() for one in methods.values()]
    assert len({operation["operationId"] for _, operation in operations}) == len(operations)
    for path, operation in operations:
        assert operation["responses"]["200"]["content"], path
        for status, response in operation["responses"].items():
            if int(status) >= 400 and (path, status) != ("/readyz", "503"):
                assert list(response["content"]) == ["application/problem+json"], (path, status)


USE = """
    import sys
    from client import Client
    from client.api.lists import lists_batch, lists_recommendations
    from client.api.vectors import vectors_entity, vectors_release
    from client.models import BatchRequest, Listener, Problem, RecommendationRequest, TrackSignals

    api = Client(base_url=sys.argv[1])
    release = vectors_release.sync(client=api)
    listener = Listener(country="FR", streams=TrackSignals(tracks=["1"], artists=None))
    answer = lists_recommendations.sync(client=api, body=RecommendationRequest(listener=listener, k=3))
    assert answer.release == release.release and len(answer.tracks) == 3, answer
    batch = lists_batch.sync(client=api, body=BatchRequest(listeners=[listener, Listener()], k=2))
    assert [len(one.tracks) for one in batch.answers] == [2, 2]
    refused = lists_recommendations.sync(client=api, body=RecommendationRequest(listener=Listener(age=1)))
    assert isinstance(refused, Problem) and refused.code == "invalid_request", refused
    assert refused.details[0].field == "body.listener.age", refused
    missing = vectors_entity.sync("tracks", "none", client=api)
    assert isinstance(missing, Problem) and missing.code == "unknown_entity", missing
"""


@pytest.mark.slow
def test_a_typed_client_generated_from_the_document_works(live, document, tmp_path):
    command = ["openapi-python-client", "generate", "--path", str(document), "--meta", "none", "--fail-on-warning"]
    generated = tool(CLIENT, *command, "--output-path", str(tmp_path / "client"), cwd=tmp_path)
    assert generated.returncode == 0, generated.stdout + generated.stderr
    (tmp_path / "use.py").write_text(textwrap.dedent(USE))
    used = tool(CLIENT, "python", "use.py", f"http://127.0.0.1:{live.port}", cwd=tmp_path)
    assert used.returncode == 0, used.stdout + used.stderr
