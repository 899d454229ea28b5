"""The report of a run: its numbers, curves and images, and that it stays readable and harmless whatever the data."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from run_cases import TINY, run, write_config
from small_models import ANSWERS, save_retrieval, save_vqa
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import run_retrieval
import run_vqa
from dataset_scripts import load_dataset_script
from dataset_scripts.commands.thumbnails import thumbnail
from modeling_albef.training import RankedCandidates, RetrievalResult, RetrievalTrainingArguments, VQAResult
from modeling_albef.training.report.charts import Chart, round_ticks, thin_out
from modeling_albef.training.report.examples import Candidate, Example, example_galleries, hardest_galleries, pick
from modeling_albef.training.report.image_log import caption, panel
from modeling_albef.training.report.pages import LONGEST, TEMPLATES, ThumbnailCache
from modeling_albef.training.report.queries import TIMES, captions, hardest_first, images, queries_of, questions
from modeling_albef.training.report.run_report import curves
from modeling_albef.training.rows import as_rows

sync_api: Any = None if find_spec("playwright") is None else import_module("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
needs_browser = pytest.mark.skipif(not (CHROMIUM and sync_api), reason="the test drives Chromium with playwright")
EMPTY_TAGS = {"meta", "img", "br"}
PARTS, CHARTS = (TEMPLATES.get_template(f"{name}.html.j2").module for name in ("parts", "chart"))


class Page(HTMLParser):
    """What is on a page: tags, tables and names of their rows by their section's heading, charts, cards, figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self.charts: dict[str, dict[str, list[Any]]] = {}
        self.cards: dict[str, list[dict[str, Any]]] = {}
        self.names: dict[str, list[str]] = {}
        self.figures: dict[str, list[str]] = {}
        self.text = ""
        self.heading, self._open = "", list[tuple[str, dict[str, str | None]]]()
        self.feed(text)
        assert not self._open  # every tag was closed

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        fields = dict(attributes)
        self.tags.append((tag, fields))
        if tag not in EMPTY_TAGS:
            self._open.append((tag, fields))
        if tag == "h2":
            self.heading = ""
        elif tag == "tr":
            self.tables.setdefault(self.heading, []).append([])
        elif tag == "figure":
            self.figures.setdefault(self.heading, []).append("")
        elif tag in ("td", "th"):
            self.tables[self.heading][-1].append(("", None))
        elif tag == "data":
            self.tables.get(self.heading, [[("", None)]])[-1][-1] = ("", fields["value"])
        elif tag == "svg":
            self.chart = self.charts.setdefault(fields["aria-label"].split(" against ")[0], {"lines": [], "dots": []})
            self.chart |= {"x": [], "y": [], "x_at": [], "y_at": [], "words": fields["aria-label"]}
        elif tag == "polyline":
            self.chart["lines"].append([tuple(map(float, pair.split(","))) for pair in fields["points"].split()])
        elif tag == "circle":
            self.chart["dots"].append((float(fields["cx"]), float(fields["cy"])))
        elif tag == "path":
            x, y, kind = re.fullmatch(r"M([\d.]+) ([\d.]+)([Hv]).*", fields["d"]).groups()
            self.chart["y_at" if kind == "H" else "x_at"].append(float(y if kind == "H" else x))
        elif tag == "article":
            self.cards.setdefault(self.heading, []).append({"text": "", "images": [], "alt": []})
        elif tag == "img":
            kind, _, data = fields["src"].partition(";base64,")
            image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            assert kind == f"data:image/{image.format.lower()}"
            if any(name == "article" for name, _ in self._open):
                self.cards[self.heading][-1]["images"].append(image)
                self.cards[self.heading][-1]["alt"].append(fields["alt"])
            else:
                self.figures[self.heading][-1] += f"[{fields['alt']}] "

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, fields = self._open[-1] if self._open else ("", {})
        self.text += "" if tag == "style" else data
        if tag == "code" and any(name == "th" for name, _ in self._open):
            self.names.setdefault(self.heading, []).append(data)
        elif tag == "figcaption" and not any(name == "article" for name, _ in self._open):
            self.figures[self.heading][-1] += data
        if tag == "h2":
            self.heading += data
        elif any(name in ("td", "th") for name, _ in self._open) and tag != "code" and self.tables.get(self.heading):
            text, value = self.tables[self.heading][-1][-1]
            self.tables[self.heading][-1][-1] = (text + data, value)
        elif tag == "text" and fields.get("class") in ("x", "y"):
            self.chart[fields["class"]].append(float(data))
        if any(name == "article" for name, _ in self._open):
            self.cards[self.heading][-1]["text"] += data

    def check_harmless(self) -> None:
        """Nothing is fetched, nothing runs."""
        assert not {"script", "link", "iframe", "object", "embed", "base", "form", "use", "a"} & {
            t for t, _ in self.tags
        }
        for _, fields in self.tags:
            assert not {name for name in fields if name.startswith("on") or name in ("href", "srcset", "action")}
            assert fields.get("src", "data:").startswith("data:")


