"""The page in a real browser, started as a user starts it; every request that leaves the machine is refused."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_cases import Server, place, running, server
from PIL import Image
from run_cases import refused
from transformers import pipeline

from benchmarks.clients import search_at_once
from dataset_scripts import load_dataset_script
from dataset_scripts.drawn.scene_texts import all_captions
from dataset_scripts.drawn.scenes import draw_scenes

pytest.importorskip("gradio", reason="the page needs gradio")
from app import MAX_UPLOAD, Order, Shown, build_page, draw_shapes, index_images, main, names_of, parse
from modeling_albef import index_albef
from modeling_albef.serving.deadline import Deadline
from modeling_albef.serving.files import ServedFiles
from modeling_albef.serving.page import Page

sync_api = pytest.importorskip("playwright.sync_api", reason="the test drives a browser with playwright")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run"
).split()
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="neither Chromium nor Chrome is installed")
WAIT = 60_000  # milliseconds
__all__ = ["place", "server"]  # fixtures
CAPTIONS = ["a blue circle", "a green star above it", "a red square"]


@pytest.fixture(scope="module")
def browser_page(server: Server) -> Iterator[Any]:
    """The page, opened in a browser that reaches nothing but this machine."""
    address = server.address
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(WAIT)
        page.route(lambda url: not url.startswith((address, "data:", "blob:")), lambda route: route.abort())
        page.goto(address)
        page.get_by_role("tab", name="Search").wait_for()
        yield page
        browser.close()


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def upload(page: Any, element: str, path: Path) -> None:
    """Puts a file into an image field, in place of the one that is there."""
    remove = page.locator(f"#{element} button[aria-label='Clear']")
    if remove.count():
        remove.first.click()
        page.locator(f"#{element} img").wait_for(state="detached")
    page.locator(f"#{element} input[type=file]").set_input_files(path)
    page.locator(f"#{element} img").wait_for(state="attached")


def message(page: Any) -> str:
    """The text of the message that is shown; closes it."""
    toast = page.locator(".toast-body").last
    toast.wait_for()
    text = toast.inner_text()
    shot(page, f"message_{'_'.join(re.findall('[a-z]+', text.lower())[:12])}")
    toast.locator("button").last.click()
    toast.wait_for(state="detached")
    return text


def shot(page: Any, name: str) -> None:
    """An image of the whole page, where SCREENSHOTS names a folder for it."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def bars(page: Any, element: str) -> dict[str, float]:
    """Texts and per cents of a list of labels."""
    page.locator(f"#{element} dd, #{element} .confidence").first.wait_for()
    texts = page.locator(f"#{element} dt").all_inner_texts()
    numbers = page.locator(f"#{element} dd").all_inner_texts()
    shown = [re.sub(r"[^0-9.]", "", number) for number in numbers]
    return {text.strip(): float(number) for text, number in zip(texts, shown, strict=True)}


