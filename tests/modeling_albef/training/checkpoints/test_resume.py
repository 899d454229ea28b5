"""What a run resumes from: a whole checkpoint of its own, with its own words, and the sums of its log."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import tiny_config
from run_cases import refused, write_pictures, write_run
from safetensors.torch import load_file, save_file
from small_models import ANSWERS, WORDS
from trainer_cases import InOrder, collate, logged, make_trainer, random_rows
from transformers import TrainerCallback

import run_retrieval
import run_vqa
from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval
from modeling_albef.training import RetrievalTrainer, SettingError, find_damage, last_checkpoint
from modeling_albef.training.checkpoints.manifest import write_manifest
from modeling_albef.training.checkpoints.resume import check_words
from modeling_albef.training.lora import add_lora
from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer

STEPS = {"save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints after 1, 2 and 3 steps."""
    folder = tmp_path_factory.mktemp("run")
    make_trainer(folder, **STEPS, max_steps=3).train()
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


# ---- without a manifest


def test_without_a_manifest_a_checkpoint_counts_as_damaged(copy: Path) -> None:
    """A bit that flipped there would load other weights, and nothing would say so."""
    newest = copy / "checkpoint-3"
    (newest / "manifest.json").unlink()
    flip(newest / "model.safetensors")
    assert find_damage(newest) == "manifest.json is missing"
    assert last_checkpoint(copy) == str(copy / "checkpoint-2")
    with pytest.raises(SettingError, match=r"checkpoint-3 is damaged, manifest\.json is missing: give another"):
        make_trainer(copy, **STEPS).train(resume_from_checkpoint=str(newest))
    trainer = make_trainer(copy, **STEPS, max_steps=3)
    trainer.train(resume_from_checkpoint=True)
    assert (copy / "damaged-checkpoint-3").is_dir() and find_damage(newest) is None
    write_manifest(copy / "damaged-checkpoint-3")
    assert find_damage(copy / "damaged-checkpoint-3") is None  # who vouches for it may have it


@pytest.mark.parametrize("entries", ["{}", "[]", "null", '{"trainer_state.json": 3}', "[" * 9000])
def test_a_manifest_that_lists_nothing_is_damage(copy: Path, entries: str) -> None:
    (copy / "checkpoint-3/manifest.json").write_text(entries)
    assert "manifest.json" in str(find_damage(copy / "checkpoint-3"))


def test_a_trainer_of_ones_own_script_checks_the_files_too(copy: Path) -> None:
    flip(copy / "checkpoint-3/model.safetensors")
    with pytest.raises(SettingError, match=r"is damaged, model\.safetensors has other content than was written"):
        make_trainer(copy, **STEPS).train(resume_from_checkpoint=str(copy / "checkpoint-3"))


def test_where_all_checkpoints_are_damaged_nothing_starts_anew_unasked(copy: Path, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        flip(copy / f"checkpoint-{step}/optimizer.pt")
    before = sorted(path.name for path in copy.iterdir())
    config = write_run(tmp_path, output_dir=str(copy), do_eval=False, do_predict=False, eval_strategy="no", max_steps=1)
    words = [config, "--resume_from_checkpoint", "last"]
    message = refused(run_retrieval.main, words)
    assert message.startswith(f"No checkpoint of {copy} is whole (checkpoint-3: optimizer.pt has other content")
    assert message.endswith("put a whole one there, or start anew with --overwrite_output_dir.")
    assert sorted(path.name for path in copy.iterdir()) == before
    run_retrieval.main([*words, "--overwrite_output_dir"])
    kept = {path.name for path in copy.glob("*checkpoint-*")}
    assert {"damaged-checkpoint-1", "damaged-checkpoint-2", "damaged-checkpoint-3"} < kept  # renamed, not removed
    assert json.loads((copy / "trainer_state.json").read_text())["global_step"] == 1


def test_an_evaluation_leaves_checkpoints_alone(copy: Path, tmp_path: Path) -> None:
    flip(copy / "checkpoint-3/optimizer.pt")
    words = [write_run(tmp_path, output_dir=str(copy)), "--do_train", "false", "--resume_from_checkpoint", "last"]
    assert "There is no model at 'no/such'" in refused(run_retrieval.main, [*words, "--model_name_or_path", "no/such"])
    assert {path.name for path in copy.iterdir()} == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}