def read(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    assert "http" not in text and "url(" not in text and "@import" not in text
    found = Page(text)
    found.check_harmless()
    return found


def measured(drawn: dict[str, list[Any]]) -> list[tuple[float, float]]:
    """Step and value of each drawn point, read off the ticks as an eye would."""
    slopes = []
    for axis in "xy":
        positions, labels = drawn[f"{axis}_at"], drawn[axis]
        assert len(positions) == len(labels) >= 2 and labels == sorted(labels)
        slopes.append((labels[0], (labels[-1] - labels[0]) / (positions[-1] - positions[0]), positions[0]))
    points = [point for line in drawn["lines"] for point in line]
    return [
        tuple(low + slope * (at - first) for at, (low, slope, first) in zip(p, slopes, strict=True)) for p in points
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run of retrieval, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    changes = {"queue_size": 24, "logging_steps": 2, "report_to": "tensorboard", "report_items": 6, "log_images": 2}
    done = run("run_retrieval.py", [write_config(folder, **changes)])
    return folder / "out", done.stdout


def numbers(page: Page, heading: str) -> dict[tuple[str, str], tuple[str, float]]:
    """Name and split of each number of a table -> its words and its value."""
    head, *rows = page.tables[heading]
    found = {}
    for name, row in zip(page.names[heading], rows, strict=True):
        for (split, _), (text, value) in zip(head[1:], row[1:], strict=True):
            if value is not None:
                found[name, split] = (text.strip(), json.loads(value))
    return found


def test_numbers_are_those_of_the_metrics_file(finished: tuple[Path, str]) -> None:
    """All of them, what was measured apart from times and counts."""
    out, printed = finished
    assert printed.rstrip().endswith(f"report: {out}/report.html")
    results = json.loads((out / "all_results.json").read_text())
    page = read(out / "report.html")
    splits = {"training": "train", "validation": "eval", "test": "test"}

    def key(name: str, split: str) -> str:
        return name if name in ("epoch", "total_flos") else f"{splits[split]}_{name}"

    measured, timed, behind = (numbers(page, name) for name in ("Result", "Times and counts", "Behind the result"))
    shown = {key(*where): value for table in (measured, timed, behind) for where, (_, value) in table.items()}
    assert shown.items() <= results.items()
    others = [name for name in results if not name.endswith(("_interval", "_index"))]
    others = [name for name in others if "chance" not in name]  # those stand beside other numbers
    assert set(others) == shown.keys()
    names = {f"{split}_{name}" for split in ("eval", "test") for name in RetrievalTrainingArguments.METRICS}
    assert names == {key(*where) for where in measured}
    assert {"train_loss", "train_runtime", "eval_runtime", "test_samples_per_second", "epoch"} <= shown.keys()
    for (name, split), (text, value) in measured.items():
        prefix, (direction, _, rest) = splits[split], name.partition("_")
        chance = results[f"{prefix}_chance_r_mean" if name == "r_mean" else f"{prefix}_{direction}_chance_{rest}"]
        low, high = results[f"{prefix}_{name}_interval"]
        words = re.fullmatch(r"([\d.]+) % \(chance ([\d.]+) %, 95 % interval ([\d.]+)\.\.([\d.]+)\)", text)
        assert words and [float(word) for word in words.groups()] == pytest.approx(
            [value, chance, low, high], abs=0.051
        )
    titles = [row[0][0].strip() for row in page.tables["Result"][1:]]
    assert titles[:2] == ["Text R@1", "Text R@5"] and "Image R@10" in titles


def test_ranks_hubs_and_facts_are_on_the_page(finished: tuple[Path, str]) -> None:
    out, _ = finished
    page, results = read(out / "report.html"), json.loads((out / "all_results.json").read_text())
    for title, direction in (("Text", "txt"), ("Image", "img")):
        heading = f"{title} retrieval: ranks of the first right result, test data"
        _, *rows = page.tables[heading]
        assert sum(int(row[1][0]) for row in rows) == results[f"test_{direction}_queries"]
        shares = [float(row[3][0].removesuffix(" %")) for row in rows]
        assert shares[0] == pytest.approx(results[f"test_{direction}_r1"], abs=0.051)
        assert sum(float(row[4][0].removesuffix(" %")) for row in rows) == pytest.approx(100, abs=0.4)
        distinct, count = (results[f"test_{direction}_{name}"] for name in ("distinct_top1", "largest_hub"))
        assert f"{distinct} different" in page.text and f"first for {count} " in page.text
    hub = page.figures["Image retrieval: ranks of the first right result, test data"][0]
    assert hub.startswith(f"[row {results['test_img_largest_hub_index']}] ")
    record = yaml.safe_load((out / "run.yaml").read_text())["run"]
    facts = (record["command"], record["device"], record["git_revision"] or "", torch.__version__, f"{out}/run.yaml")
    for fact in (*facts, "40 images, 80 captions", record["data"]["test"]["fingerprint"], "queue_size", "from scratch"):
        assert fact in page.text
    assert "The splits overlap" not in page.text


def test_curves_are_those_of_the_log(finished: tuple[Path, str]) -> None:
    history = json.loads((finished[0] / "trainer_state.json").read_text())["log_history"]
    charts = read(finished[0] / "report.html").charts
    names = ["loss", "itc_loss", "itm_loss", "learning_rate", "alpha", "temperature"]
    assert list(charts)[: len(names)] == names
    for name in names:
        logged = [(line["step"], line[name]) for line in history if name in line and "loss" in line]
        assert len(logged) == 11  # the first step and every second one
        values = [value for _, value in logged]
        spread = max(values) - min(values) or abs(values[0])
        for (step, value), (drawn_step, drawn_value) in zip(logged, measured(charts[name]), strict=True):
            assert drawn_step == pytest.approx(step, abs=0.05) and drawn_value == pytest.approx(
                value, abs=0.01 * spread
            )
    deciding = [line["eval_r_mean"] for line in history if "eval_r_mean" in line]
    assert [value for _, value in measured(charts["r_mean"])] == pytest.approx(deciding, abs=0.1)


def test_evaluations_are_listed_and_the_best_is_marked(finished: tuple[Path, str]) -> None:
    state = json.loads((finished[0] / "trainer_state.json").read_text())
    lines = [line for line in state["log_history"] if "eval_r_mean" in line]
    head, *rows = read(finished[0] / "report.html").tables["Evaluations during training"]
    titles = [text for text, _ in head]
    assert titles[:2] == ["step", "epoch"] and len(rows) == len(lines) == 2
    for line, row in zip(lines, rows, strict=True):
        cells = dict(zip(titles, row, strict=True))
        assert json.loads(cells["r_mean"][1]) == line["eval_r_mean"]
        assert [json.loads(cells[name][1]) for name in ("step", "epoch")] == [line["step"], line["epoch"]]
        assert ("best" in cells[""][0]) == (line["step"] == state["best_global_step"])


def rank(candidates: list[dict[str, Any]]) -> float:
    return next((rank for rank, one in enumerate(candidates, start=1) if one["correct"]), math.inf)


def test_hardest_queries_come_first_with_their_images(finished: tuple[Path, str]) -> None:
    """By the ranks in predictions.json, which holds all candidates of this run, and the data set's own images."""
    predictions = json.loads((finished[0] / "predictions.json").read_text())
    cards = read(finished[0] / "report.html").cards
    config = TINY["dataset_config"]
    test = load_dataset_script("shapes", config_name="retrieval", split="test", **config)
    owner = {text: row for row, texts in enumerate(test["caption"]) for text in texts}
    ranks = {query["caption"]: rank(query["images"]) for query in predictions["text_to_image"]}
    drawn = cards["Images found for a caption: the hardest, test data"]
    shown = [next(text for text in ranks if one["text"].startswith(text)) for one in drawn]
    worst = {row: max(ranks[text] for text in texts) for row, texts in enumerate(test["caption"])}
    assert len(shown) == len({owner[text] for text in shown}) == 6  # an image has one card
    assert [ranks[text] for text in shown] == sorted(worst.values(), reverse=True)[:6]
    for text, one in zip(shown, drawn, strict=True):
        (query,) = [query for query in predictions["text_to_image"] if query["caption"] == text]
        expected = [int(image["image"]) for image in query["images"]]
        expected += [] if ranks[text] < math.inf else [owner[text]]
        words = ["✓ right" if row == owner[text] else "✗ wrong" for row in expected]
        assert one["alt"] == [f"{word} row {row}" for word, row in zip(words, expected, strict=True)]
        assert all(one["text"].count(word) == words.count(word) for word in words)
        for image, row in zip(one["images"], expected, strict=True):
            assert np.array_equal(np.asarray(image), np.asarray(test[row]["image"].convert("RGB")))
    ranks = {query["image"]: rank(query["texts"]) for query in predictions["image_to_text"]}
    drawn = cards["Captions found for an image: the hardest, test data"]
    shown = [one["alt"][0].removeprefix("row ") for one in drawn]
    assert [ranks[name] for name in shown] == sorted(ranks.values(), reverse=True)[:6]
    for name, one in zip(shown, drawn, strict=True):
        assert all(text in one["text"] for text in test[int(name)]["caption"])


def test_images_are_in_tensorboard(finished: tuple[Path, str]) -> None:
    (folder,) = {path.parent for path in finished[0].glob("runs/*/events*")}
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0}).Reload()
    kinds = [f"{split}/{name}" for split in ("eval", "test") for name in ("text_to_image", "image_to_text")]
    assert sorted(events.Tags()["images"]) == sorted(f"{kind}/{number}" for kind in kinds for number in (0, 1))
    assert [event.step for event in events.Images("eval/text_to_image/0")][:2] == [10, 20]
    image = Image.open(io.BytesIO(events.Images("eval/text_to_image/0")[0].encoded_image_string))
    assert image.width > 5 * 160
    colors = {color for _, color in image.getcolors(1 << 24)}
    assert (179, 38, 30) in colors  # the frame of a wrong one
    text = events.Tensors("test/text_to_image/0/text_summary")[0].tensor_proto.string_val[0].decode()
    query = json.loads((finished[0] / "predictions.json").read_text())["text_to_image"]
    assert any(one["caption"] in text for one in query) and "wrong: image" in text and "right: image" in text


