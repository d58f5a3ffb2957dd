"""The coordinator's console in a real Chromium, against a real run.

The tests are in the order in which a person would do it: look, pause, compare, resume, stop.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.base import AXE_FILE_PATH
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from tests.system.federation import SITES, Federation, eventually, tool

SCREENSHOTS = os.environ.get("FDFED_SCREENSHOTS")
"""A folder for pictures of what the browser showed; unset: none are kept."""


class Browser:
    """Chromium, and what it shows."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        self.address = address

    def login(self, token: str, *, shown: str = "round") -> None:
        self.driver.get(f"{self.address}/login")
        self.driver.find_element(By.ID, "token").send_keys(token, Keys.ENTER)
        eventually(lambda: self.text(shown) not in ("", "–"), seconds=30)

    def text(self, element: str) -> str:
        found = self.driver.find_elements(By.ID, element)
        return str(found[0].text) if found else ""

    def click(self, element: str) -> None:
        self.driver.find_element(By.ID, element).click()

    def script(self, source: str, *arguments: Any) -> Any:
        return self.driver.execute_script(source, *arguments)

    def state(self) -> dict[str, Any]:
        """What the page's own interface says now."""
        source = "return fetch('/api/state').then(a => a.text())"
        found: dict[str, Any] = json.loads(self.script(source))
        return found

    def size(self, width: int, height: int = 900) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def picture(self, name: str) -> None:
        if SCREENSHOTS:
            Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
            shown = Image.open(BytesIO(self.driver.get_screenshot_as_png()))
            # Few colours suffice for text and lines, and take a quarter of the bytes.
            few = shown.convert("RGB").quantize(64)
            few.save(Path(SCREENSHOTS) / f"{name}.png", optimize=True)


