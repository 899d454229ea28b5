"""run_vqa.py as users start it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import tiny_config
from PIL import Image
from run_cases import ROOT, refused, run, two_processes, write_config
from safetensors.torch import load_file

from modeling_albef import AlbefError, AlbefForImageTextRetrieval
from modeling_albef.training import VQATrainingArguments
from modeling_albef.training.application import ModelArguments, VQADataArguments, load_candidates, parse_arguments
from modeling_albef.training.application.data import without_unknown_types
from modeling_albef.training.evaluation.vqa import check_answers
from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer
from run_vqa import main

SCRIPT = "run_vqa.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run in one process, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    done = run(SCRIPT, [write_config(folder, save_total_limit=9)])
    return folder / "out", done.stdout


def read_answers(out: Path) -> list[dict[str, Any]]:
    answers = json.loads((out / "vqa_result.json").read_text())
    ids = [row["question_id"] for row in answers]
    assert len(set(ids)) == len(ids) == 14 * 4  # every question once
    assert all(set(row) == {"question_id", "answer"} and isinstance(row["answer"], str) for row in answers)
    return answers


def test_a_run_leaves_model_metrics_and_answers(finished: tuple[Path, str]) -> None:
    out, printed = finished
    for line in (f"model: {out}", f"metrics: {out}/all_results.json", f"predictions: {out}/vqa_result.json"):
        assert line in printed
    read_answers(out)
    assert set(json.loads((out / "question_types.json").read_text())) == {"color", "shape", "yes/no", "number"}
    metrics = json.loads((out / "all_results.json").read_text())
    assert {"eval_vqa_accuracy", "test_vqa_accuracy_yes_no", "test_question_only_accuracy"} <= set(metrics)
    for split in ("eval", "test"):  # of training and test data that have the same questions
        assert 0 < metrics[f"{split}_majority_accuracy"] <= metrics[f"{split}_question_only_accuracy"] < 100
        assert metrics[f"{split}_baselines_learned_from"] == "the training data"
    assert metrics["test_vqa_rules"] == metrics["eval_vqa_rules"] == "vqa" and metrics["test_fold_answers"] is True
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    epochs = [line["eval_vqa_accuracy"] for line in history if "eval_vqa_accuracy" in line]
    assert metrics["eval_vqa_accuracy"] == max(epochs) and len(epochs) == 2  # the best of two epochs is the model
    assert json.loads((out / "processor_config.json").read_text())["text_type"] == "question"


@pytest.mark.slow
def test_evaluation_alone_gives_the_same_in_one_and_two_processes(finished: tuple[Path, str], tmp_path: Path) -> None:
    answer_list = tmp_path / "answers.json"
    answer_list.write_text(json.dumps(["yes", "no", "0", "1", "2", "3", "red", "blue", "circle"]))
    for name, launcher in (("one", ()), ("two", two_processes())):
        config = write_config(
            tmp_path,
            model_config=None,
            model_name_or_path=str(finished[0]),
            do_train=False,
            answer_list=str(answer_list),
            output_dir=str(tmp_path / name),
        )
        run(SCRIPT, [config], launcher)
    assert read_answers(tmp_path / "one") == read_answers(tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "test_results.json").read_text()) for name in ("one", "two"))
    assert one["test_vqa_accuracy"] == two["test_vqa_accuracy"]
    assert one["test_baselines_learned_from"] == "the split itself" and 0 < one["test_question_only_accuracy"] < 100
    names = [name for name in one if name.startswith("test_") and not name.endswith(("runtime", "_per_second"))]
    assert len(names) > 6 and [one[name] for name in names] == [two[name] for name in names]


def test_a_run_that_writes_its_answers(finished: tuple[Path, str], tmp_path: Path) -> None:
    fields = {"model_config": None, "model_name_or_path": str(finished[0]), "do_train": False, "do_eval": False}
    main([write_config(tmp_path, **fields), "--inference", "generate", "--generation_num_beams", "2"])
    metrics = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert metrics["test_inference"] == "generate" and 0 <= metrics["test_vqa_accuracy"] <= 100
    assert json.loads((finished[0] / "test_results.json").read_text())["test_inference"] == "rank"
    read_answers(tmp_path / "out")
    assert "but must be rank or generate" in refused(main, [write_config(tmp_path), "--inference", "guess"])


@pytest.mark.slow
def test_resume_is_exact(finished: tuple[Path, str], tmp_path: Path) -> None:
    first = min(finished[0].glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.copytree(first, tmp_path / "out" / first.name)
    run(SCRIPT, [write_config(tmp_path, save_total_limit=9), "--resume_from_checkpoint", "last"])
    expected, found = (load_file(folder / "model.safetensors") for folder in (finished[0], tmp_path / "out"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.slow
def test_resume_is_exact_with_pictures_shared(tmp_path: Path) -> None:
    """Killed in the middle of an epoch; a batch of eight has the four questions of each of two pictures."""
    config = write_config(tmp_path, group_by_image=True, save_strategy="steps", save_steps=7, eval_strategy="no")
    run(SCRIPT, [config, "--do_predict", "false", "--do_eval", "false", "--save_total_limit", "9"])
    whole = load_file(tmp_path / "out/model.safetensors")
    shutil.copytree(tmp_path / "out/checkpoint-7", tmp_path / "again/checkpoint-7")
    words = ["--do_predict", "false", "--do_eval", "false", "--output_dir", str(tmp_path / "again")]
    run(SCRIPT, [config, *words, "--resume_from_checkpoint", "last"])
    again = load_file(tmp_path / "again/model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def write_questions(folder: Path) -> dict[str, Any]:
    """ALBEF's files: VQA v2 rows with ten answers, Visual Genome rows with a plain string, a test without answers."""
    rows = []
    for number in range(10):
        Image.new("RGB", (40, 50), (25 * number, 0, 250 - 25 * number)).save(folder / f"{number}.png")
        row = {"dataset": "vqa", "image": f"{number}.png", "question": f"What is {number}?", "question_id": number}
        rows.append({**row, "answer": ["red"] * 6 + ["blue"] * 4})
    genome = [{"dataset": "vg", "image": "3.png", "question": "What colour?", "answer": "red"}] * 3
    test = [{name: value for name, value in row.items() if name != "answer"} for row in rows]
    for name, content in (("train", rows), ("vg", genome), ("test", test), ("list", ["red", "blue", "dark blue"])):
        (folder / f"{name}.json").write_text(json.dumps(content))
    files = {f"{split}_files": str(folder / f"{split}.json") for split in ("train", "test")}
    files["train_files"] = [files["train_files"], str(folder / "vg.json")]
    sources = {"dataset": None, "dataset_config": None, "vqa_root": str(folder), "vg_root": str(folder)}
    return {**sources, **files, "answer_list": str(folder / "list.json"), "eval_strategy": "no", "do_eval": False}


