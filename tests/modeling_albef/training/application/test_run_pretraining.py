"""The pre-training script: from data to a model that all other scripts start from; shards; recipes."""

from __future__ import annotations

import json
import logging
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from run_cases import ROOT, TINY, refused, write_config
from safetensors.torch import load_file
from shard_cases import image_bytes, served, write_shards, write_tar
from small_models import save_pretraining
from trainer_cases import weights
from transformers import AutoModelForPreTraining

import run_retrieval
import run_vqa
from modeling_albef import AlbefForPreTraining
from run_pretraining import main


def pretrained(folder: Path, **changes: Any) -> str:
    """A tiny run, and its output folder."""
    main([write_config(folder, **{"queue_size": 24, "eval_strategy": "no", "do_predict": False, **changes})])
    return str(folder / "out")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Output of a pre-training on drawn shapes, evaluated after each epoch."""
    return pretrained(tmp_path_factory.mktemp("run"), eval_strategy="epoch", do_predict=True)


def test_what_a_run_leaves(output: str) -> None:
    results = json.loads((Path(output) / "all_results.json").read_text())
    for split in ("eval", "test"):
        parts = [results[f"{split}_{name}_loss"] for name in ("itc", "itm", "mlm")]
        assert results[f"{split}_loss"] == pytest.approx(sum(parts)) and 0 <= results[f"{split}_r_mean"] <= 100
    history = json.loads((Path(output) / "trainer_state.json").read_text())["log_history"]
    assert len([line for line in history if "eval_mlm_loss" in line]) >= 2
    assert {"itc_loss", "itm_loss", "mlm_loss", "alpha", "temperature"} <= history[0].keys()
    model, info = AutoModelForPreTraining.from_pretrained(output, output_loading_info=True)
    assert isinstance(model, AlbefForPreTraining) and not any(info.values())
    assert "report.html" in {path.name for path in Path(output).iterdir()}


@pytest.mark.parametrize(("script", "queue"), [(run_retrieval, {"queue_size": 24}), (run_vqa, {})])
def test_its_output_is_fine_tuned(output: str, tmp_path: Path, script: Any, queue: dict[str, int]) -> None:
    """Nothing but `model_name_or_path` is given, and training starts from its weights."""
    fields = {"model_config": None, "model_name_or_path": output, "max_steps": 1, "learning_rate": "1e-9"}
    script.main([write_config(tmp_path, **fields, **queue, eval_strategy="no", do_predict=False)])
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (output, tmp_path / "out"))
    shared = before.keys() & after.keys()
    assert sum(key.startswith("albef.text_model.") for key in shared) > 40
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in shared if "mlm_head" not in key)


def test_pre_training_goes_on_from_its_output(output: str, tmp_path: Path) -> None:
    fields = {"model_config": None, "model_name_or_path": output, "max_steps": 1, "do_eval": False}
    assert load_file(f"{pretrained(tmp_path, **fields)}/model.safetensors").keys() == (
        load_file(f"{output}/model.safetensors").keys()
    )


def shard_fields(folder: Path, shards: Any, **changes: Any) -> dict[str, Any]:
    save_pretraining(folder / "model")
    rows = [{"image": "0.png", "caption": "a blue circle"}, {"image": "1.png", "caption": "a green star"}]
    for number in range(2):
        (folder / f"{number}.png").write_bytes(image_bytes(90 * number))
    (folder / "val.json").write_text(json.dumps(rows))
    fields = {"dataset": None, "dataset_config": None, "model_config": None, "shards": shards, "max_steps": 6}
    fields |= {"model_name_or_path": str(folder / "model"), "validation_files": str(folder / "val.json")}
    fields |= {"image_root": str(folder), "logging_steps": 1, "shuffle_buffer": 5, "per_device_train_batch_size": 4}
    return {**fields, **changes}


@pytest.mark.slow
def test_shards_over_http_are_resumed_to_the_sample(tmp_path: Path) -> None:
    """Eight shards of six samples, two workers; after step 2 a new process would read on where the first one ended."""
    write_shards(tmp_path / "shards", shards=8)
    saving = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 5, "dataloader_num_workers": 2}
    with served(tmp_path / "shards") as address:
        fields = shard_fields(tmp_path, [f"{address}/{{00..07}}.tar"], **saving, eval_strategy="no", do_predict=False)
        main([write_config(tmp_path, **fields, queue_size=24)])
        checkpoint, again = str(tmp_path / "out/checkpoint-2"), str(tmp_path / "again")
        words = ["--resume_from_checkpoint", checkpoint, "--output_dir", again]
        main([write_config(tmp_path, **fields, queue_size=24), *words])
    one, other = (weights(tmp_path / name / "checkpoint-6") for name in ("out", "again"))
    states = json.loads((tmp_path / "out/checkpoint-2/stream_0.json").read_text())
    assert [state[:2] for state in states["states"]] == [[0, 4], [1, 4]]  # rows that each of the workers gave
    assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())
    assert "eval_mlm_loss" in json.loads((tmp_path / "again/all_results.json").read_text())


def test_bad_samples_of_shards_are_counted_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members: dict[str, bytes] = {}
    for number in range(24):
        members[f"{number:02d}.png"] = b"no image" if number == 5 else image_bytes(number)
        members[f"{number:02d}.json"] = b"{" if number == 6 else b'{"caption": "a blue circle"}'
    fields = shard_fields(tmp_path, [write_tar(tmp_path / "a.tar", members)], eval_strategy="no", do_predict=False)
    with caplog.at_level(logging.WARNING):
        main([write_config(tmp_path, **fields, queue_size=24)])
    history = json.loads((tmp_path / "out/trainer_state.json").read_text())["log_history"]
    assert max(line.get("replaced_images", 0) for line in history) == 2  # 24 rows in six steps: one pass
    assert "a.tar, sample 05' could not be read" in caplog.text and "sample 06'" in caplog.text


def test_shards_with_too_many_bad_samples_are_refused(tmp_path: Path) -> None:
    members = {
        f"{n:03d}.{kind}": image_bytes(n) if kind == "png" and n % 4 else b"a star"
        for n in range(120)
        for kind in ("png", "txt")
    }
    shards = [write_tar(tmp_path / "a.tar", members)]
    fields = shard_fields(tmp_path, shards, max_steps=40, shuffle_buffer=1, eval_strategy="no", do_predict=False)
    message = refused(main, [write_config(tmp_path, **fields, queue_size=24)])
    assert re.match(
        r"2\d of the first 10\d rows of the stream cannot be used, more than 5%; .* raise max_bad_share", message
    ), message


def test_wrong_settings(tmp_path: Path) -> None:
    fields = shard_fields(tmp_path, [str(tmp_path / "none.tar")])
    assert "There is no shard" in refused(main, [write_config(tmp_path, **fields)])
    both = {**fields, "train_files": str(tmp_path / "val.json")}
    assert "give either shards, or train_files" in refused(main, [write_config(tmp_path, **both)])
    no_steps = {**fields, "max_steps": -1}
    assert "give max_steps" in refused(main, [write_config(tmp_path, **no_steps)])
    assert "max_bad_share is 2" in refused(main, [write_config(tmp_path, **{**fields, "max_bad_share": 2})])


def test_the_recipes_are_the_published_ones() -> None:
    """salesforce/ALBEF configs/Pretrain.yaml."""
    published = {
        "image_size": 256,
        "per_device_train_batch_size": 64,
        "num_train_epochs": 30,
        "learning_rate": 1e-4,
        "min_learning_rate": 1e-5,
        "warmup_learning_rate": 1e-5,
        "warmup_steps": 2000,
        "weight_decay": 0.02,
        "alpha": 0.4,
        "alpha_warmup_epochs": 2,
        "momentum": 0.995,
        "queue_size": 65536,
        "mlm_probability": 0.15,
        "augmentation_scale": [0.2, 1.0],
    }
    for name, pairs in (("pretrain_4m", 5.1e6), ("pretrain_14m", 15.2e6)):
        recipe = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
        for field, value in published.items():
            assert (float(recipe[field]) if isinstance(value, float) else recipe[field]) == value
        assert recipe["max_steps"] == pytest.approx(30 * pairs / 512, rel=0.01)
        assert "group_captions" not in recipe


def test_the_own_recipe_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_pretraining(tmp_path / "model")
    folder = tmp_path / "data/own"
    folder.mkdir(parents=True)
    lines = ["file_name,caption"]
    for number in range(6):
        (folder / f"{number}.png").write_bytes(image_bytes(40 * number))
        lines.append(f"{number}.png,a blue circle {number}")
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("\n".join(lines))
    words = ["--model_name_or_path", "model", "--image_size", "32", "--per_device_train_batch_size", "3"]
    words += ["--max_steps", "2", "--dataloader_num_workers", "0", "--queue_size", "6", "--report_to", "none"]
    main([str(ROOT / "configs/pretrain_own.yaml"), *words, "--use_cpu", "--disable_tqdm", "true"])
    assert "eval_r_mean" in json.loads((tmp_path / "output/pretrain_own/all_results.json").read_text())


def test_the_script_is_short_and_its_own() -> None:
    """At most 90 lines; no six lines in a row that another script has, too."""
    scripts = {path.name: path.read_text().splitlines() for path in ROOT.glob("run_*.py")}
    assert len(scripts["run_pretraining.py"]) <= 90 and TINY["do_train"]
    runs = {name: {tuple(lines[n : n + 6]) for n in range(len(lines) - 5)} for name, lines in scripts.items()}
    ends = {tuple(line.strip() for line in run) for run in runs["run_pretraining.py"]}
    shared = [
        run
        for one, other in combinations(runs, 2)
        if "run_pretraining.py" in (one, other)
        for run in runs[one] & runs[other]
    ]
    assert not shared and ends