@pytest.fixture(scope="module")
def browser(federation: Federation) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = tool("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(tool("chromedriver")))
    try:
        eventually(lambda: "console: http" in federation.log("server"), seconds=280)
        yield Browser(driver, federation.console)
    finally:
        driver.quit()


def test_a_viewer_logs_in_and_finds_nothing_to_press(
    browser: Browser, federation: Federation
) -> None:
    browser.driver.get(browser.address)
    assert browser.driver.current_url.endswith("/login")
    assert faults(browser) == []
    browser.login(federation.token("viewer"))
    assert not browser.driver.find_elements(By.ID, "stop")
    assert eventually(lambda: browser.text("live") == "live")
    browser.driver.find_element(By.CSS_SELECTOR, "form[action='/logout'] button").click()
    assert eventually(lambda: browser.driver.current_url.endswith("/login"))


def test_a_round_that_ends_moves_the_page_without_a_reload(
    browser: Browser, federation: Federation
) -> None:
    browser.login(federation.token("operator"))
    browser.script("window.stayed = true")
    first = eventually(lambda: completed(browser), seconds=240)
    eventually(lambda: completed(browser) > first, seconds=120)
    points = "return document.querySelector('#c-dice .u-legend .u-value').textContent"
    shown = browser.script(points)
    eventually(lambda: int(browser.script(points)) > int(shown), seconds=120)
    assert browser.script("return window.stayed") is True


def test_an_operator_pauses_the_run_in_phase_2(browser: Browser, federation: Federation) -> None:
    eventually(lambda: completed(browser) >= 13, seconds=280)
    browser.click("pause")
    assert "finished and kept" in browser.text("confirm-text")
    browser.driver.find_element(By.ID, "confirm").send_keys(Keys.ESCAPE)
    assert browser.state()["run"]["paused"] is False
    browser.click("pause")
    browser.click("confirm-yes")
    eventually(lambda: browser.text("activity").startswith("paused"))
    eventually(lambda: "is complete" in browser.text("activity"), seconds=60)
    rounds = federation.status()["completed_rounds"]
    time.sleep(2)
    assert federation.status()["completed_rounds"] == rounds < 21


def test_the_numbers_on_the_page_are_those_of_the_interface_and_of_the_run(
    browser: Browser, federation: Federation
) -> None:
    state, status = browser.state(), federation.status()
    assert browser.text("round") == f"{status['completed_rounds']} of 21"
    assert browser.text("dice") == f"{status['mean_val_dice']:.3f}"
    assert browser.text("present") == f"{len(SITES)} of {len(SITES)}"
    rows = browser.driver.find_elements(By.CSS_SELECTOR, "#sites tbody tr")
    for row, site in zip(rows, state["sites"], strict=True):
        cells = [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")]
        assert cells[0] == site["name"]
        assert cells[2] == str(site["n_train"])
        assert cells[4] == f"{status['sites'][site['name']]['val_dice']:.3f}"
    exchange = browser.driver.find_element(By.ID, "exchange").text
    assert f"frames received {state['exchange']['frames_in']:,}" in exchange
    assert state["exchange"]["frames_in"] > 0
    pair = state["rounds"][-1]["pairs"][f"{SITES[0]} {SITES[1]}"]
    tap = next(iter(pair))
    Select(browser.driver.find_element(By.ID, "tap")).select_by_value(tap)
    cells = browser.driver.find_elements(By.CSS_SELECTOR, "#matrix tbody td")
    assert len(cells) == len(SITES) ** 2
    assert float(cells[1].text.replace("−", "-")) == pytest.approx(pair[tap], rel=1e-2)
    label = browser.script(
        "return document.querySelector('#c-alpha .plot').getAttribute('aria-label')"
    )
    assert "Weight α by tap, up to round" in label


@pytest.mark.parametrize("width", [360, 1920])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_is_legible_and_has_no_accessibility_fault(
    browser: Browser, width: int, theme: str
) -> None:
    browser.size(width)
    browser.script(
        "const s = document.getElementById('theme'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('change'))",
        theme,
    )
    eventually(lambda: browser.script("return document.documentElement.dataset.theme") == theme)
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert eventually(lambda: browser.script(overflow) <= 0)
    assert faults(browser) == []
    browser.size(width, browser.script("return document.documentElement.scrollHeight"))
    time.sleep(0.5)
    browser.picture(f"console-{theme}-{width}")
    browser.size(1280)


def test_the_hospital_s_page_says_what_left_as_its_audit_log_does(
    browser: Browser, federation: Federation
) -> None:
    state = federation.folder / "sites" / SITES[0] / "state"
    token = (state / "console" / "viewer.token").read_text().strip()
    address = f"http://127.0.0.1:{federation.agent_console_port}"
    hospital = Browser(browser.driver, address)
    browser.driver.switch_to.new_window("tab")
    hospital.login(token, shown="bytes")
    lines = [json.loads(line) for line in (state / "audit.log").read_text().splitlines()]
    left = [line for line in lines if line["direction"] == "out" and line.get("state") != "begun"]
    assert hospital.state()["bytes_out"] == sum(line.get("bytes", 0) for line in left) > 0
    table = hospital.text("out")
    assert "The network's weights after a round of training here" in table
    assert "turned by a secret that the coordinator does not have" in table
    assert "Images and masks" in hospital.text("never")
    for width in (360, 1920):
        hospital.size(width)
        assert faults(hospital) == []
        hospital.size(width, hospital.script("return document.documentElement.scrollHeight"))
        hospital.picture(f"hospital-{width}")
    browser.size(1280)
    browser.driver.close()
    browser.driver.switch_to.window(browser.driver.window_handles[0])


def test_everything_can_be_reached_with_the_keyboard(browser: Browser) -> None:
    browser.script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = []
    for _ in range(14):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(browser.script("return document.activeElement.id"))
    assert {"theme", "resume", "stop"} <= set(reached), reached


def test_the_browser_asked_nobody_else_and_nothing_was_blocked(browser: Browser) -> None:
    asked = browser.script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert asked
    assert [url for url in asked if not url.startswith(browser.address)] == []
    assert [
        entry for entry in browser.driver.get_log("browser") if entry["level"] == "SEVERE"
    ] == []


def test_resume_goes_on_and_stop_ends_the_coordinator_with_its_state_kept(
    browser: Browser, federation: Federation
) -> None:
    before = federation.status()["completed_rounds"]
    browser.click("resume")
    eventually(lambda: federation.status()["completed_rounds"] > before)
    browser.click("stop")
    browser.click("confirm-yes")
    assert federation.processes["server"].wait(60) == 130
    assert federation.status()["activity"] == "stopped"
    assert eventually(lambda: browser.text("live") == "no connection")


def completed(browser: Browser) -> int:
    return int(browser.text("round").split(" ")[0])


def faults(browser: Browser) -> list[str]:
    """What axe-core finds of serious or critical impact."""
    browser.script(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))
    found = browser.driver.execute_async_script("axe.run().then(arguments[0])")
    return [
        f"{rule['id']}: {node['html']}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
