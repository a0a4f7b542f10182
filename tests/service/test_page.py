"""The labelling page in a real browser, by keyboard alone, and what a screen reader would be told."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serving
from tests.service.test_swap import call

webdriver = pytest.importorskip("selenium.webdriver")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}/profile",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


def wait(browser: Any, condition: Any) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 20).until(condition)


def element(browser: Any, id_: str) -> Any:
    return browser.find_element("id", id_)


def test_labelling_by_keyboard(serving: Serving, tiny_bundle: Path, tmp_path: Path, browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        ActionChains(browser).send_keys(*keys).perform()

    settings = {"database_url": f"sqlite:///{tmp_path}/labels.db", "remember_unsure": True}
    with serving(tiny_bundle, **settings) as (_, port):
        sentences = [f"We will talk about <b>point</b> {n} & “more”." for n in range(12)]
        results = call(port, "POST", "/v1/classify", {"sentences": sentences})[1]["results"]
        assert sum(not result["confident"] for result in results) >= 3
        queue = [item["sentence"] for item in call(port, "GET", "/v1/labels/queue?limit=50&annotator=Ann")[1]["items"]]
        browser.get(f"http://127.0.0.1:{port}/label")
        assert "should the other side be engaged" in wait(browser, lambda b: element(b, "codebook").text)
        assert not element(browser, "work").is_displayed()
        press(Keys.TAB, "Ann", Keys.ENTER)
        wait(browser, lambda b: element(b, "sentence").text == queue[0])
        assert browser.switch_to.active_element.get_attribute("id") == "sentence", "a screen reader reads the new sentence"
        assert element(browser, "said").text == "", "what the model says is hidden until there is a choice"
        assert "pro_dialogue" in element(browser, "choices").text
        press("2")
        wait(browser, lambda b: element(b, "sentence").text == queue[1])
        assert "You said pro_pressure; the model had said" in element(browser, "said").text
        assert element(browser, "progress").text == "1 labelled in this sitting"
        press("u")
        wait(browser, lambda b: element(b, "sentence").text == queue[0])
        press("3")
        wait(browser, lambda b: element(b, "sentence").text == queue[1])
        assert element(browser, "progress").text == "1 labelled in this sitting"
        press("s")
        wait(browser, lambda b: element(b, "sentence").text != queue[1])
        press(Keys.TAB, Keys.ENTER)  # the first label's button
        wait(browser, lambda b: element(b, "progress").text == "2 labelled in this sitting")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/labels/export") as answer:
            rows = [json.loads(line) for line in answer.read().decode("utf-8").splitlines()]
        assert [(row["text"], row["label"], row["annotator"]) for row in rows[:2]] == [
            (queue[0], "pro_pressure", "Ann"),
            (queue[0], "neutral", "Ann"),
        ]
        assert rows[2]["label"] == "pro_dialogue"
        assert all(row["predicted"] and row["model_id"] for row in rows)
        severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert [message for message in severe if "favicon" not in message] == []
        unnamed = browser.execute_script(
            "return [...document.querySelectorAll('button, input, aside, section, [role=group]')]"
            ".filter(e => !(e.innerText.trim() || e.ariaLabel || (e.labels && e.labels.length))).map(e => e.outerHTML)"
        )
        assert unnamed == [], "everything that can be used has a name"


def test_without_a_key_the_page_says_so(serving: Serving, tiny_bundle: Path, tmp_path: Path, browser: Any) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys: [{name: a, sha256: '" + "0" * 64 + "', scopes: [label]}]\n", "utf-8")
    with serving(tiny_bundle, database_url=f"sqlite:///{tmp_path}/labels.db", api_keys_file=str(keys)) as (_, port):
        browser.get(f"http://127.0.0.1:{port}/label")
        element(browser, "name").send_keys("Ann\n")
        wait(browser, lambda b: "Send a key" in element(b, "trouble").text)
        assert element(browser, "who").is_displayed()
