"""run.yaml: what it holds, what it never holds, and that it repeats its run to the bit."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from run_cases import TINY, run, write_config, write_pictures, write_run
from safetensors.torch import load_file
from small_models import save_retrieval

import run_retrieval
from modeling_albef.training import RetrievalTrainingArguments, VQATrainingArguments
from modeling_albef.training.application import DataArguments, ModelArguments, VQADataArguments, parse_arguments
from modeling_albef.training.application.environment import ROOT, git_revision
from modeling_albef.training.application.run_file import RUN_FILE, differences, given_arguments, write_run_file
from modeling_albef.training.application.yaml_files import read_text, write_text

CLASSES: dict[str, tuple[Any, ...]] = {
    "run_retrieval.py": (ModelArguments, DataArguments, RetrievalTrainingArguments),
    "run_vqa.py": (ModelArguments, VQADataArguments, VQATrainingArguments),
}
TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsT"


def metrics_of(folder: Path) -> dict[str, Any]:
    """All that was measured, without times."""
    results = json.loads((folder / "all_results.json").read_text())
    return {name: value for name, value in results.items() if not name.endswith(("runtime", "_per_second"))}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- repeating


@pytest.fixture(scope="module", params=["run_retrieval.py", pytest.param("run_vqa.py", marks=pytest.mark.slow)])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str]:
    """A script, the folder of a whole run of it, and what it printed."""
    folder, script = tmp_path_factory.mktemp("run"), request.param
    write = write_run if script == "run_retrieval.py" else write_config
    words = ["--max_words", "25", "--model_config.text_config.hidden_dropout_prob", "0.2", "--output_dir"]
    done = run(script, [write(folder, seed=7), *words, str(folder / "an out")])
    return script, folder / "an out", done.stdout + done.stderr


def test_a_run_is_repeated_to_the_bit(finished: tuple[str, Path, str]) -> None:
    """Into a folder beside it; the run itself stays as it is. The repetition can be repeated, too."""
    script, out, _ = finished
    before = contents(out)
    done = run(script, [str(out / RUN_FILE)])
    again = out.with_name("an out-2")
    assert f"The folder {out} holds the run that is repeated: the repetition goes into {again}." in done.stderr
    assert contents(out) == before
    expected = metrics_of(out)
    assert metrics_of(again) == expected and len(expected) > 9
    weights, repeated = (load_file(folder / "model.safetensors") for folder in (out, again))
    assert weights.keys() == repeated.keys() and all(
        torch.equal(value, repeated[name]) for name, value in weights.items()
    )
    predictions = "predictions.json" if script == "run_retrieval.py" else "vqa_result.json"
    assert (again / predictions).read_bytes() == before[predictions]
    first, second = (yaml.safe_load((folder / RUN_FILE).read_text()) for folder in (out, again))
    assert second["run"]["repeats"] == str(out / RUN_FILE) and second["run"]["differs"] == []
    assert second["run"]["data"] == first["run"]["data"] and second["run"]["versions"] == first["run"]["versions"]
    assert {name for name in first if first[name] != second[name]} == {"run", "output_dir"}
    (model_args, *_, args) = parse_arguments(CLASSES[script], [str(again / RUN_FILE)])
    assert args.output_dir == str(out.with_name("an out-2-2")) and args.seed == 7
    assert model_args.model_config["text_config"]["hidden_dropout_prob"] == 0.2


def test_the_record_says_what_the_run_was(finished: tuple[str, Path, str]) -> None:
    script, out, printed = finished
    text = (out / RUN_FILE).read_text()
    assert f"#   accelerate launch {script} '{out}/run.yaml'" in text and f"run: {out}/run.yaml" in printed
    config = read_text(text)
    record = config.pop("run")
    fields = {field.name for one in CLASSES[script] for field in dataclasses.fields(one) if field.init}
    assert config.keys() == fields
    assert shlex.split(record["command"])[0] == script and shlex.split(record["command"])[-1] == str(out)
    assert record["versions"]["torch"] == torch.__version__ and record["processes"] == record["threads"] == 1
    assert record["device"].startswith("CPU") and record["precision"] == "float32" and record["trains"] is True
    sizes = record["data"]
    kind, per_image = ("captions", 2) if script == "run_retrieval.py" else ("questions", 4)
    assert {split: (one["images"], one[kind]) for split, one in sizes.items()} == {
        "train": (40, 40 * per_image), "validation": (12, 12 * per_image), "test": (14, 14 * per_image)
    }  # fmt: skip
    assert len({one["fingerprint"] for one in sizes.values()}) == 3
    assert record["model"]["start"] == "from scratch" and record["model"]["image_size"] == 32
    weights = load_file(out / "model.safetensors")
    assert record["model"]["parameters"] == sum(value.numel() for value in weights.values())


def test_what_the_run_prints(finished: tuple[str, Path, str]) -> None:
    """A summary of few lines before, an estimate after ten steps, and each metric in one table at the end."""
    script, out, printed = finished
    lines = printed.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("run "))
    end = next(number for number, line in enumerate(lines) if line.startswith("time "))
    assert end - start < 12
    summary = "\n".join(lines[start : end + 1])
    steps = json.loads((out / "trainer_state.json").read_text())["max_steps"]
    sizes = read_text((out / RUN_FILE).read_text())["run"]
    for words in (
        f"{steps} steps of 8 rows, 2 epochs",
        "40 images",
        "14 images",
        sizes["device"],
        "float32",
        "32 pixels",
    ):
        assert words in summary
    (estimate,) = [line for line in lines if line.startswith("About ")]
    assert f"for the other {steps - 10} steps" in estimate
    assert "***** " not in printed and "'test_" not in printed  # the library's lists of the same numbers
    name = "Text R@1 " if script == "run_retrieval.py" else "VQA accuracy "
    assert sum(line.startswith(name) for line in lines) == 1
    assert lines[-1].startswith("report: ")


def parsed(folder: Path, *words: str, **changes: Any) -> tuple[Any, ...]:
    """Arguments read from the run.yaml of a run that has left its folder."""
    config = write_config(folder, **changes)
    given = given_arguments(*parse_arguments(CLASSES["run_retrieval.py"], [config]))
    path = write_run_file(folder / "out", given, {"trains": True, "versions": {}}, str(folder / "out"))
    (folder / "out/model.safetensors").write_text("")
    return parse_arguments(CLASSES["run_retrieval.py"], [str(path), *words])


def test_the_folder_of_a_repetition(tmp_path: Path) -> None:
    """A free one, unless the command line names one, allows to overwrite, or goes on with the run itself."""
    out = str(tmp_path / "out")
    assert parsed(tmp_path)[2].output_dir == f"{out}-2"
    (tmp_path / "out-2").mkdir()
    (tmp_path / "out-2/run.yaml").write_text("run: {}")  # a run that broke off at its start
    assert parsed(tmp_path)[2].output_dir == f"{out}-2"
    (tmp_path / "out-2/all_results.json").write_text("{}")
    assert parsed(tmp_path)[2].output_dir == f"{out}-3"
    assert parsed(tmp_path, "--output_dir", "mine")[2].output_dir == "mine"
    _, data_args, args = parsed(tmp_path, "--overwrite_output_dir")
    assert args.output_dir == out and data_args.overwrite_output_dir
    args = parsed(tmp_path, "--resume_from_checkpoint", "last")[2]
    assert (args.output_dir, args.resume_from_checkpoint) == (out, "last")


def test_what_a_repetition_does_only_when_it_is_asked(tmp_path: Path) -> None:
    """The run overwrote, went on and pushed; its repetition does none of it, but starts from a foreign checkpoint."""
    changes = {"overwrite_output_dir": True, "push_to_hub": True, "resume_from_checkpoint": "last"}
    _, data_args, args = parsed(tmp_path, **changes)
    assert (data_args.overwrite_output_dir, args.push_to_hub, args.resume_from_checkpoint) == (False, False, None)
    assert parsed(tmp_path, "--push_to_hub", **changes)[2].push_to_hub
    for checkpoint, kept in (("out/checkpoint-5", False), ("other/checkpoint-5", True)):
        name = str(tmp_path / checkpoint)
        assert parsed(tmp_path, resume_from_checkpoint=name)[2].resume_from_checkpoint == (name if kept else None)


def test_changes_on_the_command_line(tmp_path: Path) -> None:
    model_args, _, args = parsed(tmp_path, "--learning_rate", "3e-4", "--model_config.projection_dim", "24")
    assert args.learning_rate == 3e-4
    assert model_args.model_config == {**TINY["model_config"], "projection_dim": 24}
    model_args = parsed(tmp_path, "--model_name_or_path", "a/b")[0]
    assert (model_args.model_name_or_path, model_args.model_config) == ("a/b", {})


def test_a_field_of_another_version_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parsed(tmp_path)
    path = tmp_path / "out/run.yaml"
    path.write_text(path.read_text() + "\nforgotten_field: 3\n")
    with pytest.raises(Exception, match="has the field 'forgotten_field', which is not known"):
        parse_arguments(CLASSES["run_retrieval.py"], [str(path)])
    path.write_text(path.read_text().replace("versions: {}", "versions: {transformers: 5.19.0}"))
    with caplog.at_level("WARNING"):
        parse_arguments(CLASSES["run_retrieval.py"], [str(path)])
    assert "has no forgotten_field: left out of the repetition" in caplog.text


@pytest.mark.slow
def test_other_data_is_said(tmp_path: Path) -> None:
    """One caption differs, and one image, in its pixels alone; on the screen, in the record and in the report."""
    changes = {"dataset": None, "dataset_config": None, **write_pictures(tmp_path), "max_steps": 1, "report_items": 2}
    run("run_retrieval.py", [write_run(tmp_path, **changes)])
    rows = json.loads((tmp_path / "val.json").read_text())
    rows[2]["caption"][1] = "another caption"
    (tmp_path / "val.json").write_text(json.dumps(rows))
    done = run("run_retrieval.py", [str(tmp_path / "out/run.yaml")])
    first, second = (read_text((tmp_path / f"{name}/run.yaml").read_text())["run"] for name in ("out", "out-2"))
    assert first["data"]["train"] == second["data"]["train"]
    prints = [one["data"]["test"]["fingerprint"] for one in (first, second)]
    sentence = f"the test data has changed (fingerprint {prints[0]} then, {prints[1]} now)"
    assert prints[0] != prints[1] and sentence in second["differs"]
    assert f"This run repeats {tmp_path}/out/run.yaml, but" in done.stderr and sentence in done.stderr
    assert sentence in (tmp_path / "out-2/report.html").read_text()
    assert "Not the run that it repeats" not in (tmp_path / "out/report.html").read_text()


def test_differences_in_words() -> None:
    then = {"device": "A", "processes": 2, "versions": {"torch": "1", "numpy": "2"}, "git_revision": "x", "data": {}}
    now = {**then, "device": "B", "versions": {"torch": "1", "numpy": "3"}}
    assert differences(then, then) == [] == differences(now, {})
    assert differences(now, then) == ["numpy: 2 then, 3 now", "device: A then, B now"]
    assert differences(now, {"data": [1], "versions": "text", "device": "B"}) == []  # a file that somebody edited


# ---- values


@pytest.mark.parametrize("script", sorted(CLASSES))
@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.1 + 0.2, "weight_decay": 1e-320, "warmup_steps": 100, "max_steps": -1, "seed": 0},
        {"run_name": "1e-5", "tokenizer": "no", "image_root": "null"},
        {"run_name": "07", "tokenizer": " a: b #c ", "image_root": "ä\N{SNOWMAN}\U0001f600"},
        {"run_name": "1:30", "tokenizer": "'\"\\", "image_root": "-x"},
        {"run_name": "2020-01-01", "tokenizer": "line\nline\ttab", "image_root": "~"},
        {"report_to": ["tensorboard"], "lora_targets": ["query", "1e3", "true"], "include_for_metrics": []},
        {"report_to": "all", "eval_strategy": "steps", "save_strategy": "steps"},
        {"lr_scheduler_kwargs": {"a": 1e-7, "b": "1e-7", "c": None, "d": {"e": [1, 2.5, True, None, "no"]}}},
        {"accelerator_config": {"even_batches": False}, "metric_for_best_model": None, "disable_tqdm": None},
        {"do_train": False, "augmentation": False, "bf16": False, "gradient_checkpointing": True, "alpha": 0},
        {"train_files": ["a.json", "1.5", "b c.json"], "dataset": None, "dataset_config": None},
        {"dataset_config": {"num_train": 40, "note": ""}, "max_rows": 10**18, "data_dir": None},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_values_come_back_as_they_were(script: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """By the instances themselves: every field of the three classes, of a file that is read, written and read again."""
    first = parse_arguments(CLASSES[script], [write_config(tmp_path, **changes)])
    given = given_arguments(*first)
    path = write_run_file(tmp_path / "elsewhere", given, {"trains": True, "versions": {}}, str(first[2].output_dir))
    second = parse_arguments(CLASSES[script], [str(path)])
    for one, other in zip(first, second, strict=True):
        for field in dataclasses.fields(one):
            value, back = getattr(one, field.name), getattr(other, field.name)
            is_same = value == back and isinstance(value, str | bool) == isinstance(back, str | bool)
            assert is_same, field.name
    again = given_arguments(*second)
    assert again.changed == given.changed and again.fields == given.fields


def test_arguments_made_by_hand(tmp_path: Path) -> None:
    """A script of one's own may make the dataclasses itself."""
    made = (
        ModelArguments(model_name_or_path="a/b"),
        DataArguments(dataset="shapes", dataset_config={"num_train": 5}),
        RetrievalTrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, learning_rate=1e-3, hub_token=TOKEN),
    )
    path = write_run_file(tmp_path / "out", given_arguments(*made), {"trains": True, "versions": {}}, "out")
    assert TOKEN not in path.read_text()
    model_args, data_args, args = parse_arguments(CLASSES["run_retrieval.py"], [str(path)])
    assert (model_args.model_name_or_path, data_args.dataset_config) == ("a/b", {"num_train": 5})
    assert args.learning_rate == 1e-3 and args.eval_strategy == made[2].eval_strategy


