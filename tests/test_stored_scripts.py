"""Texts and file names that are scripts, in all that a browser shows: no script runs, and the texts can be read."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_cases import place, running
from run_cases import run, write_config

from dataset_scripts.__main__ import main as data_command

sync_api = pytest.importorskip("playwright.sync_api", reason="the test drives a browser with playwright")
CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="neither Chromium nor Chrome is installed"),
]
__all__ = ["place"]  # a fixture
SCRIPTS = [
    '<img src=x onerror="window.ran=1"> circle',
    "<script>window.ran=1</script> square",
    '"><svg onload=window.ran=1> star',
    "' onmouseover=window.ran=1 onfocus=window.ran=1 x=' red",
    "</style></title></textarea><script>window.ran=1</script> blue",
    "[link](javascript:window.ran=1) {{7*7}} ${window.ran=1} &lt;script&gt;window.ran=1&lt;/script&gt;",
]
NAMES = [text.replace("/", "\N{DIVISION SLASH}") + ".png" for text in SCRIPTS]
# Every handler that an element might have been given is called.
PROVOKE = """document.querySelectorAll('*').forEach(one => ['mouseover', 'focus', 'error', 'load', 'click']
    .forEach(kind => one.closest('button, a, input, label') || one.dispatchEvent(new Event(kind))))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield one
        one.close()


def opened(browser: Any, address: str) -> Any:
    """A page in the browser, which counts dialogs as scripts, too."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    page.on("dialog", lambda dialog: (page.evaluate("window.ran = 1"), dialog.dismiss()))
    page.goto(address)
    return page


def check_nothing_ran(page: Any) -> None:
    page.evaluate(PROVOKE)
    page.wait_for_timeout(300)
    assert page.evaluate("window.ran") is None


def test_the_browser_would_run_them(browser: Any, tmp_path: Path) -> None:
    for number, text in enumerate(SCRIPTS[:5]):
        path = tmp_path / f"{number}.html"
        path.write_text(f"<title>{text}</title><a title='{text}'>{text}</a><p title=\"{text}\">{text}</p>")
        page = opened(browser, path.as_uri())
        page.evaluate(PROVOKE.replace("one.closest('button, a, input, label') || ", ""))
        page.wait_for_timeout(300)
        assert page.evaluate("window.ran") == 1, text


def write_data(folder: Path, place: Path, questions: bool) -> None:
    """Own data whose texts and file names are scripts."""
    folder.mkdir()
    for number, name in enumerate(NAMES):
        shutil.copy(place / f"photos/{number}.png", folder / name)
    further = ["question", "answers"] if questions else ["caption"]
    for split in ("train", "validation", "test"):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["file_name", *further])
            for name, text in zip(NAMES, SCRIPTS, strict=True):
                rows.writerow([name, text, json.dumps([text[:48]] * 3)] if questions else [name, text])


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_report_and_contact_sheet(browser: Any, place: Path, tmp_path: Path, task: str) -> None:
    data = tmp_path / "<img src=x onerror=window.ran=1>"
    write_data(data, place, task == "vqa")
    out = tmp_path / SCRIPTS[2]
    changes: dict[str, Any] = {"queue_size": 24} if task == "retrieval" else {}
    config = write_config(
        tmp_path,
        **{**changes, "dataset": "own_data", "dataset_config": {}, "data_dir": str(data), "output_dir": str(out)},
        num_train_epochs=1,
        per_device_train_batch_size=3,
        run_name=SCRIPTS[0],
    )
    run(f"run_{task}.py", [config])
    sheet = tmp_path / "sheet.html"
    name = [] if task == "retrieval" else ["--config_name", "vqa"]
    assert (
        data_command(["show", "own_data", "--data_dir", str(data), *name, "--split", "test", "--out", str(sheet)]) == 0
    )
    for path in (out / "report.html", sheet):
        page = opened(browser, path.as_uri())
        shown = page.locator("body").inner_text()
        check_nothing_ran(page)
        assert page.locator("script").count() == 0
        for text in SCRIPTS[:3]:
            assert " ".join(text.split()) in " ".join(shown.split()), path


def test_page(browser: Any, place: Path, tmp_path: Path) -> None:
    for folder in ("retrieval", "vqa"):
        (tmp_path / folder).symlink_to(place / folder)
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(NAMES):
        shutil.copy(place / f"photos/{number}.png", tmp_path / "photos" / name)
    damaged = tmp_path / "damaged &lt;img src=x onerror=window.ran=1&gt;.png"
    damaged.write_bytes((place / "cut.png").read_bytes())
    with running(tmp_path) as server:
        page = opened(browser, server.address)
        page.get_by_role("tab", name="Search").wait_for()
        for text in SCRIPTS:
            page.locator("#search_text textarea").fill(text)
            page.locator("#search_start").click()
            page.locator("#search_found .caption-label").nth(5).wait_for()
        assert {
            text[text.index("% ") + 2 :] for text in page.locator("#search_found .caption-label").all_inner_texts()
        } == {name.removesuffix(".png") for name in NAMES}
        page.locator("#caption_examples img").first.click()
        page.locator("#caption_image img").wait_for(state="attached")
        page.locator("#captions textarea").fill("\n".join(SCRIPTS))
        page.locator("#caption_start").click()
        page.locator("#caption_found dt").nth(5).wait_for()
        assert {text.strip() for text in page.locator("#caption_found dt").all_inner_texts()} == set(SCRIPTS)
        page.get_by_role("tab", name="Ask", exact=True).click()
        page.locator("#ask_image input[type=file]").set_input_files(damaged)
        page.locator("#ask_image img").wait_for(state="attached")
        page.locator("#ask_question textarea").fill(SCRIPTS[0])
        page.locator("#ask_start").click()
        page.locator(".toast-body").last.wait_for()
        assert damaged.name in page.locator(".toast-body").last.inner_text()
        check_nothing_ran(page)
    assert "Traceback" not in server.log.read_text()
