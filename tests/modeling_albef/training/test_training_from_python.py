"""The page on training from Python does what it says, from a file to the Hub, line by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hub_server import serve
from optuna_stand_in import provide_optuna
from PIL import Image
from run_cases import readme_block
from small_models import WORDS, save_retrieval, save_vqa

from modeling_albef import AlbefForImageTextRetrieval


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models, and a file of captions of twelve pictures."""
    save_retrieval(tmp_path / "output/demo_retrieval")
    save_vqa(tmp_path / "output/demo_vqa")
    lines = []
    for number in range(12):
        Image.new("RGB", (40, 30), (20 * number, 90, 255 - 20 * number)).save(tmp_path / f"{number}.png")
        captions = [WORDS[number % 4], WORDS[(number + 1) % 4]][: 1 + number % 2]
        lines.append(json.dumps({"image": f"{number}.png", "caption": captions}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    main = readme_block("recall_at_3,").replace("USER/NAME", "user/mine")
    code = [line for line in main.splitlines() if line.strip()]
    assert len(code) <= 25
    names: dict[str, Any] = {}
    with serve() as hub:
        hub.take_over(monkeypatch)
        exec(main, names)
        files = hub.files("user/mine")
    trainer = names["trainer"]
    evaluations = [line for line in trainer.state.log_history if "eval_new_r_mean" in line and "loss" not in line]
    assert {"model.safetensors", "README.md", "processor_config.json"} <= set(files)
    assert 3 <= len(evaluations) <= 7  # one more than the epochs, or stopped before
    assert trainer.state.best_metric == max(line["eval_new_r_mean"] for line in evaluations[:-1])
    card = files["README.md"].decode()
    assert "eval_new" in card and "eval_known" in card
    assert AlbefForImageTextRetrieval.from_pretrained(trainer.state.best_model_checkpoint)
    printed = float(capsys.readouterr().out.strip().splitlines()[-1])
    assert 0 <= printed <= 100

    provide_optuna(monkeypatch)
    exec(readme_block("hyperparameter_search(space"), names)
    assert names["best"].hyperparameters.keys() == {"learning_rate", "momentum"}
    assert 0 <= names["best"].objective <= 100
    exec(readme_block("asked = VQATrainer"), names)
    assert names["asked"].state.global_step == 2