def test_evaluating_a_trained_folder_keeps_its_curves(finished: tuple[Path, str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out, ignore=shutil.ignore_patterns("checkpoint-*", "runs", "report.html"))
    changes = {"model_config": None, "model_name_or_path": str(out), "do_train": False, "report_items": 0}
    run_retrieval.main([write_config(tmp_path, **changes)])
    assert f"report: {out}/report.html" in capsys.readouterr().out
    found = read(out / "report.html")
    assert found.charts == read(finished[0] / "report.html").charts
    assert not found.cards and "img" not in {tag for tag, _ in found.tags}
    (out / "report.html").unlink()
    run_retrieval.main([write_config(tmp_path, **changes, write_report=False)])
    assert not (out / "report.html").exists() and "report: " not in capsys.readouterr().out


def test_settings_out_of_range(tmp_path: Path) -> None:
    for name in ("report_items", "log_images"):
        with pytest.raises(ValueError, match=f"{name} is -1, but must be 0 or more"):
            RetrievalTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: -1})


HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</style></svg><b>bold & brave</b>",
    "x" * 3000,
    "ما لون الدائرة؟ \N{RIGHT-TO-LEFT OVERRIDE}abc",
    "https://example.org/a.png javascript:alert(1)",
]


def test_a_page_of_hostile_splits(tmp_path: Path) -> None:
    """Retrieval with hostile captions and file names, in splits that share images: all of it is text on the page."""
    rows = []
    for number, text in enumerate(HOSTILE):
        name = f"{number}<img src=x onerror=a>.png"
        Image.new("RGB", (60, 40), (40 * number, 0, 99)).save(tmp_path / name)
        rows.append({"image": name, "caption": [text, f"a {number}"]})
    for name in ("val", "test"):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    save_retrieval(tmp_path / "model")
    changes = {"model_config": None, "model_name_or_path": str(tmp_path / "model"), "do_train": False, "dataset": None}
    changes |= {"dataset_config": None, "image_root": str(tmp_path), "run_name": "</pre><script>x</script>"}
    changes |= {"validation_files": str(tmp_path / "val.json"), "test_files": str(tmp_path / "test.json")}
    out = tmp_path / "<b>out"
    run_retrieval.main([write_config(tmp_path, **changes), "--output_dir", str(out)])
    text = (out / "report.html").read_text(encoding="utf-8")
    found = Page(text)
    found.check_harmless()
    assert not {"b", "i"} & {tag for tag, _ in found.tags} and "<script" not in text and text.count("<h1>") == 1
    assert "6 of 6 (100.0 %) test images are in the validation data, too: 0<img src=x onerror=a>.png, 1<" in found.text
    assert "12 of 12 (100.0 %) test captions are in the validation data, too, word for word." in found.text
    assert found.text.index("The splits overlap") < found.text.index("Text R@1")
    assert all(HOSTILE[number][:LONGEST] in found.text for number in range(len(HOSTILE)))


