"""Recipes that are no published ones are started on a few rows in the form that their data is published in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from data_cases import VQA, write_vqa_images, write_vqa_official
from PIL import Image
from run_cases import ROOT
from small_models import save_retrieval, save_vqa

import run_retrieval
import run_vqa

TINY = [
    "--image_size",
    "32",
    "--dataloader_num_workers",
    "0",
    "--per_device_train_batch_size",
    "1",
    "--report_to",
    "none",
    "--disable_tqdm",
    "true",
]
TINY += ["--use_cpu", "--output_dir", "out", "--model_name_or_path", "model"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes name folders below the current one."""
    monkeypatch.chdir(tmp_path)


def start(main: Callable[[list[str]], None], recipe: str, *words: str) -> dict[str, Any]:
    """Run a recipe and return its metrics, with what its record says was used."""
    main([str(ROOT / "configs" / recipe), *TINY, *words])
    return json.loads(Path("out/all_results.json").read_text())


def write_image(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 50), (60 * shade % 256, 90, 120)).save(path)


def test_zero_shot_needs_the_test_images_alone() -> None:
    """Neither training nor validation data; the model stays as it is."""
    rows = []
    for number in range(4):
        image = f"flickr30k-images/{number}.jpg"
        write_image(Path("data/flickr30k") / image, number)
        rows.append({"image": image, "caption": [f"a {color} circle" for color in ("blue", "red")]})
    Path("data/flickr30k/flickr30k_test.json").write_text(json.dumps(rows))
    save_retrieval(Path("model"))
    results = start(run_retrieval.main, "retrieval_flickr30k_zero_shot.yaml")
    assert results["test_txt_r10"] == results["test_img_r10"] == 100  # of four images
    assert not any(name.startswith(("train", "eval")) for name in results) and not list(
        Path("out").glob("checkpoint-*")
    )


def test_okvqa() -> None:
    """Its files have the form of VQA v2's; the questions of val2014 are the test."""
    folder = Path("data/okvqa")
    folder.mkdir(parents=True)
    write_vqa_images(Path("data/coco"))
    write_vqa_official(folder)
    for path in folder.iterdir():
        path.rename(folder / path.name.removeprefix("v2_"))
    save_vqa(Path("model"))
    results = start(run_vqa.main, "okvqa.yaml", "--max_steps", "1")
    assert results["train_loss"] > 0 and not any(name.startswith("eval") for name in results)
    answers = json.loads(Path("out/vqa_result.json").read_text())
    assert [row["question_id"] for row in answers] == [n for n, _, subset, *_ in VQA if subset == "val2014"]
    assert {row["answer"] for row in answers} <= {"a table", "table", "yes", "no"}  # of the training questions
    assert results["test_vqa_accuracy"] == 0 and results["test_fold_answers"] is False


def test_vizwiz() -> None:
    """A list of rows a split, the answers of ten people each; the test has none."""
    for number, split in enumerate(("train", "val", "test")):
        row: dict[str, Any] = {"image": f"VizWiz_{split}_00000000.jpg", "question": "What color is the circle?"}
        write_image(Path("data/vizwiz/images") / row["image"], number)
        if split != "test":
            given = ["red"] * 8 + ["blue", "unanswerable"]
            row |= {"answers": [{"answer": answer, "answer_confidence": "yes"} for answer in given]}
            row |= {"answer_type": "other", "answerable": 1}
        Path(f"data/vizwiz/{split}.json").write_text(json.dumps([row]))
    save_vqa(Path("model"))
    results = start(run_vqa.main, "vizwiz.yaml", "--max_steps", "1")
    (answer,) = json.loads(Path("out/vqa_result.json").read_text())
    assert answer["question_id"] == 0
    assert answer["answer"] in {"red", "blue", "unanswerable"} and results["train_loss"] > 0
    possible = {"red": 100, "blue": 30, "unanswerable": 30}  # as the official evaluation counts ten answers
    assert any(results["eval_vqa_accuracy"] == pytest.approx(value, abs=0.01) for value in possible.values())


@pytest.mark.parametrize("name", ["okvqa", "vizwiz"])
def test_what_they_share_with_vqa_v2(name: str) -> None:
    """Fine-tuning goes on from a model of VQA v2: the same but shorter, at a lower rate, without a warm-up."""
    recipes = {one: yaml.safe_load((ROOT / f"configs/{one}.yaml").read_text()) for one in (name, "vqa")}
    for field in ("alpha", "momentum", "k_test", "weight_decay", "per_device_train_batch_size", "image_size"):
        assert recipes[name][field] == recipes["vqa"][field]
    assert recipes[name]["warmup_steps"] == 0