def test_a_name_that_no_file_has(copy: Path) -> None:
    """Half a surrogate pair, in Python."""
    with pytest.raises(SettingError, match="is not a checkpoint: give --resume_from_checkpoint a folder"):
        make_trainer(copy, **STEPS).train(resume_from_checkpoint=str(copy / "\ud83d"))


# ---- checkpoints of others


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_objects_in_a_foreign_checkpoint_are_not_loaded(copy: Path, tmp_path: Path, name: str, how: str) -> None:
    folder = copy / "checkpoint-2"
    payload = {"state": Payload(tmp_path / "ran")}
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    if how == "torch":
        torch.save(payload, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(payload))
    write_manifest(folder)
    with pytest.raises(SettingError, match="holds Python objects, which are not loaded, since they can run code") as e:
        make_trainer(copy, **STEPS).train(resume_from_checkpoint=str(folder))
    assert str(folder) in str(e.value) and "weights_only" not in str(e.value) and not (tmp_path / "ran").exists()


def foreign(folder: Path, name: str) -> None:
    """Writes a file that can be read and is none of this run."""
    weights = load_file(folder / "model.safetensors")
    head = "itm_head.weight"
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    changes: dict[str, Any] = {
        "other sizes": lambda: save_file({**weights, head: weights[head][:, 1:].clone()}, folder / "model.safetensors"),
        "fewer weights": lambda: save_file(
            {name: value for name, value in weights.items() if name != head}, folder / "model.safetensors"
        ),
        "more weights": lambda: save_file({**weights, "more": weights[head].clone()}, folder / "model.safetensors"),
        "other optimizer": lambda: torch.save({**optimizer, "param_groups": []}, folder / "optimizer.pt"),
        "no optimizer": lambda: torch.save([1, 2], folder / "optimizer.pt"),
        "random numbers": lambda: torch.save({"python": 3}, folder / "rng_state.pth"),
        "no archive": lambda: (folder / "scheduler.pt").write_bytes(b"PK\3\4" + bytes(100)),
        "no tensors": lambda: (folder / "model.safetensors").write_bytes(b"\xff" * 64),
        "state": lambda: (folder / "trainer_state.json").write_text('{"global_step": 2, "unknown": 1}'),
        "state without fields": lambda: (folder / "trainer_state.json").write_text('{"global_step": "2"}'),
        "log sums": lambda: (folder / "log_sums_0.json").write_text('{"world_size": 1}'),
        "log sums that are a list": lambda: (folder / "log_sums_0.json").write_text("[]"),
    }
    changes[name]()
    write_manifest(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other sizes", r"The weights of .*size mismatch for itm_head\.weight"),
        ("fewer weights", r"lacks 1 weights of this one and has 0 others \(itm_head\.weight\)"),
        ("more weights", r"lacks 0 weights of this one and has 1 others \(more\)"),
        ("other optimizer", r"optimizer\.pt or scheduler\.pt of .*cannot be used by this run"),
        ("no optimizer", r"optimizer\.pt or scheduler\.pt of .*cannot be used by this run"),
        ("random numbers", "The states of the random numbers of .*cannot be used by this run"),
        ("no archive", r"optimizer\.pt or scheduler\.pt of "),
        ("no tensors", "The weights of .*cannot be used by this run"),
        ("state", r"trainer_state\.json of .*cannot be used by this run"),
        ("state without fields", r"trainer_state\.json"),
        ("log sums", r"log_sums_0\.json does not hold the sums of a log"),
        ("log sums that are a list", r"log_sums_0\.json does not hold the sums of a log"),
    ],
)
def test_files_of_another_run_are_a_sentence(copy: Path, name: str, message: str) -> None:
    foreign(copy / "checkpoint-2", name)
    with pytest.raises(SettingError, match=message):
        make_trainer(copy, **STEPS).train(resume_from_checkpoint=str(copy / "checkpoint-2"))


def test_adapters_are_not_left_out_in_silence(tmp_path: Path) -> None:
    """Without the option of its start the run would go on with other weights."""
    model = AlbefForImageTextRetrieval(tiny_config())
    add_lora(model, 2)
    make_trainer(tmp_path, model, **STEPS, max_steps=1).train()
    with pytest.raises(SettingError, match=r"The checkpoint is of another model: it lacks .* such as lora_rank"):
        make_trainer(tmp_path, AlbefForImageTextRetrieval(tiny_config())).train(resume_from_checkpoint=True)