@needs_browser
def test_a_browser_shows_it_without_scrolling_sideways(finished: tuple[Path, str]) -> None:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in ((1280, "light"), (390, "dark"), (320, "light")):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            page.goto(f"file://{finished[0]}/report.html")
            for closed in page.query_selector_all("details"):
                closed.evaluate("details => details.open = true")
            assert page.evaluate("document.documentElement.scrollWidth") == width
            outside = "element => element.getBoundingClientRect().right > innerWidth && !element.closest('.scroll')"
            assert (
                page.evaluate(f"[...document.body.querySelectorAll('*')].filter({outside}).map(e => e.outerHTML)") == []
            )
            assert page.evaluate("[...document.images].every(image => image.naturalWidth)")
            assert page.evaluate("document.images.length") > 20
        browser.close()


def test_questions_of_any_kind(tmp_path: Path) -> None:
    """Hostile questions through a whole evaluation: worst first, escaped, answers with their probability."""
    save_vqa(tmp_path / "model")
    rows = []
    for number, question in enumerate(HOSTILE):
        name = f"{number}<b>&.png"
        Image.new("RGB", (300, 200), (40 * number, 0, 99)).save(tmp_path / name)
        answers = ["red"] * number + ["<i>blue</i>"] * (10 - number)
        rows.append({"image": name, "question": question, "question_id": number, "answer": answers, "dataset": "vqa"})
    (tmp_path / "test.json").write_text(json.dumps(rows))
    changes = {"model_config": None, "model_name_or_path": str(tmp_path / "model"), "do_train": False, "do_eval": False}
    changes |= {"dataset": None, "dataset_config": None, "test_files": str(tmp_path / "test.json")}
    changes |= {"vqa_root": str(tmp_path)}
    run_vqa.main([write_config(tmp_path, **changes)])
    found = Page((tmp_path / "out/report.html").read_text(encoding="utf-8"))
    found.check_harmless()
    assert not {"b", "i"} & {tag for tag, fields in found.tags}
    (cards,) = found.cards.values()  # the others would show the same images again
    assert {one["alt"][0] for one in cards} == {f"{number}<b>&.png" for number in range(len(HOSTILE))}
    answered = {row["question_id"]: row["answer"] for row in json.loads((tmp_path / "out/vqa_result.json").read_text())}
    credit = {0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9}
    order = []
    for one in cards:
        number = int(one["alt"][0][0])
        assert HOSTILE[number][:LONGEST] in one["text"] and len(one["text"]) < 2 * LONGEST
        right = credit.get(number if answered[number] == "red" else 0, 1.0)
        order.append(right)
        word = {0.0: "✗ wrong", 1.0: "✓ right"}.get(right, f"◐ partly right ({100 * right:.0f} %)")
        assert f"{answered[number]} {word}" in one["text"] and "probability 0." in one["text"]
        assert f"<i>blue</i>{TIMES}{10 - number}" in one["text"]
        assert (one["images"][0].size, one["images"][0].format) == ((300, 200), "JPEG")
    assert order == sorted(order) and set(answered.values()) <= set(ANSWERS)  # the list that the model was saved with
    assert [fields for tag, fields in found.tags if tag == "bdi"] and all(
        fields.get("dir") == "auto" for tag, fields in found.tags if tag == "bdi"
    )


