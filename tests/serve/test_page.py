"""The page at `/` in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext import Predictor
from tests.serve.conftest import SECONDS, ServedExports, listening, png

selenium = pytest.importorskip("selenium", reason="selenium, which drives a browser, is not installed")

from selenium.webdriver import ActionChains, Chrome, Keys  # noqa: E402 - the module is skipped without it
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from tests.helpers import browser as browsers  # noqa: E402

pytestmark = [
    pytest.mark.slow,  # it starts a browser
    pytest.mark.skipif(browsers.programs() is None, reason="no Chromium with its chromedriver is installed"),
]

TASKS = ("classification", "detection", "segmentation")
PHONE = 360  # CSS pixels of a narrow one


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with browsers.browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def address(exports: dict[str, Path]) -> Iterator[str]:
    with ExitStack() as stack:
        host, port = stack.enter_context(listening(ServedExports(stack, exports)))
        yield f"http://{host}:{port}/"


@pytest.fixture
def page(browser: Chrome, address: str) -> Iterator[Chrome]:
    """The page as it is when it is opened; nothing in it may be an error of its own, or leave for another origin."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # type: ignore[no-untyped-call]
    opened(browser, address)
    yield browser
    origins = {url for url in requested(browser) if not url.startswith((address, "blob:", "data:"))}
    assert origins == set()


def opened(browser: Chrome, address: str) -> None:
    browsers.resize(browser, 1120)
    browser.get(address)
    WebDriverWait(browser, SECONDS).until(lambda b: b.find_element(By.ID, "state").text != "asking the service")


def events(browser: Chrome) -> list[dict[str, Any]]:
    """What the browser has done since the last call."""
    lines = browser.get_log("performance")  # type: ignore[no-untyped-call]
    return [json.loads(line["message"])["message"] for line in lines]


def requested(browser: Chrome) -> list[str]:
    """The addresses that the browser has asked for since the last call."""
    found = [event["params"] for event in events(browser) if event["method"] == "Network.requestWillBeSent"]
    return [params["request"]["url"] for params in found]


def choose(page: Chrome, task: str) -> None:
    page.find_element(By.ID, "model").send_keys(task)


def rows(page: Chrome) -> list[tuple[str, str]]:
    """Label and value of each row of the result."""
    found = page.execute_script(  # type: ignore[no-untyped-call]
        "return [...document.querySelectorAll('.row')].map((row) =>"
        " [row.querySelector('.label').textContent, row.querySelector('.value').textContent])"
    )
    return [(label, value) for label, value in found]