@needs_browser
@pytest.mark.slow
def test_images_by_a_text(browser_page: Any, place: Path) -> None:
    open_tab(browser_page, "Search")
    browser_page.locator("#search_text textarea").fill("a blue circle")
    browser_page.locator("#search_start").click()
    gallery = browser_page.locator("#search_found .caption-label")
    gallery.first.wait_for()
    search = pipeline("image-text-retrieval", model=str(place / "retrieval"))
    search.index_images(sorted((place / "photos").glob("[0-9].png")))
    found = sorted(search("a blue circle", top_k=9), key=lambda one: -one["probability"])[:8]
    expected = [f"{one['probability']:.0%} {Path(one['image']).stem}" for one in found]
    assert gallery.all_inner_texts() == expected
    widths = browser_page.locator("#search_found img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert widths == [100] * 8
    shot(browser_page, "search")


@needs_browser
@pytest.mark.slow
def test_captions_by_an_image(browser_page: Any, place: Path) -> None:
    open_tab(browser_page, "Search")
    upload(browser_page, "caption_image", place / "good.png")
    browser_page.locator("#captions textarea").fill("\n".join([*CAPTIONS, ""]))
    browser_page.locator("#caption_start").click()
    shown = bars(browser_page, "caption_found")
    search = pipeline("image-text-retrieval", model=str(place / "retrieval"))
    search.index_texts(CAPTIONS)
    found = search(image=str(place / "good.png"))
    assert shown == pytest.approx({one["text"]: 100 * one["probability"] for one in found}, abs=0.6)
    assert list(shown.values()) == sorted(shown.values(), reverse=True)
    shot(browser_page, "captions")


@needs_browser
@pytest.mark.slow
def test_answers(browser_page: Any, place: Path) -> None:
    open_tab(browser_page, "Ask")
    upload(browser_page, "ask_image", place / "good.png")
    browser_page.locator("#ask_question textarea").fill("what color is the circle?")
    browser_page.locator("#ask_start").click()
    shown = bars(browser_page, "ask_found")
    answer = pipeline("albef-vqa", model=str(place / "vqa"))
    found = answer(image=str(place / "good.png"), question="what color is the circle?", top_k=5)
    assert shown == pytest.approx({one["answer"]: 100 * one["score"] for one in found}, abs=0.6)
    shot(browser_page, "ask")


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "text", "panels"), [("caption", "a blue circle", 4), ("question", "what is left", 4)])
def test_heat_maps(browser_page: Any, place: Path, kind: str, text: str, panels: int) -> None:
    open_tab(browser_page, "Where it looks")
    upload(browser_page, "look_image", place / "good.png")
    browser_page.locator("#look_kind").get_by_label(kind).check()
    browser_page.locator("#look_text textarea").fill(text)
    old = browser_page.locator("#look_sheet img").all()
    source = old[0].get_attribute("src") if old else None
    browser_page.locator("#look_start").click()
    changed = "old => {const i = document.querySelector('#look_sheet img'); return i && i.src != old && i.naturalWidth}"
    browser_page.wait_for_function(changed, arg=source)
    width = browser_page.locator("#look_sheet img").evaluate("one => one.naturalWidth")
    assert width == panels * 236 + 12
    shot(browser_page, f"look_{kind}")


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "text"),
    [("text.png", "is no image that Pillow knows"), ("cut.png", "damaged or cut short"), ("huge.png", "has more than")],
)
def test_bad_uploads(browser_page: Any, place: Path, server: Server, file: str, text: str) -> None:
    browser_page.reload()  # no field has an image
    browser_page.get_by_role("tab", name="Search").wait_for()
    for tab, element, start in (
        ("Search", "caption_image", "caption_start"),
        ("Ask", "ask_image", "ask_start"),
        ("Where it looks", "look_image", "look_start"),
    ):
        open_tab(browser_page, tab)
        if element == "ask_image":
            browser_page.locator("#ask_question textarea").fill("what is it")
        if element == "look_image":
            browser_page.locator("#look_text textarea").fill("a circle")
        examples = element.replace("image", "examples")
        browser_page.locator(f"#{examples} img").first.click()  # Gradio then makes the field anew
        browser_page.locator(f"#{element} img").wait_for(state="attached")
        upload(browser_page, element, place / file)
        browser_page.locator(f"#{start}").click()
        shown = message(browser_page)
        assert text in shown and file in shown and str(place) not in shown
    assert "Traceback" not in server.log.read_text()


@needs_browser
@pytest.mark.slow
def test_what_is_missing_is_said(browser_page: Any, place: Path, server: Server) -> None:
    open_tab(browser_page, "Search")
    browser_page.locator("#search_text textarea").fill("  ")
    browser_page.locator("#search_start").click()
    assert "There is no text yet" in message(browser_page)
    open_tab(browser_page, "Where it looks")
    upload(browser_page, "look_image", place / "good.png")
    browser_page.locator("#look_kind").get_by_label("caption").check()
    browser_page.locator("#look_text textarea").fill("?!")
    browser_page.locator("#look_start").click()
    assert "has no words" in message(browser_page)
    log = server.log.read_text()
    assert "Left out: Image 'photos/broken.png' is no image" in log and "Traceback" not in log