# ---- the log


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3, 4, 5, 6])
def test_the_first_line_after_a_resume_has_all_steps_since_the_one_before(tmp_path: Path, step: int) -> None:
    options = {**STEPS, "logging_steps": 4, "logging_first_step": False, "num_train_epochs": 3}
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    shutil.copytree(tmp_path / f"whole/checkpoint-{step}", tmp_path / f"again/checkpoint-{step}")
    again = make_trainer(tmp_path / "again", **options)
    again.train(resume_from_checkpoint=True)
    assert [line["step"] for line in logged(whole)] == [4, 8, 12]
    assert logged(again) == logged(whole)


class Replaced(TrainerCallback):
    """Counts three images of the first step as replaced."""

    def __init__(self, trainer: RetrievalTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._num_replaced_images += 3 * (state.global_step == 0)


def test_counts_of_faults_go_on(tmp_path: Path) -> None:
    """Steps that were left out before the resume, and how many of them in a row, count."""
    rows = random_rows(16)
    for row in (1, 5):
        rows[row]["pixel_values"] = torch.full_like(rows[row]["pixel_values"], float("nan"))
    options = {**STEPS, "non_finite_loss": "skip", "logging_steps": 1, "num_train_epochs": 1}
    lines = {}
    for name in ("whole", "again"):
        plain = make_trainer(tmp_path / name, rows=rows, **options)
        trainer = InOrder(plain.model, plain.args, train_dataset=rows, data_collator=collate)
        if name == "whole":
            trainer.add_callback(Replaced(trainer))
        else:
            shutil.copytree(tmp_path / "whole/checkpoint-2", tmp_path / "again/checkpoint-2")
        trainer.train(resume_from_checkpoint=name == "again" or None)
        lines[name] = logged(trainer)
    assert [line["skipped_steps"] for line in lines["again"]] == [1, 2, 2, 2]
    assert [line["replaced_images"] for line in lines["again"]] == [3, 3, 3, 3]
    whole, again = (json.dumps(lines[name], sort_keys=True) for name in ("whole", "again"))  # NaN is NaN
    assert whole == again
    sums = json.loads((tmp_path / "again/checkpoint-2/log_sums_0.json").read_text())
    assert sums["skipped_in_a_row"] == 2


def test_sums_of_another_number_of_processes_start_anew(copy: Path) -> None:
    path = copy / "checkpoint-2/log_sums_0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "world_size": 2, "skipped_steps": 7}))
    write_manifest(copy / "checkpoint-2")
    trainer = make_trainer(copy, **STEPS, max_steps=3)
    trainer.train(resume_from_checkpoint=str(copy / "checkpoint-2"))
    assert "skipped_steps" not in logged(trainer)[-1]


# ---- words


def with_words(folder: Path, words: list[str], **options: Any) -> RetrievalTrainer:
    processor = AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(words))
    plain = make_trainer(folder, AlbefForImageTextRetrieval(tiny_config()), **STEPS, **options)
    rows = random_rows(16)
    return RetrievalTrainer(
        plain.model, plain.args, train_dataset=rows, data_collator=collate, processing_class=processor
    )


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    """One corrected word moves the ids of those behind it in the alphabet."""
    with_words(tmp_path, WORDS, max_steps=1).train()
    corrected = [text.replace("blue", "cyan") for text in WORDS]
    other = with_words(tmp_path, corrected)
    with pytest.raises(SettingError, match=r"The tokenizer is not the one .* words have other ids, such as '.*cyan'"):
        other.train(resume_from_checkpoint=True)
    assert other.state.global_step == 0
    with_words(tmp_path, WORDS[::-1], max_steps=2).train(resume_from_checkpoint=True)  # the same words


def test_other_candidate_answers_are_refused(tmp_path: Path) -> None:
    def config(answers: list[str]) -> AlbefConfig:
        return AlbefConfig(decoder_config={"answer_list": answers})

    config(ANSWERS).save_pretrained(tmp_path)
    check_words(None, config(ANSWERS), str(tmp_path))
    check_words(None, tiny_config(), str(tmp_path))
    with pytest.raises(SettingError, match=r"1 are gone and 1 new \('cyan', 'red'\): give the old ones"):
        check_words(None, config(["cyan", *ANSWERS[1:]]), str(tmp_path))
    with pytest.raises(SettingError, match="they have another order"):
        check_words(None, config(ANSWERS[::-1]), str(tmp_path))