def expected_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the page is to show of a result, given as its dictionary."""
    if "areas" in result:
        areas = sorted((area for area in result["areas"] if area["pixels"]), key=lambda area: -area["pixels"])
        return [(area["label"], f"{100 * area['share']:.1f} %") for area in areas]
    found = result["detections"] if "detections" in result else result["predictions"]
    return [(one["label"], f"{100 * one['score']:.1f} %") for one in found]


def colours(page: Chrome) -> dict[tuple[int, ...], int]:
    """How many pixels of the layer over the image have each RGB colour; those where the image shows are left out."""
    found = page.execute_script(  # type: ignore[no-untyped-call]
        """
        const canvas = document.getElementById("canvas"), counts = {};
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        for (let k = 0; k < data.length; k += 4) {
          if (data[k + 3]) counts[data.slice(k, k + 3).join()] = (counts[data.slice(k, k + 3).join()] ?? 0) + 1;
        }
        return [counts, canvas.width * canvas.height];
        """
    )
    counts, whole = found
    return {tuple(map(int, colour.split(","))): count / whole for colour, count in counts.items()}


def error(page: Chrome) -> str:
    return str(page.find_element(By.ID, "wrong").text)


def wait_for_rows(page: Chrome, expected: list[tuple[str, str]]) -> None:
    WebDriverWait(page, SECONDS).until(lambda _: rows(page) == expected, f"the rows are not {expected}")


@pytest.mark.parametrize("task", TASKS)
def test_the_page_shows_what_the_predictor_finds(
    page: Chrome, exports: dict[str, Path], photo: Path, task: str
) -> None:
    with Predictor(exports[task], threads=1) as predict:
        result = predict(photo)
    choose(page, task)
    browsers.upload(page, photo)
    assert error(page) == ""
    assert rows(page) == expected_rows(result.to_dict()) != []
    times = page.find_element(By.ID, "times").text
    assert all(word in times for word in ("decode", "prepare", "network", "postprocess", "in all"))
    assert f"110 × 90 pixels, on the engine {result.engine}" in times
    drawn = colours(page)
    if task == "classification":
        assert drawn == {}
    elif task == "detection":
        from det.results import COLOURS

        kinds = {COLOURS[one["class"] % len(COLOURS)] for one in result.to_dict()["detections"]}
        assert {tuple(bytes.fromhex(kind[1:])) for kind in kinds} & drawn.keys()
    else:
        painted = sum(area["share"] for area in result.to_dict()["areas"] if area["class"] != 0)
        assert sum(drawn.values()) == pytest.approx(painted, abs=0.02)
    assert not [line for line in page.get_log("browser") if line["level"] == "SEVERE"]  # type: ignore[no-untyped-call]


def test_boxes_and_labels_follow_the_settings(page: Chrome, exports: dict[str, Path], photo: Path) -> None:
    """The keys move the sliders: they are native controls."""
    choose(page, "classification")
    browsers.upload(page, photo)
    page.find_element(By.ID, "topk").send_keys(Keys.HOME)
    with Predictor(exports["classification"], threads=1, topk=1) as predict:
        wait_for_rows(page, expected_rows(predict(photo).to_dict()))
    choose(page, "detection")
    browsers.settle(page, photo.name)
    assert rows(page)
    page.find_element(By.ID, "threshold").send_keys(Keys.END)
    wait_for_rows(page, [])
    assert page.find_element(By.ID, "summary").text == "Nothing reaches this score."
    page.find_element(By.ID, "threshold").send_keys(Keys.HOME)
    with Predictor(exports["detection"], threads=1, threshold=0.0) as predict:
        wait_for_rows(page, expected_rows(predict(photo).to_dict()))


def test_a_broken_image_is_one_line_and_the_next_one_works(page: Chrome, photo: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 nothing")
    choose(page, "classification")
    browsers.upload(page, broken)
    assert error(page).startswith("This image cannot be read: ")
    assert "\n" not in error(page)
    assert rows(page) == []
    browsers.upload(page, photo)
    assert error(page) == ""
    assert rows(page)


def test_the_keyboard_is_enough(page: Chrome, photo: Path) -> None:
    """From the top of the page to a result, and to another model, with keys alone; the file comes as it would from the
    dialog that Enter opens."""

    def press(*keys: str) -> str:
        ActionChains(page).send_keys(*keys).perform()
        return str(page.execute_script("return document.activeElement.id"))  # type: ignore[no-untyped-call]

    page.execute_cdp_cmd("Page.setInterceptFileChooserDialog", {"enabled": True})
    try:
        events(page)
        assert press(Keys.TAB) == "choose"
        style = "return getComputedStyle(document.activeElement)."
        assert page.execute_script(f"{style}outlineStyle") == "solid"  # type: ignore[no-untyped-call]
        assert page.execute_script(f"{style}outlineWidth") == "3px"  # type: ignore[no-untyped-call]
        press(Keys.ENTER)
        dialogs: list[dict[str, Any]] = []

        def asked(_: Chrome) -> bool:
            dialogs.extend(event["params"] for event in events(page) if event["method"] == "Page.fileChooserOpened")
            return bool(dialogs)

        WebDriverWait(page, SECONDS).until(asked, "Enter opens no dialog for a file")
        files = {"files": [str(photo)], "backendNodeId": dialogs[0]["backendNodeId"]}
        page.execute_cdp_cmd("DOM.setFileInputFiles", files)
        browsers.settle(page, photo.name)
    finally:
        page.execute_cdp_cmd("Page.setInterceptFileChooserDialog", {"enabled": False})
    assert rows(page)
    reached = [press(Keys.TAB) for _ in range(3)]
    assert reached == ["camera", "model", "topk"]
    ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert press("d") == "model"
    WebDriverWait(page, SECONDS).until(lambda _: page.find_elements(By.CSS_SELECTOR, "button.row"))
    browsers.settle(page, photo.name)
    assert press(Keys.TAB) == "threshold"
    press(Keys.TAB, Keys.SPACE)
    pressed = page.switch_to.active_element
    assert pressed.get_attribute("aria-pressed") == "true"


def test_the_result_is_announced_and_every_control_has_a_name(page: Chrome, photo: Path) -> None:
    choose(page, "segmentation")
    browsers.upload(page, photo)
    assert page.find_element(By.ID, "summary").get_attribute("aria-live") == "polite"
    assert page.find_element(By.ID, "wrong").get_attribute("role") == "alert"
    controls = page.find_elements(By.CSS_SELECTOR, "button, select, input:not([aria-hidden])")
    shown = [control for control in controls if control.is_displayed()]
    assert len(shown) > 4
    assert [control.get_attribute("outerHTML") for control in shown if not control.accessible_name] == []


@pytest.mark.parametrize("task", TASKS)
def test_a_phone_shows_all_without_scrolling_sideways(page: Chrome, photo: Path, task: str) -> None:
    browsers.resize(page, PHONE)
    choose(page, task)
    browsers.upload(page, photo)
    width = page.execute_script("return document.documentElement.scrollWidth")  # type: ignore[no-untyped-call]
    assert width == PHONE


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_an_image_may_be_pasted_or_dropped(page: Chrome, way: str) -> None:
    choose(page, "classification")
    page.execute_script(  # type: ignore[no-untyped-call]
        """
        const [way, bytes] = arguments, data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "a picture.png", { type: "image/png" }));
        document.body.dispatchEvent(way === "paste"
          ? new ClipboardEvent(way, { clipboardData: data, bubbles: true, cancelable: true })
          : new DragEvent(way, { dataTransfer: data, bubbles: true, cancelable: true }));
        """,
        way,
        list(png(90, 40)),
    )
    browsers.settle(page, "a picture.png")
    assert rows(page)


def test_the_camera_takes_an_image(page: Chrome) -> None:
    """The browser's own test picture is what its camera sees."""
    choose(page, "classification")
    page.find_element(By.ID, "camera").click()
    WebDriverWait(page, SECONDS).until(
        lambda _: page.execute_script("return document.getElementById('video').videoWidth > 0")  # type: ignore[no-untyped-call]
    )
    page.find_element(By.ID, "snap").click()
    browsers.settle(page, "camera")
    assert rows(page)
    assert page.execute_script("return document.getElementById('video').srcObject") is None  # type: ignore[no-untyped-call]


