"""A headless Chromium, driven over `--remote-debugging-pipe`: JSON messages of the DevTools protocol, ended by NUL.

Nothing sleeps: each call waits for its reply, `wait_for` for an event; both fail after `TIMEOUT` seconds.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT = 30.0
COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Page.javascriptDialogOpening")
FLAGS = (
    "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--no-default-browser-check", "--disable-extensions", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--mute-audio",
)  # fmt: skip
# The pipe must be descriptors 3 and 4, which this process uses for other things: an intermediate process moves them.
AS_3_AND_4 = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD_CLOEXEC, 10) for end in sys.argv[1:3]]
for descriptor, end in zip((3, 4), ends, strict=True):
    os.dup2(end, descriptor)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def installed() -> str | None:
    """The path of a browser."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab. `events` holds the messages since it was opened, or since `events.clear()`."""

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from = to_browser, from_browser
        self._unread = b""
        self._last_id = 0
        self._session: str | None = None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method: str, **params) -> dict:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        left = json.dumps(message).encode() + b"\0"
        while left:
            left = left[os.write(self._to, left) :]
        deadline = time.monotonic() + TIMEOUT
        while (reply := self._next(deadline, method)).get("id") != self._last_id:
            self.events.append(reply)
        assert "error" not in reply, f"{method}: {reply}"
        return reply["result"]

    def wait_for(self, method: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not any(event["method"] == method for event in self.events):
            self.events.append(self._next(deadline, method))

    def open(self, url: str) -> None:
        """Opens a blank page first, so that a change of the fragment alone loads the page again."""
        for address in ("about:blank", url):
            self.events.clear()
            self.call("Page.navigate", url=address)
            self.wait_for("Page.loadEventFired")

    def run(self, expression: str):
        """The value of a JavaScript expression; of a promise once it is resolved."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def move_mouse(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def requests(self) -> list[str]:
        found = [event["params"]["request"]["url"] for event in self._of("Network.requestWillBeSent")]
        return [url for url in found if not url.startswith("data:")]

    def complaints(self) -> list[dict]:
        """Exceptions, lines on the console and in the log, and dialogs."""
        return [event for method in COMPLAINTS for event in self._of(method)]

    def _of(self, method: str) -> list[dict]:
        return [event for event in self.events if event["method"] == method]

    def _next(self, deadline: float, awaited: str) -> dict:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium did not answer {awaited} within {TIMEOUT:.0f} s"
            read = os.read(self._from, 1 << 20)
            assert read, f"Chromium ended before {awaited}"
            self._unread += read
        message, self._unread = self._unread.split(b"\0", 1)
        return json.loads(message)


@contextlib.contextmanager
def running(program: str, profile: Path) -> Iterator[Callable[[], Page]]:
    """Starts Chromium with its files in `profile`, yields its page, and ends it with all of its processes."""
    their_end, to_browser = os.pipe()
    from_browser, their_other_end = os.pipe()
    of_this = (f"--user-data-dir={profile}", "--window-size=1400,900", "about:blank")
    with contextlib.ExitStack() as stack:
        for descriptor in (to_browser, from_browser):
            stack.callback(os.close, descriptor)
        process = subprocess.Popen(
            [sys.executable, "-ISc", AS_3_AND_4, str(their_end), str(their_other_end), program, *FLAGS, *of_this],
            pass_fds=(their_end, their_other_end),
            env={**os.environ, "HOME": str(profile)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        stack.callback(_end, process)
        os.close(their_end)
        os.close(their_other_end)
        yield Page(to_browser, from_browser)


def _end(process: subprocess.Popen) -> None:
    # The process group holds this browser alone; it is gone if Chromium ended by itself.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(TIMEOUT)