@pytest.mark.slow
def test_annotation_files_from_a_retrieval_model(tmp_path: Path) -> None:
    """The decoder starts from the fusion layers of a model without one; the test has no answers, so no score."""
    tokenizer = build_tokenizer(["what is red blue dark colour"])
    config = tiny_config(vocab_size=len(tokenizer))
    AlbefForImageTextRetrieval(config).save_pretrained(tmp_path / "model")
    AlbefProcessor(AlbefImageProcessor(), tokenizer).save_pretrained(tmp_path / "model")
    changes = {"model_config": None, "model_name_or_path": str(tmp_path / "model"), "num_train_epochs": 1}
    run(SCRIPT, [write_config(tmp_path, **write_questions(tmp_path), **changes)])
    answers = json.loads((tmp_path / "out/vqa_result.json").read_text())
    assert [row["question_id"] for row in answers] == list(range(10))
    assert {row["answer"] for row in answers} <= {"red", "blue", "dark blue"}
    assert "test_vqa_accuracy" not in json.loads((tmp_path / "out/all_results.json").read_text())


@pytest.mark.slow
def test_a_table_in_any_spelling_is_scored_and_said(tmp_path: Path, finished: tuple[Path, str]) -> None:
    """Yes, yes, No, no ended in 0.0: every answer is one that some annotator wrote, so folded it is 0 or 100."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    rows = [f"a.png,is there a red circle?,{answer}" for answer in ["Yes", "yes", "YES", "yes"]]
    (tmp_path / "test.csv").write_text("\n".join(["file_name,question,answers", *rows]))
    (tmp_path / "answers.json").write_text(json.dumps(["Yes", "yes"]))
    changes = {"model_config": None, "model_name_or_path": str(finished[0]), "do_train": False, "do_eval": False}
    changes |= {"dataset": "own_data", "dataset_config": None, "data_dir": str(tmp_path)}
    config = write_config(tmp_path, **changes, answer_list=str(tmp_path / "answers.json"))
    for words, rules, is_folded, accuracy in (
        ([], "vqa", True, 100),
        (["--fold_answers", "false"], "vqa", False, 25),
        (["--fold_answers", "false", "--vqa_rules", "albef"], "albef", False, 50),
    ):
        done = run(SCRIPT, [config, *words])
        metrics = json.loads((tmp_path / "out/test_results.json").read_text())
        assert (metrics["test_vqa_rules"], metrics["test_fold_answers"]) == (rules, is_folded)
        assert metrics["test_vqa_accuracy"] == accuracy
        assert "one spelling is kept: 'yes' is 'Yes'" in done.stderr


def test_bad_files_are_refused(tmp_path: Path) -> None:
    files = write_questions(tmp_path)
    words = [write_config(tmp_path, **files)]
    (tmp_path / "list.json").write_text(json.dumps(["red", "red"]))
    assert "list.json" in refused(main, words)
    rows = json.loads((tmp_path / "train.json").read_text())
    rows[2]["answer"], rows[3]["question_id"] = [], 0
    (tmp_path / "train.json").write_text(json.dumps(rows))
    message = refused(main, words)
    assert "train.json, row 3" in message and "train.json, row 4" in message


def test_a_model_without_fusion_layers_is_refused(tmp_path: Path) -> None:
    message = refused(main, [write_config(tmp_path), "--model_config.text_config.num_fusion_layers", "0"])
    assert message.startswith("model_config is refused: text_config.num_fusion_layers is 0, and a new answer decoder")


def test_evaluation_alone_takes_the_answers_of_the_model(tmp_path: Path) -> None:
    from small_models import ANSWERS, save_vqa

    save_vqa(tmp_path / "model")
    assert load_candidates(VQADataArguments(dataset="shapes"), {}, str(tmp_path / "model")) == ANSWERS
    with pytest.raises(AlbefError, match="Candidate answers are needed"):
        load_candidates(VQADataArguments(dataset="shapes"), {})


def test_an_answer_that_is_too_long_is_told_before_training(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "question": "what?", "question_id": n, "answer": ["red " * (1 + 99 * n)]} for n in (0, 1)
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    words = ["--train_files", str(tmp_path / "train.json"), "--image_root", str(tmp_path), "--do_predict", "false"]
    words += ["--do_eval", "false", "--eval_strategy", "no", "--per_device_train_batch_size", "2"]
    (tmp_path / "list.json").write_text('["red"]')
    for more in ([], ["--answer_list", str(tmp_path / "list.json")]):
        message = refused(main, [write_config(tmp_path), *words, *more])
        assert message.startswith("The answer 'red red red") and "decoder reads at most" in message


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "The answer list is empty"),
        (["red", "red"], "'red' twice"),
        (["red", "日本"], "'日本', which the tokenizer cannot represent"),
        (["red", " "], "' ', which the tokenizer cannot represent"),
    ],
)
def test_candidates_that_cannot_be_ranked(answers: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_answers(answers, build_tokenizer(["red"]))


def test_recipe_is_the_published_one(tmp_path: Path) -> None:
    words = [str(ROOT / "configs/vqa.yaml"), "--use_cpu", "--output_dir", str(tmp_path), "--model_name_or_path", "x"]
    _, data_args, args = parse_arguments((ModelArguments, VQADataArguments, VQATrainingArguments), words)
    published = VQATrainingArguments(output_dir=str(tmp_path), use_cpu=True, eval_strategy="no")
    for name in ("learning_rate", "min_learning_rate", "warmup_learning_rate", "warmup_steps", "num_train_epochs"):
        assert getattr(args, name) == getattr(published, name)
    assert (args.learning_rate, args.warmup_steps, args.num_train_epochs, args.k_test) == (2e-5, 400, 8, 128)
    assert (args.per_device_train_batch_size, args.per_device_eval_batch_size, data_args.vg_weight) == (32, 16, 0.5)


def test_types_of_questions_are_used_where_all_are_known(tmp_path: Path) -> None:
    """VQA v2's own files tell them, ALBEF's do not."""
    from data_cases import write_vqa_albef, write_vqa_images, write_vqa_official

    from dataset_scripts import load_dataset_script

    for name, write in (("official", write_vqa_official), ("albef", write_vqa_albef)):
        write_vqa_images(tmp_path / name)
        write(tmp_path / name)
        rows = load_dataset_script("vqa_v2", data_dir=tmp_path / name, cache_dir=tmp_path / "cache", split="train")
        columns = without_unknown_types(rows).column_names
        assert ("question_type" in columns, "answer_type" in columns) == (name == "official", name == "official")
