"""A browser without a window, driven through a pipe: Chromium's own protocol, one JSON message at a time."""

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
# What a person would tell of a page that does not do what was waited for.
SEEN = """(() => {
    const says = (it) => it?.textContent ?? null, focus = document.activeElement;
    return {
        address: location.href, stands: document.readyState, said: says(document.getElementById('said')),
        trouble: document.getElementById('trouble')?.hidden === false ? says(document.getElementById('trouble')) : null,
        tracks: [...document.querySelectorAll('#tracks b')].map(says),
        day: [...document.querySelectorAll('#done li')].map(says),
        fields: [...document.querySelectorAll('#country, #age, #find, #method')].map(it => it.value),
        focus: focus?.outerHTML.slice(0, 200),
    };
})()"""


def chromium() -> str | None:
    """The program, where there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page of one browser.

    `asked` holds every address that it wanted, `unanswered` those that wait for an answer (by the request's id),
    `complaints` what its console said, and requests that failed, `held` how many requests `hold` has kept back.
    """

    def __init__(self, program: str, folder: Path) -> None:
        there, out = os.pipe()
        inside, back = os.pipe()
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run")
        # The protocol wants to be spoken on 3 and 4.
        shell = f'exec "$@" 3<&{there} 4>&{back}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *flags, f"--user-data-dir={folder}", "--window-size=1400,1250"],
            pass_fds=(there, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (there, back):
            os.close(end)
        self.sink, self.source, self.buffer, self.n = os.fdopen(out, "wb"), inside, b"", 0
        self.session: str | None = None
        self.asked: list[str] = []
        self.unanswered: dict[str, str] = {}
        self.complaints: list[str] = []
        self.held = 0
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Runtime", "Log"):
            self.tell(f"{domain}.enable")

    def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give one order and wait for its answer."""
        self.n += 1
        message = {"id": self.n, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.sink.write(json.dumps(message).encode() + b"\0")
        self.sink.flush()
        while True:
            said = self._next()
            if said.get("id") == self.n:
                assert "error" not in said, said
                return said["result"]
            self._note(said.get("method"), said.get("params", {}))

    def _note(self, event: str | None, facts: dict[str, Any]) -> None:
        """Keep what the page does beside the orders it is given."""
        if event == "Network.requestWillBeSent":
            self.asked.append(facts["request"]["url"])
            self.unanswered[facts["requestId"]] = facts["request"]["url"]
        elif event == "Network.loadingFinished":
            self.unanswered.pop(facts["requestId"], None)
        elif event == "Network.loadingFailed":
            self.complaints.append(f"{self.unanswered.pop(facts['requestId'], 'a request')}: {facts['errorText']}")
        elif event == "Fetch.requestPaused":
            self.held += 1
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(facts["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(f"{facts['type']}: {[one.get('value') for one in facts['args']]}")
        elif event == "Log.entryAdded":
            self.complaints.append(f"{facts['entry']['level']}: {facts['entry']['text']}")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            piece = os.read(self.source, 65_536)
            assert piece, "the browser has ended"
            self.buffer += piece
        one, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(one)

    def run(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, address: str) -> None:
        """Go there and wait until the page stands."""
        self.tell("Page.navigate", url=address)
        self.wait("document.readyState + ' ' + location.href", f"complete {address}")

    def wait(self, expression: str, wanted: Any = True) -> None:
        """Ask the page until it says the wanted."""
        end = time.monotonic() + 60
        while (seen := self.run(expression)) != wanted:
            assert time.monotonic() < end, f"{expression} is {seen}, not {wanted}. {self.seen()}"
            time.sleep(0.03)

    def seen(self) -> str:
        """What the page shows, what its console said, what it still waits for."""
        facts = {"page": self.run(SEEN), "unanswered": list(self.unanswered.values()), "complaints": self.complaints}
        return json.dumps(facts, indent=1, ensure_ascii=False)

    def hold(self, path: str) -> None:
        """Keep back what the page asks of this path from now on, as a slow line would."""
        self.held = 0
        self.tell("Fetch.enable", patterns=[{"urlPattern": f"*{path}"}])

    def wait_for_held(self, wanted: int) -> None:
        """Wait until so many requests were kept back since `hold`."""
        end = time.monotonic() + 60
        while self.held < wanted:
            self.run("0")  # reads what the page has told meanwhile
            assert time.monotonic() < end, f"{self.held} requests were kept back, not {wanted}. {self.seen()}"

    def let_go(self) -> None:
        """Send what was kept back, and keep back no more."""
        self.tell("Fetch.disable")

    def press(self, key: str) -> None:
        """One key, as a person presses it."""
        code = KEYS[key] if key in KEYS else ord(key.upper())
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        common = {"key": key, "windowsVirtualKeyCode": code}
        self.tell("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.tell("Input.dispatchKeyEvent", type="keyUp", **common)

    def tab_to(self, condition: str) -> None:
        """Press Tab until the element in focus (`it`) fits."""
        for _ in range(200):
            self.press("Tab")
            if self.run(f"(it => {condition})(document.activeElement)"):
                return
        raise AssertionError(f"Tab never reaches {condition}. {self.seen()}")

    def picture(self, file: Path) -> None:
        """A screenshot."""
        file.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self.sink.close()
        self.process.terminate()
        self.process.wait()
        os.close(self.source)