def test_an_image_that_vanished_leaves_its_name(tmp_path: Path) -> None:
    Image.new("RGB", (900, 600), "red").save(tmp_path / "here.png")
    rows = [{"image": {"path": str(tmp_path / name), "bytes": None}} for name in ("here.png", 'go"ne<.png')]
    found = tuple(Candidate(row=row, credit=float(row), rank=row + 1, score=1.0) for row in (0, 1))
    examples = [Example("a red wall", None, found, "note"), Example(None, 1, (), "note")]
    text = "".join(PARTS.card(example, ThumbnailCache(rows, thumbnail)) for example in examples)
    shown = Page(text)
    (first, second) = shown.cards[""]
    assert [image.size for image in first["images"]] == [(160, 107)] and not second["images"]
    assert 'go"ne<.png cannot be read' in first["text"] and 'go"ne<.png cannot be read' in second["text"]
    assert str(tmp_path) not in text  # names, no paths
    drawn = panel(examples[0], rows, thumbnail)
    assert drawn.getpixel((84, 80))[0] > 250 and caption(examples[0]).splitlines() == [
        *("a red wall", "note", "1. wrong: image 0 (1.00)", "2. right: image 1 (1.00)")
    ]


def test_both_images_of_a_pair_are_shown(tmp_path: Path) -> None:
    for name, color in (("left.png", "red"), ("right.png", "blue")):
        Image.new("RGB", (400, 400), color).save(tmp_path / name)
    files = [{"path": str(tmp_path / name), "bytes": None} for name in ("left.png", "right.png", "gone.png")]
    rows = [{"image": files[0], "image_2": files[1]}, {"image": files[0], "image_2": files[2]}]
    example = Example("only the left one is red", 0, (Candidate(text="True", credit=1.0),), "")
    cards = "".join(PARTS.card(one, ThumbnailCache(rows, thumbnail)) for one in (example, replace(example, row=1)))
    first, second = Page(cards).cards[""]
    assert first["alt"] == ["left.png", "right.png"]
    assert [image.convert("RGB").getpixel((50, 50)) for image in first["images"]] == [(254, 0, 0), (0, 0, 254)]  # JPEG
    assert second["alt"] == ["left.png"] and "gone.png cannot be read" in second["text"]
    drawn = panel(example, rows, thumbnail)
    assert [drawn.getpixel((at, 80)) for at in (84, 252)] == [(254, 0, 0), (0, 0, 254)]  # JPEG


