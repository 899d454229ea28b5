"""`configs/photos_small.yaml` on folders as people have them: no validation data, other languages, files that break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from encoder_cases import cased_tokenizer, save_encoders
from PIL import Image
from run_cases import ROOT, refused

import run_retrieval
from dataset_scripts import load_dataset_script
from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training.application import DataArguments
from modeling_albef.training.application.data import hold_out
from processing import AlbefProcessor

WORDS = ["große Straße", "el niño pequeño", "зелёный ёж", "漢字の看板", "ein süßer Hund", "новый дом"]


def photo_folder(folder: Path, count: int = 20) -> list[str]:
    """Images with captions in several scripts under German headings; one image is broken. Returns the captions."""
    folder.mkdir()
    captions = [f"{WORDS[number % 6]} {number % 7}" for number in range(count)]
    lines = ["Datei;Beschreibung"]
    for number, caption in enumerate(captions):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"Foto {number}.jpg")
        lines += [f"Foto {number}.jpg;{caption}", f"Foto {number}.jpg;{caption} wieder"]
    broken = folder / "Foto 3.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    (folder / "Liste.csv").write_text("\n".join(lines), encoding="utf-8")
    return captions


def words_of(tmp_path: Path, captions: list[str], **changes: Any) -> list[str]:
    encoders = save_encoders(tmp_path, captions, cased_tokenizer([*captions, *map(str.lower, captions)]))
    columns = {"image_column": "Datei", "caption_column": "Beschreibung"}
    settings = {**encoders, "data_dir": str(tmp_path / "fotos"), "dataset_config": columns, "image_size": 32}
    settings |= {"num_text_layers": 1, "num_fusion_layers": 1, "per_device_train_batch_size": 8, "num_train_epochs": 1}
    settings |= {"output_dir": str(tmp_path / "out"), "report_to": "none", **changes}
    recipe = yaml.safe_load((ROOT / "configs" / "photos_small.yaml").read_text())
    path = tmp_path / "photos.yaml"
    path.write_text(yaml.safe_dump({**recipe, **settings}, allow_unicode=True), encoding="utf-8")
    return [str(path)]


def test_folder_without_validation_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = photo_folder(tmp_path / "fotos")
    run_retrieval.main(words_of(tmp_path, captions))
    metrics = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert metrics["eval_txt_queries"] == 4 and metrics["eval_img_queries"] == 8  # a fifth of 19 images
    assert 0 <= metrics["eval_r_mean_at_start"] <= 100 and metrics["eval_rerank_weight"] == 0
    out = capsys.readouterr().out
    assert "before training" in out and "order of eval: similarity alone" in out and "chance" in out
    assert AlbefForImageTextRetrieval.from_pretrained(tmp_path / "out").config.rerank_weight == 0


def test_letters_of_other_languages_reach_the_tokens(tmp_path: Path) -> None:
    """The clean-up of captions removes none of them, and the tokenizer of the encoder knows them."""
    captions = photo_folder(tmp_path / "fotos")
    run_retrieval.main(words_of(tmp_path, captions))
    processor = AlbefProcessor.from_pretrained(tmp_path / "out")
    for text, letters in (("Große", "ß"), ("niño", "ñ"), ("новый", "й"), ("漢字の看板", "漢"), ("süßer", "ü")):
        ids = processor(text=[text])["input_ids"][0]
        tokens = processor.tokenizer.convert_ids_to_tokens(ids)[1:]
        assert "[UNK]" not in tokens and any(letters in token for token in tokens), (text, tokens)


def test_the_choice_of_the_last_evaluation_is_saved(tmp_path: Path) -> None:
    captions = photo_folder(tmp_path / "fotos")
    run_retrieval.main(words_of(tmp_path, captions, itm_weight=1, rerank="auto"))
    metrics = json.loads((tmp_path / "out" / "all_results.json").read_text())
    config = AlbefForImageTextRetrieval.from_pretrained(tmp_path / "out").config
    assert config.rerank_weight == metrics["eval_rerank_weight"]
    assert metrics["eval_r_mean"] == max(metrics["eval_rerank_weights"].values())


def test_a_share_of_the_images_is_held_out(tmp_path: Path) -> None:
    photo_folder(tmp_path / "fotos")
    columns = {"image_column": "Datei", "caption_column": "Beschreibung"}
    rows = load_dataset_script(
        "own_data", "retrieval", data_dir=str(tmp_path / "fotos"), split="train", **columns, drop_bad_rows=True
    )
    kept, held_out = hold_out(rows, 0.25)
    assert len(held_out) == round(0.25 * len(rows)) and len(kept) + len(held_out) == len(rows)
    assert not set(kept["image_id"]) & set(held_out["image_id"])
    assert hold_out(rows, 0.25)[1]["image_id"] == held_out["image_id"]  # the same in every run
    few = rows.select([0, 1])
    assert [len(part) for part in hold_out(few, 0.9)] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"validation_share": 1.5}, "between 0 and 1"), ({"validation_share": 0.2, "streaming": True}, "not streamed")],
)
def test_refusals(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        DataArguments(dataset="own_data", **changes)


def test_no_data_at_all(tmp_path: Path) -> None:
    photo_folder(tmp_path / "fotos")
    (tmp_path / "fotos" / "Liste.csv").unlink()
    assert "finds no" in refused(run_retrieval.main, words_of(tmp_path, WORDS))
