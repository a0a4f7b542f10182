"""The labelling page in a real browser, by keyboard alone, and what a screen reader would be told."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from models.bundle import open_bundle
from models.errors import UsageError
from service.app import create_app
from service.settings import Settings
from tests.conftest import Serving
from tests.service.conftest import call
from tests.test_aliases import retempered


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
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
        shown = [found.text for found in browser.find_elements("css selector", "#codebook th, #codebook h2")]
        assert shown[:2] == ["Codebook: stance on how to deal with the other side", "label"]
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


def codebook(settings: Settings) -> str:
    with TestClient(create_app(settings), client=("127.0.0.1", 1)) as caller:
        answer = caller.get("/label/codebook")
    assert answer.status_code == 200
    return answer.text


def test_a_codebook_of_ones_own_is_shown_without_its_html(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.md"
    path.write_text("# Ours\n\n- *hawkish* <script>alert(1)</script> [x](javascript:alert(1))\n\n|a|\n|-|\n|b|\n", "utf-8")
    shown = codebook(Settings(model=str(tiny_bundle), codebook=path, database_url=f"sqlite:///{tmp_path}/labels.db"))
    assert "<h2>Ours</h2>" in shown
    assert "<em>hawkish</em> &lt;script&gt;" in shown
    assert "<td>b</td>" in shown
    assert "href" not in shown


def test_labels_of_ones_own_do_not_get_the_codebook_that_ships(tiny_bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    first = open_bundle(tiny_bundle)
    labels = first.manifest.label_set.model_copy(update={"labels": ("a", "b<", "c"), "positive": None, "negative": None})
    retempered(first, other, 1.0, label_set=labels)
    shown = codebook(Settings(model=str(other), database_url=f"sqlite:///{tmp_path}/labels.db"))
    assert "a, b&lt;, c mean stands in no codebook yet: set <code>codebook</code>" in shown


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), (b"\xff\xfe", "not UTF-8")])
def test_a_codebook_that_cannot_be_read_is_said_at_the_start(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "own.md"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        create_app(Settings(codebook=path))
