"""The contact sheet holds the right images with their texts, needs no other file, and hides no broken image."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from dataset_scripts.__main__ import main
from dataset_scripts.contact_sheet import contact_sheet  # as people's scripts import it


class Page(HTMLParser):
    """Texts and images of each figure."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.figures: list[dict[str, Any]] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "figure":
            self.figures.append({"text": "", "images": []})
        if tag == "img":
            kind, _, data = dict(attributes)["src"].partition(";base64,")
            image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            assert kind == f"data:image/{image.format.lower()}"
            self.figures[-1]["images"].append(image)
        if tag == "li":
            self.handle_data("|")

    def handle_data(self, data: str) -> None:
        if self.figures:
            self.figures[-1]["text"] += data.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MULTIPLICATION SIGN}", "x")


def stored_image(grey: int, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> dict[str, Any]:
    data = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(data, kind)
    return {"bytes": data.getvalue(), "path": f"folder/{grey}.png"}


def table(**columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def test_captions_of_images_evenly_over_the_data() -> None:
    rows = table(image=[stored_image(n) for n in range(9)], caption=[[f"a {n}", f"b {n}"] for n in range(9)])
    page = Page(contact_sheet(rows, "mine", 3))
    assert [figure["images"][0].getpixel((0, 0)) for figure in page.figures] == [(n, n, n) for n in (0, 4, 8)]
    assert page.figures[1]["text"].startswith("|a 4|b 4row 4 · 4.png · 8 x 8")
    assert len(Page(contact_sheet(rows, "mine", 99)).figures) == 9


def test_rows_of_a_image_are_together_with_their_answers_counted() -> None:
    rows = table(
        image=[stored_image(1), stored_image(2), stored_image(1)],
        image_id=[5, 3, 5],
        question=["Is it red?", "Where?", "How many?"],
        answers=[["no", "yes", "no"], [], ["2"]],
    )
    first, second = Page(contact_sheet(rows, "mine")).figures
    assert first["text"].startswith("|Is it red?no x 2, yes x 1|How many?2rows 0, 2 · image 5 · 1.png")
    assert second["text"].startswith("|Where?no answerrow 1 · image 3")


def test_long_lists_are_cut_and_say_so() -> None:
    many = table(image=[stored_image(1)], caption=[[f"c{n}" for n in range(13)]])
    assert "|c9|and 3 morerow 0" in Page(contact_sheet(many, "mine")).figures[0]["text"]
    rows = table(image=[stored_image(1)] * 12, image_id=[0] * 12, caption=[f"c{n}" for n in range(12)])
    assert "|c9|and 2 morerows 0 to 11" in Page(contact_sheet(rows, "mine")).figures[0]["text"]


def test_texts_are_no_markup_and_nothing_is_fetched() -> None:
    text = contact_sheet(table(image=[stored_image(1)], caption=["<script>x</script> & <b>"]), "<i>mine</i>")
    page = Page(text)
    assert "|<script>x</script> & <b>" in page.figures[0]["text"]
    assert not {"script", "link", "i", "b", "iframe"} & set(page.tags)
    assert re.findall(r"(?:src|href)=.{5}|url[(]|@import", text) == ['src="data']
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_large_images_become_small() -> None:
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)).save(noise, "PNG")
    rows = table(image=[{"bytes": noise.getvalue(), "path": None}], caption=["x"])
    (image,) = Page(contact_sheet(rows, "mine")).figures[0]["images"]
    assert (image.size, image.format) == ((480, 360), "JPEG")


def test_a_broken_image_is_shown_as_such() -> None:
    rows = table(image=[stored_image(1), {"bytes": b"no image", "path": "x/bad.jpg"}], caption=["a", "b"])
    good, bad = Page(contact_sheet(rows, "mine")).figures
    assert len(good["images"]) == 1 and not bad["images"]
    assert bad["text"].startswith("Image 'x/bad.jpg' is no image that Pillow knows") and "|b" in bad["text"]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    out = tmp_path / "pages" / "page.html"
    sizes = ["--dataset_config", '{"num_train": 5, "num_validation": 2, "num_test": 3}']
    command = ["show", "shapes", "--config_name", "vqa", *sizes, "--split", "test", "--out", str(out)]
    assert main([*command, "--n", "2"]) == 0
    assert f"Wrote {out}" in capsys.readouterr().out
    assert len(Page(out.read_text(encoding="utf-8")).figures) == 2
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    assert main([*command, "--n", "0"]) == 1
    assert "--n is 0, but must be at least 1" in capsys.readouterr().err


def test_names_of_files_are_text() -> None:
    """A file's name, where its image cannot be read and where it can, is never markup."""
    name = "<script>alert(1)<b>&amp;.png"
    good = stored_image(3) | {"path": name}
    for image in (good, good | {"bytes": b"no image"}):
        rows = datasets.Dataset.from_dict({"image": [image], "caption": [["a"]]}).cast_column("image", datasets.Image())
        page = Page(contact_sheet(rows.cast_column("image", datasets.Image(decode=False)), "mine", 1))
        assert "script" not in page.tags and name in page.figures[0]["text"]