def draw(name: str, steps: Any, values: list[float]) -> str:
    return str(CHARTS.draw(Chart(name, list(zip(steps, values, strict=True)))))


def test_charts_escape_their_names() -> None:
    drawn = draw("</svg><script>&", [0, 1], [0.0, 1.0])
    assert "<script>" not in drawn and list(Page(drawn).charts) == ["</svg><script>&"]


def test_chart_of_a_known_series() -> None:
    drawn = Page(draw("loss", [0, 10, 20], [0.0, 5.0, 10.0])).charts["loss"]
    assert drawn["y"] == [0, 5, 10] and drawn["x"] == [0, 5, 10, 15, 20]
    assert drawn["lines"] == [[(58, 170), (199, 98), (340, 26)]] == [drawn["dots"]]
    assert "last 10, lowest 0 at step 0, highest 10 at step 20" in drawn["words"]


def test_chart_leaves_out_what_is_not_finite() -> None:
    drawn = Page(draw("loss", range(1, 7), [3.0, 2.0, math.nan, math.inf, 1.0, 2.0])).charts["loss"]
    assert [len(line) for line in drawn["lines"]] == [2, 2] and "2 not finite" in drawn["words"]
    assert [value for _, value in measured(drawn)] == pytest.approx([3, 2, 1, 2])
    assert "no value is finite" in draw("loss", [1], [math.nan])
    assert len(Page(draw("alpha", [5], [0.4])).charts["alpha"]["dots"]) == 1


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (1e-6, 1e-5), (0.4, 0.4), (0, 0), (-3.2, 7.9), (1, 20), (99.99, 100.01), (-1e9, 1e12), (7, 7)],
)
def test_ticks_are_round_and_hold_the_range(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 8 and list(ticks) == sorted(set(ticks))
    slack = 1e-6 * (high - low)
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert all(len(f"{tick:g}") <= 8 for tick in ticks) and len({f"{tick:g}" for tick in ticks}) == len(ticks)


def test_long_curves_keep_their_peaks() -> None:
    points = [(float(step), math.sin(step)) for step in range(50_000)]
    points[31_234] = (31_234.0, 99.0)
    kept = thin_out(points, 500)
    assert len(kept) <= 500 and kept == sorted(set(kept)) and set(kept) <= set(points)
    assert {points[0], points[-1], points[31_234]} <= set(kept)


def test_curves_take_numbers_of_training_lines_alone() -> None:
    history = [
        {"step": 1, "epoch": 0.1, "loss": 2.0, "grad_norm": 1.0, "note": "text"},
        {"step": 1, "eval_r_mean": 3.0},
        {"step": 2, "train_loss": 9.0},
    ]
    assert list(Page(CHARTS.grid(curves(history))).charts) == ["loss", "grad_norm"]
    assert curves([]) == []


def test_tables_round_for_the_eye_alone() -> None:
    found = Page(PARTS.table(("", "b"), [("a", 2), ("b", 1 / 3), ("epoch", 1e-05)])).tables[""]
    assert found[1:] == [
        [("a", None), ("2", "2")],
        [("b", None), ("0.3333", repr(1 / 3))],
        [("epoch", None), ("1e-05", "1e-05")],
    ]
    assert Page(PARTS.table((), [("<b>", "<i>")])).tables[""] == [[("<b>", None), ("<i>", None)]]


def test_hardest_first_in_closed_form() -> None:
    matches = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]]).bool()
    scores = torch.tensor([[9.0, 8, 0], [5, 4, 3], [1, 0, 0], [7, 6, 0], [7, 2, 0], [1, 1, 1], [6, 0, 0]])
    # none found: the surest first; then rank 2; then rank 1 by margin; then right ones, closest first
    assert hardest_first(matches, scores).tolist() == [6, 2, 1, 4, 3, 0, 5]