def test_the_policy_holds(page: Chrome, photo: Path) -> None:
    """Neither a script of another's making nor another origin's picture gets in."""
    refused = page.execute_async_script(  # type: ignore[no-untyped-call]
        """
        const done = arguments[0], refused = [];
        document.addEventListener("securitypolicyviolation", (event) => {
          refused.push(event.effectiveDirective);
          if (refused.length === 2) done([refused.sort(), String(window.broken)]);
        });
        const script = document.createElement("script");
        script.textContent = "window.broken = true";
        document.body.append(script);
        const picture = new Image();
        picture.src = "http://127.0.0.2:9/picture.png";
        """
    )
    assert refused == [["img-src", "script-src-elem"], "undefined"]
    stopped = [event["params"] for event in events(page) if event["method"] == "Network.loadingFailed"]
    assert [one["blockedReason"] for one in stopped] == ["csp"]


def test_a_service_with_a_token_is_asked_with_it(browser: Chrome, exports: dict[str, Path], photo: Path) -> None:
    with ExitStack() as stack:
        served = ServedExports(stack, {"only": exports["classification"]}, token="open sesame")
        host, port = stack.enter_context(listening(served))
        opened(browser, f"http://{host}:{port}/")
        field = browser.find_element(By.ID, "token-field")
        assert field.is_displayed()
        assert error(browser) == ""
        field.send_keys("wrong", Keys.ENTER)
        WebDriverWait(browser, SECONDS).until(lambda _: error(browser) == "That is not the service's token.")
        field.clear()
        field.send_keys("open sesame", Keys.ENTER)
        WebDriverWait(browser, SECONDS).until(lambda _: browser.find_element(By.ID, "state").text == "ready")
        assert not field.is_displayed()
        browsers.upload(browser, photo)
        assert rows(browser)
        assert error(browser) == ""


def test_a_service_that_is_gone_is_said_in_words(browser: Chrome, exports: dict[str, Path], photo: Path) -> None:
    with ExitStack() as stack:
        served = ServedExports(stack, {"only": exports["classification"]})
        host, port = stack.enter_context(listening(served))
        opened(browser, f"http://{host}:{port}/")
    browsers.upload(browser, photo)
    assert error(browser) == "The service cannot be reached. Is it still running?"
