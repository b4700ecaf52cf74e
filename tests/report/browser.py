"""A headless Chromium, driven through its chromedriver by the W3C protocol: no library needed."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

BINARIES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
PATIENCE_SECONDS = 30


def find_browser():
    """(chromedriver, browser), or None where either is missing."""
    driver = shutil.which("chromedriver")
    browser = next(filter(None, map(shutil.which, BINARIES)), None)
    return (driver, browser) if driver and browser else None


class Browser:
    """One window; a context manager, which ends the processes that it started."""

    def __init__(self, driver, browser):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        options = {"binary": browser, "args": list(ARGUMENTS)}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        try:
            self._wait()
            session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self._end()
            raise
        self.session = f"/session/{session['sessionId']}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._call("DELETE", self.session)
        finally:
            self._end()

    def show(self, path, *, width=1280, dark=False):
        """Opens a file in a window of that width, in the light or in the dark."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self._post("/url", url=path.as_uri())

    def run(self, script, *arguments):
        """What a script in the page returns."""
        return self._post("/execute/sync", script=script, args=list(arguments))

    def wait_for(self, promise):
        """What a promise, given as an expression, comes to; a failure of it is an error of the driver."""
        script = f"const done = arguments[0]; ({promise}).then(done, (fault) => done({{ fault: String(fault) }}));"
        return self._post("/execute/async", script=script, args=[])

    def click(self, selector):
        """Clicks on an element as a reader would: it must be there, and visible."""
        found = self._post("/element", using="css selector", value=selector)
        self._post(f"/element/{found[ELEMENT]}/click")

    def command(self, name, **parameters):
        """A command of the DevTools."""
        return self._post("/goog/cdp/execute", cmd=name, params=parameters)

    def read_console(self):
        """Messages on the console since the last call."""
        return [entry["message"] for entry in self._post("/se/log", type="browser")]

    def read_requests(self):
        """Addresses that the page asked for since the last call, the ones made of data alone left out."""
        events = [json.loads(entry["message"])["message"] for entry in self._post("/se/log", type="performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        addresses = [params["request"]["url"] for params in sent]
        return [address for address in addresses if urlsplit(address).scheme != "data"]

    def _post(self, path, **body):
        return self._call("POST", self.session + path, body)

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.base + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(error.read().decode()) from None

    def _wait(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if self._call("GET", "/status")["ready"]:
                    return
            except urllib.error.URLError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
            time.sleep(0.05)

    def _end(self):
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)