def test_what_would_have_been_right_is_shown() -> None:
    ids = torch.arange(8).expand(2, 8)
    scores = torch.arange(8, 0, -1.0).expand(2, 8)
    result = RetrievalResult(
        {}, RankedCandidates(ids[:, :1], scores[:, :1]), RankedCandidates(ids, scores), ["a", "b"], torch.tensor([6, 8])
    )
    (gallery,) = hardest_galleries([captions(result)], 9)
    first, second = gallery.examples
    assert first.text == "b" and first.note == "no right one among the 8 candidates"
    assert first.candidates[-1] == Candidate(row=8, credit=1.0) and len(first.candidates) == 6
    assert second.note == "the first right one is at rank 7 of 8"
    assert second.candidates[-1] == Candidate(row=6, credit=1.0, rank=7, score=2.0)
    assert images(result).hardest_first == []  # neither of the two has a caption


def test_an_image_has_one_card() -> None:
    """Five captions of each of ten images; the best ones and the random ones are of other images than the hardest."""
    ids = torch.arange(10).expand(50, 10)
    scores = torch.linspace(1, 0, 10).expand(50, 10)
    owners = torch.arange(50) // 5
    texts = [f"caption {number}" for number in range(50)]
    by_image = RankedCandidates(torch.arange(50).expand(10, 50), torch.linspace(1, 0, 50).expand(10, 50))
    result = RetrievalResult({}, by_image, RankedCandidates(ids, scores), texts, owners)
    hardest, best, random = example_galleries([captions(result)], 6)
    shown = [owners[int(one.text.split()[1])] for gallery in (hardest, best, random) for one in gallery.examples]
    assert shown[:6] == [9, 8, 7, 6, 5, 4] and shown[6:8] == [0, 1]  # the right image's rank is its number
    assert len(shown) == 10 and set(map(int, shown)) == set(range(10))
    assert example_galleries([captions(result)], 6)[2] == random  # the same at every start
    titles = [gallery.title for gallery in example_galleries(queries_of(result, None), 2)]
    assert titles == [
        f"{kind}: {which}"
        for kind in ("Images found for a caption", "Captions found for an image")
        for which in ("the hardest", "the best", "at random")
    ]
    assert pick(range(9), [0, 0, 1, 1, 2, 2, 3, 3, 4], 3, used := {1}) == [0, 4, 6] and used == {0, 1, 2, 3}