ONE_STEP = {"do_eval": False, "do_predict": False, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 1}
ONE_STEP |= {"dataset": None, "dataset_config": None, "max_steps": 1, "save_total_limit": 9}


def vocabulary(checkpoint: Path) -> dict[str, int]:
    return AlbefProcessor.from_pretrained(checkpoint).tokenizer.get_vocab()


def test_a_run_from_scratch_keeps_its_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caption was corrected and rows were added, whose words would change ids and the sizes of the model."""
    for name in ("transformers", "modeling_albef"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    config = write_run(tmp_path, **ONE_STEP, **write_pictures(tmp_path))
    run_retrieval.main([config])
    rows = json.loads((tmp_path / "train.json").read_text())
    rows[0]["caption"] = "Azure 0, a!"
    rows.append({**rows[1], "caption": "aardvark below the zeppelin"})
    (tmp_path / "train.json").write_text(json.dumps(rows))
    with caplog.at_level(logging.WARNING, "transformers"):
        run_retrieval.main([config, "--resume_from_checkpoint", "last", "--max_steps", "2"])
    one, two = (vocabulary(tmp_path / f"out/checkpoint-{step}") for step in (1, 2))
    assert one == two == vocabulary(tmp_path / "out") and "zeppelin" not in two
    assert "The training texts have 5 words that" in caplog.text and "'zeppelin'" in caplog.text
    model = AlbefForImageTextRetrieval.from_pretrained(tmp_path / "out")
    assert model.config.text_config.vocab_size == len(one)


def test_a_tokenizer_that_was_named_is_compared(tmp_path: Path) -> None:
    for name, words in (("old", WORDS), ("new", [*WORDS, "a cyan thing"])):
        build_tokenizer(words).save_pretrained(tmp_path / name)
    config = write_run(tmp_path, **ONE_STEP, **write_pictures(tmp_path))
    run_retrieval.main([config, "--tokenizer", str(tmp_path / "old")])
    again = [config, "--resume_from_checkpoint", "last", "--max_steps", "2", "--tokenizer"]
    assert "The tokenizer is not the one that" in refused(run_retrieval.main, [*again, str(tmp_path / "new")])
    run_retrieval.main([*again, str(tmp_path / "old")])


def write_questions(folder: Path, color: str) -> dict[str, str]:
    write_pictures(folder)
    rows = [
        {"image": f"{number}.png", "question": f"what color is {number}?", "question_id": number, "answer": [answer]}
        for number, answer in enumerate([color, "blue", "green"] * 4)
    ]
    (folder / "questions.json").write_text(json.dumps(rows))
    return {"train_files": str(folder / "questions.json"), "image_root": str(folder)}


def test_a_run_of_questions_keeps_its_answers(tmp_path: Path) -> None:
    config = write_run(tmp_path, **{**ONE_STEP, "queue_size": None}, **write_questions(tmp_path, "red"))
    run_vqa.main([config])
    write_questions(tmp_path, "crimson")
    (tmp_path / "list.json").write_text('["crimson", "blue", "green"]')
    again = [config, "--resume_from_checkpoint", "last", "--max_steps", "2"]
    message = refused(run_vqa.main, [*again, "--answer_list", str(tmp_path / "list.json")])
    assert "The candidate answers are not those that" in message and "('crimson', 'red')" in message
    run_vqa.main(again)
    for folder in ("out/checkpoint-1", "out/checkpoint-2", "out"):
        config = AlbefConfig.from_pretrained(tmp_path / folder)
        assert config.decoder_config.answer_list == ["blue", "green", "red"]
    assert vocabulary(tmp_path / "out/checkpoint-1") == vocabulary(tmp_path / "out")


def test_another_model_on_resume_is_a_sentence(tmp_path: Path) -> None:
    config = write_run(tmp_path, **ONE_STEP, **write_pictures(tmp_path))
    run_retrieval.main([config])
    again = [config, "--resume_from_checkpoint", "last", "--max_steps", "2", "--model_config.projection_dim", "8"]
    message = refused(run_retrieval.main, again)
    assert "cannot be used by this run" in message and "size mismatch for albef." in message
    assert "resume with the settings that it was written with" in message
