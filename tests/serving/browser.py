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


def chromium() -> str | None:
    """The program, where there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page of one browser; `asked` holds every address that it wanted."""

    def __init__(self, program: str, folder: Path) -> None:
        there, out = os.pipe()
        inside, back = os.pipe()
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run")
        # The protocol wants to be spoken on 3 and 4.
        shell = f'exec "$@" 3<&{there} 4>&{back}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *flags, f"--user-data-dir={folder}", "--window-size=1400,1250"],
            pass_fds=(there, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (there, back):
            os.close(end)
        self.sink, self.source, self.buffer, self.n = os.fdopen(out, "wb"), inside, b"", 0
        self.session: str | None = None
        self.asked: list[str] = []
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.tell("Network.enable")

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
            if said.get("method") == "Network.requestWillBeSent":
                self.asked.append(said["params"]["request"]["url"])
            if said.get("id") == self.n:
                assert "error" not in said, said
                return said["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            piece = os.read(self.source, 65_536)
            assert piece, "the browser has ended"
            self.buffer += piece
        one, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(one)

    def run(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
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
            assert time.monotonic() < end, f"{expression} is {seen}, not {wanted}"
            time.sleep(0.03)

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
        raise AssertionError(f"Tab never reaches {condition}")

    def picture(self, file: Path) -> None:
        """A screenshot."""
        file.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self.sink.close()
        self.process.terminate()
        self.process.wait()
        os.close(self.source)