class Rows(list):
    """Rows of questions as a data set gives them."""

    column_names = ["question", "answers", "question_type", "image_id"]

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


def test_worst_questions_first() -> None:
    given = [["red"], ["red"], ["blue"], ["blue"], ["red"] + ["blue"] * 9]
    rows = Rows(
        {"question": f"q{n}", "answers": answers, "question_type": "t", "image_id": n}
        for n, answers in enumerate(given)
    )
    answers = [{"question_id": number, "answer": "red"} for number in range(5)]
    result = VQAResult({}, answers, torch.tensor([0.9, 0.5, 0.6, 0.8, 0.7]))
    (gallery,) = hardest_galleries([questions(result, rows)], 5)
    assert [example.text for example in gallery.examples] == ["q3", "q2", "q4", "q1", "q0"]
    assert gallery.examples[0].note == "question type: t" and gallery.examples[2].truths == (
        f"blue{TIMES}9",
        f"red{TIMES}1",
    )
    for row in rows:
        row["image_id"] //= 4  # the first four are of one image
    (gallery,) = hardest_galleries([questions(result, rows)], 5)
    assert [example.text for example in gallery.examples] == ["q3", "q4"]
    for number, row in enumerate(rows):
        row["answers"], row["image_id"] = [], number
    (gallery,) = hardest_galleries([questions(result, rows)], 2)
    assert [example.text for example in gallery.examples] == ["q1", "q2"]
    assert gallery.examples[0].candidates[0].credit is None


def test_questions_without_answers_or_ids(tmp_path: Path) -> None:
    """Rows as the trainers take them: a list without `answers`; two questions of one image file have one card."""
    rows = as_rows([{"image": tmp_path / f"{n // 2}.png", "question": f"q{n}"} for n in range(4)])
    answers = [{"question_id": number, "answer": "red"} for number in range(4)]
    (gallery,) = hardest_galleries([questions(VQAResult({}, answers, torch.tensor([0.9, 0.5, 0.6, 0.8])), rows)], 4)
    assert [example.text for example in gallery.examples] == ["q1", "q2"]
    assert gallery.examples[0].truths == () and gallery.examples[0].candidates[0].credit is None