def test_a_start_without_models_is_told_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(main, [])
    assert error.startswith("There is no model to show") and "`make demo`" in error and "`make demo-vqa`" in error
    assert "There is no model at './nowhere'" in refused(main, ["--retrieval_model", "./nowhere"])


def test_a_start_with_wrong_options(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert "has no matching head" in refused(main, ["--retrieval_model", "vqa"])
    assert "There is no folder 'none'" in refused(main, ["--retrieval_model", "retrieval", "--images", "none"])
    (tmp_path / "empty").mkdir()
    words = ["--retrieval_model", "retrieval", "--images", str(tmp_path / "empty")]
    assert "has no images that can be read" in refused(main, words)


def test_drawn_images_show_what_their_names_say(tmp_path: Path) -> None:
    paths = draw_shapes(tmp_path)
    assert len({path.name for path in paths}) == len(paths) == 48
    first = load_dataset_script("shapes", split="test", cache_dir=tmp_path / "cache", num_train=1, num_validation=1)[0]
    assert paths[0].stem in all_captions(next(draw_scenes(0, "test", 1)))
    small = np.asarray(Image.open(paths[0]).reduce(4)).astype(int)
    assert np.abs(small - np.asarray(first["image"]).astype(int)).mean() < 2


def test_skipped_files_are_counted(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_albef, "IMAGE_SUFFIXES", index_albef.IMAGE_SUFFIXES - {".heic"})  # as without pillow-heif
    monkeypatch.setattr(index_albef, "OTHER_SUFFIXES", index_albef.OTHER_SUFFIXES | {".heic"})
    monkeypatch.setattr("app.IMAGE_SUFFIXES", index_albef.IMAGE_SUFFIXES)
    photos = tmp_path / "photos"
    shutil.copytree(place / "photos", photos, ignore=lambda folder, names: [name for name in names if len(name) != 5])
    (photos / "a.png").write_bytes((place / "cut.png").read_bytes())
    (photos / "b.heic").write_bytes(b"x")
    (photos / "c.svg").write_bytes(b"x")
    (photos / ".hidden.png").write_bytes((place / "good.png").read_bytes())
    (tmp_path / "uploads").mkdir()
    files = ServedFiles(tmp_path / "uploads", photos, MAX_UPLOAD)
    search = pipeline("image-text-retrieval", model=str(place / "retrieval"))
    for pipe in (search, None):
        shown = index_images(photos, files, pipe, str(tmp_path / "index"), "")
        assert [path.name for path in shown.images] == [f"{number}.png" for number in range(9)]
        assert shown.summary == (
            "9 of 13 images: 1 HEIC (install pillow-heif), 1 SVG (convert to JPEG or PNG), "
            "1 hidden, linked or too large, 1 damaged left out"
        )
    for name in ("a.png", "b.heic", "c.svg", ".hidden.png"):
        (photos / name).unlink()
    assert index_images(photos, files, search, None, str(tmp_path / "other")).summary == "9 images"


def test_results_have_one_order(place: Path) -> None:
    search = pipeline("image-text-retrieval", model=str(place / "retrieval"))
    search.index_images(sorted((place / "photos").glob("[0-9].png")))
    for weight, key in ((None, "probability"), (0.0, "similarity"), (0.5, "score")):
        search.model.config.rerank_weight = weight
        order = Order.of(search)
        found = order.sort(search("a blue circle", top_k=9))
        assert order.key == key
        assert [one[key] for one in found] == sorted((one[key] for one in found), reverse=True)
        shares = list(order.shares(found, "image").values())
        assert shares == sorted(shares, reverse=True) and 0 <= min(shares) and max(shares) <= 1


def test_images_of_the_same_name_are_told_apart() -> None:
    paths = [Path("Fotos", name) for name in ("Rom/IMG_1.JPG", "Köln/IMG_1.jpg", "Köln/IMG_2.jpg", "IMG_3.jpg")]
    assert list(names_of(paths, Path("Fotos")).items()) == [
        ("Fotos/Rom/IMG_1.JPG", "Rom/IMG_1.JPG"),
        ("Fotos/Köln/IMG_1.jpg", "Köln/IMG_1.jpg"),
        ("Fotos/Köln/IMG_2.jpg", "IMG_2"),
        ("Fotos/IMG_3.jpg", "IMG_3"),
    ]


@pytest.mark.parametrize(("weight", "has_maps"), [(None, True), (0.0, False), (0.5, True)])
def test_a_head_that_orders_nothing_explains_nothing(
    place: Path, tmp_path: Path, weight: float | None, has_maps: bool
) -> None:
    """`make photos` trains no matching head: its heat maps would be noise."""
    search, photos = pipeline("image-text-retrieval", model=str(place / "retrieval")), place / "photos"
    search.model.config.rerank_weight = weight
    images = sorted(photos.glob("[0-9].png"))
    search.index_images(images)
    options = parse(["--images", str(photos), "--query", "a blue circle"])
    page = Page(ServedFiles(tmp_path, photos, MAX_UPLOAD), Deadline(60))
    parts = build_page(page, search, None, Shown(images, "9 images"), options).config["components"]
    assert ("look_start" in {part["props"].get("elem_id") for part in parts}) == has_maps
    texts = " ".join(str(part["props"].get("value")) for part in parts if part["type"] == "markdown")
    assert ("orders images by similarity alone" in texts) == (not has_maps)
    assert ("The 16 images with the closest embeddings are ranked." in texts) == has_maps
    assert "whose model knows drawn shapes alone" in texts  # beside photos, the demo's answers mean nothing


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_first_search_and_the_keyboard(browser_page: Any, server: Server, scheme: str) -> None:
    """The page opens with results; text, tabs and buttons need no mouse; dark where the system is."""
    page = browser_page.context.browser.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 900})
    page.set_default_timeout(WAIT)
    page.goto(server.address)
    labels = page.locator("#search_found .caption-label")
    labels.first.wait_for()  # nothing was pressed
    text = page.locator("#search_text textarea, #search_text input")
    assert text.input_value() == "a blue circle"
    assert text.get_attribute("placeholder") == "What you look for in photos, for example: a blue circle"
    assert "Searches 9 of 10 images: 1 damaged left out." in page.locator("body").inner_text()
    numbers = [int(label.split("%")[0]) for label in labels.all_inner_texts()]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) == 8
    before = labels.all_inner_texts()
    page.keyboard.press("Control+A")  # the field has the focus
    page.keyboard.type("a green star above it")
    page.keyboard.press("Enter")
    shown = "[...document.querySelectorAll('#search_found .caption-label')].map(one => one.innerText).join()"
    page.wait_for_function(f"old => {shown} != old", arg=",".join(before))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "search_start"
    for _ in range(6):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.innerText").strip() == "Ask":
            break
    assert page.evaluate("document.activeElement.getAttribute('role')") == "tab"
    page.keyboard.press("Enter")
    page.locator("#ask_start").wait_for()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")
    assert (sum(light) > 600) == (scheme == "light")
    shot(page, f"keyboard_{scheme}")
    page.close()


@pytest.mark.slow
def test_fifty_clients_at_once(place: Path) -> None:
    with running(place, "--max_queue", "64") as one:
        answers = search_at_once(one.address, "a blue circle", 50)
    assert not answers.errors and len(answers.results) == 50
    texts = [[entry["caption"] for entry in result] for result in answers.results]
    assert texts == [texts[0]] * 50 and len(texts[0]) == 8
    assert answers.report().startswith("50 of 50 clients were answered, p50 ")
