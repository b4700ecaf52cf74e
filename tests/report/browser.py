"""A headless Chromium for the tests of pages, driven through selenium; its driver is found here, never fetched."""

import json
import shutil
import tempfile
from importlib.util import find_spec
from urllib.parse import urlsplit

BINARIES = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ("disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
ARGUMENTS = ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", *QUIET)
PATIENCE_SECONDS = 30


def find_browser():
    """((chromedriver, browser), ''), or None and the sentence that says what is missing."""
    if find_spec("selenium") is None:
        return None, "selenium is not installed (pip install -c constraints.txt -e '.[dev]')"
    driver, browser = shutil.which("chromedriver"), next(filter(None, map(shutil.which, BINARIES)), None)
    if driver is None or browser is None:
        return None, f"no {'chromedriver' if browser else 'Chromium'} on the PATH"
    return (driver, browser), ""


class Browser:
    """One window with a profile of its own; a context manager, which ends what it started."""

    def __init__(self, driver, browser):
        from selenium.webdriver import Chrome, ChromeOptions, ChromeService

        self.profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        options = ChromeOptions()
        options.binary_location = browser
        for argument in (*ARGUMENTS, f"user-data-dir={self.profile.name}"):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        try:
            self.driver = Chrome(options=options, service=ChromeService(executable_path=driver))
        except BaseException:
            self.profile.cleanup()
            raise
        self.driver.set_script_timeout(PATIENCE_SECONDS)
        self.driver.get("about:blank")  # away from the browser's own first page, which loads much

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.driver.quit()
        finally:
            self.profile.cleanup()

    def show(self, path, *, width=1280, dark=False):
        """Opens a file in a window of that width, in the light or in the dark."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(path.as_uri())

    def run(self, script, *arguments):
        """What a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def wait_for(self, promise):
        """What a promise, given as an expression, comes to; its failure comes as {"fault": ...}."""
        return self.driver.execute_async_script(
            f"const done = arguments[0]; ({promise}).then(done, (fault) => done({{ fault: String(fault) }}));"
        )

    def click(self, selector):
        """Clicks on an element as a reader would: it must be there, and visible."""
        self.driver.find_element("css selector", selector).click()

    def read_console(self):
        """Messages on the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def read_requests(self):
        """Addresses that the page asked for since the last call, the ones made of data alone left out."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        addresses = [params["request"]["url"] for params in sent]
        return [address for address in addresses if urlsplit(address).scheme != "data"]