def test_written_text_is_read_back() -> None:
    shared: list[Any] = [1, "a"]
    values = {
        "x": shared,
        "y": shared,
        "1e5": "1e5",
        "t": (1, 2),
        "p": Path("a/b"),
        "d": torch.float16,
        "n": float("inf"),
    }
    back = read_text(write_text(values))
    assert back == {**values, "t": [1, 2], "p": "a/b", "d": "torch.float16"} and list(back) == list(values)
    loop: dict[str, Any] = {"token": "x"}
    loop["self"] = loop
    assert read_text(write_text(loop))["self"]["self"]["token"] is None


# ---- secrets


def test_no_secret_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it was given; the whole folder but the library's pickle is searched."""
    save_retrieval(tmp_path / "model")
    changes = {"model_config": None, "model_name_or_path": str(tmp_path / "model"), "do_train": False, "do_eval": False}
    changes |= {"lr_scheduler_kwargs": {"password": "pa55word", "of": [{"api_key": "k3y"}]}, "run_name": f"by {TOKEN}x"}
    for number, words in enumerate((["--hub_token", "s3cret"], ["--hub_token=s3cret"], ["--hub_tok", "s3 cret'"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        argv = [write_config(folder, **changes), *words]
        monkeypatch.setattr(sys, "argv", ["run_retrieval.py", *argv])
        run_retrieval.main()
        files = contents(folder / "out")
        assert {"run.yaml", "report.html"} <= files.keys() and "training_args.bin" not in files
        for name, content in files.items():
            assert not [word for word in ("s3cret", "s3 cret", "pa55word", "k3y", TOKEN) if word.encode() in content], (
                name
            )
        record = read_text(files["run.yaml"].decode())
        assert (
            record["hub_token"] is None and "HIDDEN" in record["run"]["command"] and record["run_name"] == "by HIDDEN"
        )
        assert record["lr_scheduler_kwargs"] == {"password": None, "of": [{"api_key": None}]}
        parse_arguments(CLASSES["run_retrieval.py"], [str(folder / "out/run.yaml")])


# ---- where it is written


def test_an_evaluation_keeps_the_record_of_the_training(tmp_path: Path) -> None:
    save_retrieval(tmp_path / "out")
    changes = {"model_config": None, "model_name_or_path": str(tmp_path / "out"), "do_train": False, "do_eval": False}
    run_retrieval.main([write_config(tmp_path, **changes)])
    record = tmp_path / "out/run.yaml"
    assert (
        read_text(record.read_text())["run"]["trains"] is False and not (tmp_path / "out/run_evaluation.yaml").exists()
    )
    record.write_text(kept := record.read_text().replace("trains: false", "trains: true"))
    run_retrieval.main([write_config(tmp_path, **changes)])
    assert record.read_text() == kept
    evaluation = read_text((tmp_path / "out/run_evaluation.yaml").read_text())
    assert evaluation["run"]["trains"] is False and evaluation["do_train"] is False
    assert f"{tmp_path}/out/run_evaluation.yaml" in (tmp_path / "out/report.html").read_text()


def test_a_run_that_broke_off_at_its_start_can_be_started_again(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.yaml").write_text("run: {}")
    run_retrieval.main([write_run(tmp_path, max_steps=1, do_eval=False, do_predict=False, eval_strategy="no")])
    assert read_text((tmp_path / "out/run.yaml").read_text())["max_steps"] == 1


def test_a_path_cannot_become_a_field(tmp_path: Path) -> None:
    """The comment that has the command is one line, whatever the folder is called."""
    given = given_arguments(*parse_arguments(CLASSES["run_retrieval.py"], [write_config(tmp_path)]))
    folder = tmp_path / "a\nseed: 5\x85learning_rate: 1"
    path = write_run_file(folder, given, {"trains": True, "versions": {}}, str(folder))
    args = parse_arguments(CLASSES["run_retrieval.py"], [str(path)])[2]
    assert (args.seed, args.learning_rate, args.output_dir) == (42, 1e-3, str(folder))


def test_the_revision_is_that_of_this_code(tmp_path: Path) -> None:
    (tmp_path / "installed").mkdir()
    assert git_revision(tmp_path) is None and git_revision(ROOT / "tests") is None
    revision = git_revision()
    assert (ROOT / ".git").exists() == (revision is not None)
    assert revision is None or (len(revision.split()[0]) == 40 and int(revision.split()[0], 16))
