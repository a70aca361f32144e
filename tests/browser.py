"""Headless Chromium, spoken to through a pipe in its DevTools protocol: no driver, no port, no package."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

VARIABLE = "SCALE_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT_SECONDS = 60.0
AS_3_AND_4 = """
import os, sys
read, write = (os.dup(int(word)) for word in sys.argv[1:3])
high = [os.dup(read), os.dup(write)]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Runs a command whose descriptors 3 and 4 are those given, which is where the browser looks for its pipe."""


def find_chromium() -> str:
    """The browser's program: what SCALE_CHROMIUM names, or else the first on the path."""
    named = os.environ.get(VARIABLE)
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    assert found is not None, (
        f"no browser to open the report in: {VARIABLE}={named} is no program"
        if named
        else f"no browser to open the report in: install chromium, or name one with {VARIABLE}=/path/to/chromium"
    )
    return found


class Page:
    """A tab. messages: what the console said and what was thrown. requests: the addresses that it asked for."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._events: list[str] = []

    def attach(self) -> None:
        """Open the tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def open(self, file: Path, *, dark: bool, width: int = 1400, height: int = 1000) -> None:
        """Load a file of this machine, as a system in dark or light shows it."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._events.clear()
        self.call("Page.navigate", url=file.resolve().as_uri())
        self._until(lambda: "Page.loadEventFired" in self._events)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        ended = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in ended, ended["exceptionDetails"]
        return ended["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The protocol's answer to a call; events before it are noted."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []

        def answered() -> bool:
            return bool(answers)

        self._until(answered, lambda got: answers.append(got) if got.get("id") == self._number else None)
        assert "error" not in answers[0], f"{method}: {answers[0]['error']}"
        return answers[0]["result"]

    def _until(self, done: Callable[[], bool], look: Callable[[dict[str, Any]], None] = lambda message: None) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not done():
            message = self._next(deadline)
            self._note(message)
            look(message)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the browser said nothing for {TIMEOUT_SECONDS:.0f} s"
            got = os.read(self._read, 1 << 20)
            assert got, "the browser has ended"
            self._buffer += got
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method", ""), message.get("params", {})
        self._events.append(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(parameters))


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A tab of a browser of its own, whose profile lies in an empty folder."""
    to_browser, from_us = os.pipe()
    from_browser, to_us = os.pipe()
    command = [
        find_chromium(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", AS_3_AND_4, str(to_browser), str(to_us), *command],
        pass_fds=(to_browser, to_us),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(to_us)
    try:
        page = Page(from_us, from_browser)
        page.attach()
        yield page
    finally:
        process.terminate()
        process.wait(timeout=TIMEOUT_SECONDS)
        os.close(from_us)
        os.close(from_browser)
