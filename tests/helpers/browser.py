"""A real browser without a window, driven from tests, and screenshots of the service's page:

`python -m tests.helpers.browser ADDRESS IMAGE FILE.jpg --width 1120`
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from ppcls_ext.core.pictures import save_image

SECONDS = 120.0  # that the page may take for what must come, on a busy machine too
HEIGHT = 900
PROGRAMS = (("chromium", "chromium-browser", "google-chrome", "chrome"), ("chromedriver", "chromium.chromedriver"))


def programs() -> tuple[str, str] | None:
    """Where the browser and its driver are; None where either is missing."""
    found = [next(filter(None, map(shutil.which, names)), None) for names in PROGRAMS]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


@contextlib.contextmanager
def browser(width: int = 1120, height: int = HEIGHT, dark: bool = False) -> Iterator[Chrome]:
    """A Chromium without a window, whose page is so many CSS pixels wide. Nothing of it is kept."""
    found = programs()
    assert found is not None
    options = ChromeOptions()
    options.binary_location = found[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in (
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--hide-scrollbars",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),  # Chromium's sandbox does not work for root
    ):
        options.add_argument(flag)
    driver = Chrome(options=options, service=Service(found[1]))
    try:
        resize(driver, width, height)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        yield driver
    finally:
        driver.quit()


def resize(driver: Chrome, width: int, height: int = HEIGHT) -> None:
    """Give the page so many CSS pixels; a window itself cannot be as narrow as a phone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def upload(driver: Chrome, image: Path) -> None:
    """Choose a file, and wait for its result or for an error."""
    driver.find_element(By.ID, "file").send_keys(str(image.resolve()))
    settle(driver, image.name)


def settle(driver: Chrome, name: str) -> None:
    """Wait until the page has shown what came of the image of this name."""

    def done(driver: Chrome) -> bool:
        shown = driver.execute_script(  # type: ignore[no-untyped-call]
            "return document.getElementById('name').textContent === arguments[0]"
            " && document.getElementById('found').getAttribute('aria-busy') === 'false'"
            " && (!document.getElementById('times').hidden || !document.getElementById('wrong').hidden)",
            name,
        )
        return bool(shown)

    WebDriverWait(driver, SECONDS).until(done)


def main() -> None:
    """Write a screenshot of a service's page with the result for an image."""
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.browser", description=main.__doc__)
    parser.add_argument("address", help="of the service")
    parser.add_argument("image", type=Path, help="upload this file")
    parser.add_argument("file", type=Path, help="write this picture, .jpg or .png")
    parser.add_argument("--model", help="choose this one (default: the service's first)")
    parser.add_argument("--width", type=int, default=1120, help="of the page in pixels (default: %(default)s)")
    parser.add_argument("--height", type=int, default=HEIGHT, help="of the page in pixels (default: %(default)s)")
    parser.add_argument("--dark", action="store_true", help="as in a dark desktop")
    given = parser.parse_args()
    with browser(given.width, given.height, given.dark) as driver:
        driver.get(given.address)
        if given.model:
            field = WebDriverWait(driver, SECONDS).until(lambda driver: driver.find_element(By.ID, "model"))
            field.send_keys(given.model)
        upload(driver, given.image)
        driver.execute_script("document.activeElement.blur()")  # type: ignore[no-untyped-call]
        shot = cv2.imdecode(np.frombuffer(driver.get_screenshot_as_png(), np.uint8), cv2.IMREAD_COLOR)
        save_image(given.file, cv2.cvtColor(shot, cv2.COLOR_BGR2RGB))


if __name__ == "__main__":
    main()
