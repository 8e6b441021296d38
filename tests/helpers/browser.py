"""A headless browser, controlled through a pipe with the Chrome DevTools Protocol, one JSON message at a time."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

KEYS = {"Tab": 9, "Enter": 13, " ": 32}
# State of the page, for the error message of a wait that ended without success.
PAGE_STATE = """(() => {
    const text = (it) => it?.textContent ?? null, focus = document.activeElement;
    return {
        address: location.href, state: document.readyState, message: text(document.getElementById('announcement')),
        error: document.getElementById('error')?.hidden === false ? text(document.getElementById('error')) : null,
        tracks: [...document.querySelectorAll('#tracks b')].map(text),
        day: [...document.querySelectorAll('#day li')].map(text),
        fields: [...document.querySelectorAll('#country, #age, #artist-search, #method')].map(it => it.value),
        focus: focus?.outerHTML.slice(0, 200),
    };
})()"""


def chromium() -> str | None:
    """Return the path of the browser, or None if none is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page of one browser.

    Attributes:
        requested: every address that the page has requested.
        pending: requests without a response yet, by id.
        errors: console messages and failed requests.
        n_delayed: number of requests that are paused since `delay`.
    """

    def __init__(self, program: str, folder: Path) -> None:
        child_in, out = os.pipe()
        source, child_out = os.pipe()
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run")
        # Chromium reads the protocol from file descriptor 3 and writes to 4.
        shell = f'exec "$@" 3<&{child_in} 4>&{child_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *flags, f"--user-data-dir={folder}", "--window-size=1400,1250"],
            pass_fds=(child_in, child_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (child_in, child_out):
            os.close(end)
        self.sink, self.source, self.buffer, self.n = os.fdopen(out, "wb"), source, b"", 0
        self.session: str | None = None
        self.requested: list[str] = []
        self.pending: dict[str, str] = {}
        self.errors: list[str] = []
        self.n_delayed = 0
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self.n += 1
        message = {"id": self.n, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.sink.write(json.dumps(message).encode() + b"\0")
        self.sink.flush()
        while True:
            reply = self._next()
            if reply.get("id") == self.n:
                assert "error" not in reply, reply
                return reply["result"]
            self._record_event(reply.get("method"), reply.get("params", {}))

    def _record_event(self, event: str | None, facts: dict[str, Any]) -> None:
        """Record an event of the page: a request, a failure or a console message."""
        if event == "Network.requestWillBeSent":
            self.requested.append(facts["request"]["url"])
            self.pending[facts["requestId"]] = facts["request"]["url"]
        elif event == "Network.loadingFinished":
            self.pending.pop(facts["requestId"], None)
        elif event == "Network.loadingFailed":
            self.errors.append(f"{self.pending.pop(facts['requestId'], 'a request')}: {facts['errorText']}")
        elif event == "Fetch.requestPaused":
            self.n_delayed += 1
        elif event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(facts["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            self.errors.append(f"{facts['type']}: {[argument.get('value') for argument in facts['args']]}")
        elif event == "Log.entryAdded":
            self.errors.append(f"{facts['entry']['level']}: {facts['entry']['text']}")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            piece = os.read(self.source, 65_536)
            assert piece, "the browser has ended"
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        reply = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def open(self, address: str) -> None:
        """Open an address and wait until the page is loaded."""
        self.send("Page.navigate", url=address)
        self.wait("document.readyState + ' ' + location.href", f"complete {address}")

    def wait(self, expression: str, wanted: Any = True) -> None:
        """Evaluate the expression until it equals `wanted`; fail after 60 seconds."""
        end = time.monotonic() + 60
        while (value := self.run(expression)) != wanted:
            assert time.monotonic() < end, f"{expression} is {value}, not {wanted}. {self.describe()}"
            time.sleep(0.03)

    def describe(self) -> str:
        """Return the state of the page, its errors and its pending requests as JSON."""
        facts = {"page": self.run(PAGE_STATE), "pending": list(self.pending.values()), "errors": self.errors}
        return json.dumps(facts, indent=1, ensure_ascii=False)

    def delay(self, path: str) -> None:
        """Pause all later requests to this path, as on a slow connection."""
        self.n_delayed = 0
        self.send("Fetch.enable", patterns=[{"urlPattern": f"*{path}"}])

    def wait_for_delayed(self, wanted: int) -> None:
        """Wait until this number of requests is paused."""
        end = time.monotonic() + 60
        while self.n_delayed < wanted:
            self.run("0")  # reads the events that have arrived meanwhile
            assert time.monotonic() < end, f"{self.n_delayed} requests are paused, not {wanted}. {self.describe()}"

    def resume(self) -> None:
        """Send the paused requests and stop pausing."""
        self.send("Fetch.disable")

    def press(self, key: str) -> None:
        """Press and release one key."""
        code = KEYS[key] if key in KEYS else ord(key.upper())
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        common = {"key": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def tab_to(self, condition: str) -> None:
        """Press Tab until the focused element (`it`) matches the condition."""
        for _ in range(200):
            self.press("Tab")
            if self.run(f"(it => {condition})(document.activeElement)"):
                return
        raise AssertionError(f"Tab never reaches {condition}. {self.describe()}")

    def picture(self, file: Path) -> None:
        """Write a screenshot to a file."""
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self.sink.close()
        self.process.terminate()
        self.process.wait()
        os.close(self.source)
