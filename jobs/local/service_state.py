"""What a running server reports about itself."""

from __future__ import annotations

import json
import urllib.error
import urllib.request


def responds(url: str) -> bool:
    """Return whether a server responds at the address, with any status."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def describe_service(port: int) -> str:
    """Return a sentence about the releases that the service uses, or about why it is not ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            answer = json.load(error)
    except OSError as error:
        return f"the service does not respond: {error}"
    if not answer["ready"]:
        return f"the service responds with 503: {answer['problem']}; skip engine: {answer['skip']['problem']}"
    skip = answer["skip"]
    skips = f"skip prediction from release {skip['release'][:12]} of {skip['week']}" if skip["ready"] else ""
    if "cold_start" not in answer["engines"]:
        return f"the service has {skips}; no recommendations: {answer['problem']}"
    store = answer["store"]["problem"] or ", ".join(
        f"{part} {users}" for part, users in answer["store"]["parts"].items()
    )
    return f"the service uses release {answer['release'][:12]} of {answer['week']}; known listeners: {store}" + (
        f"; {skips}" if skips else ""
    )
