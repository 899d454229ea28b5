"""Runs that push: what goes up, what stays, and what happens when the Hub breaks off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, HubServer, serve
from huggingface_hub import HfApi, ModelCard
from run_cases import refused, write_config
from safetensors.torch import load

import run_retrieval
import run_vqa
from modeling_albef.training import find_damage

PUSH = {"push_to_hub": True, "hub_model_id": "user/shapes", "hub_token": TOKEN}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve() as server:
        server.take_over(monkeypatch)
        yield server


def check_clean(files: dict[str, bytes], folder: Path) -> None:
    """No path of this machine, no token, no pickle, no image and no rows of the data."""
    for name, data in files.items():
        assert str(folder).encode() not in data and TOKEN.encode() not in data, name
    suffixes = {Path(name).suffix for name in files} - {""}
    assert suffixes == {".json", ".md", ".py", ".safetensors"}
    assert not {"predictions.json", "vqa_result.json", "training_args.bin"} & {Path(name).name for name in files}


def test_a_run_is_pushed_with_its_card(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"queue_size": 24, "hub_private_repo": True, "hub_strategy": "end", "num_train_epochs": 1}
    changes |= {"hub_license": "mit", "hub_tags": ["first", "second"]}
    run_retrieval.main([write_config(tmp_path, **changes, **PUSH)])
    repository, out = hub.repositories["models", "user/shapes"], tmp_path / "out"
    assert repository.private and repository.messages == ["initial commit", "End of training"]
    files = hub.files("user/shapes")
    check_clean(files, tmp_path)
    assert (out / "report.html").is_file() and "report.html" not in files  # it shows images of the data
    assert files["model.safetensors"] == (out / "model.safetensors").read_bytes()
    printed = capsys.readouterr().out
    assert "on the Hub: " in printed and printed.rstrip().endswith(f"report: {out}/report.html")
    card, measured = ModelCard(files["README.md"].decode()), json.loads((out / "all_results.json").read_text())
    results = {(one.dataset_split, one.metric_name): one.metric_value for one in card.data.eval_results}
    assert results["eval", "Mean recall"] == pytest.approx(measured["eval_r_mean"], abs=1e-3)
    assert results["test", "Text R@1"] == pytest.approx(measured["test_txt_r1"], abs=1e-3)
    assert {one.dataset_name for one in card.data.eval_results} == {"shapes"}
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert card.data.license == "mit" and card.data.tags[2:] == ["first", "second"]
    assert {one.metric_type for one in card.data.eval_results} == {"recall"} and "OptimizerNames" not in str(card)
    assert "- `learning_rate`: 0.001" in card.text and "- `queue_size`: 24" in card.text


def test_every_save_and_whole_checkpoints(hub: HubServer, tmp_path: Path) -> None:
    changes = {"hub_strategy": "checkpoint", "hub_revision": "try", "hub_always_push": True, "do_predict": False}
    run_vqa.main(
        [
            write_config(
                tmp_path,
                **changes,
                **PUSH,
                max_steps=2,
                eval_strategy="no",
                save_steps=1,
                save_strategy="steps",
                do_eval=False,
            )
        ]
    )
    repository = hub.repositories["models", "user/shapes"]
    assert list(hub.files("user/shapes")) == [".gitattributes"]
    assert repository.messages[1:] == [f"Training in progress, step {n}" for n in (1, 2)]  # and at the end nothing new
    files = hub.files("user/shapes", revision="try")
    check_clean({name: data for name, data in files.items() if Path(name).suffix not in (".pt", ".pth")}, tmp_path)
    asked_for = {"optimizer.pt", "teacher/model.safetensors", "trainer_state.json", "model.safetensors"}
    assert asked_for <= {name.removeprefix("last-checkpoint/") for name in files if name.startswith("last-checkpoint/")}
    assert json.loads(files["config.json"])["decoder_config"]["answer_list"]
    assert "auto_map" in json.loads(files["config.json"])
    assert "auto_map" not in json.loads(files["last-checkpoint/config.json"])
    for name, data in files.items():
        path = tmp_path / "pulled" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert find_damage(tmp_path / "pulled/last-checkpoint") is None  # training can go on from it


def test_a_push_that_breaks_off_is_said_and_repeated(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own attempts
    hub.fail("PUT", "/lfs/", status=507)
    changes: dict[str, Any] = {"queue_size": 8, "hub_strategy": "end", "max_steps": 1, "eval_strategy": "no"}
    changes |= {"do_eval": False, "do_predict": False}
    message = refused(run_retrieval.main, [write_config(tmp_path, **changes, **PUSH)])
    out = tmp_path / "out"
    assert "The push to user/shapes failed" in message and "507" in message
    assert f"--model_name_or_path {out} --do_train false" in message
    assert list(hub.files("user/shapes")) == [".gitattributes"]
    for name in ("checksums.json", "model.safetensors.index.json"):  # of another model that was pushed there
        HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id="user/shapes")
    weights = (out / "model.safetensors").read_bytes()
    again = {"model_config": None, "model_name_or_path": str(out), "do_train": False}
    run_retrieval.main([write_config(tmp_path, **{**changes, **PUSH, **again})])
    pushed = load(hub.files("user/shapes")["model.safetensors"])
    assert all((value == pushed[name]).all() for name, value in load(weights).items())
    check_clean(hub.files("user/shapes"), tmp_path)
    assert not {"checksums.json", "model.safetensors.index.json"} & set(hub.files("user/shapes"))


@pytest.mark.parametrize("step", ["/commit/", "/branch/try"])
def test_a_failed_push_on_the_way_does_not_end_the_training(
    hub: HubServer, tmp_path: Path, monkeypatch: Any, step: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.fail("POST", step, status=507)
    changes = {"queue_size": 8, "max_steps": 2, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "no"}
    changes |= {"do_eval": False, "do_predict": False, "hub_always_push": True, "push_code": False}
    run_retrieval.main([write_config(tmp_path, **changes, **PUSH, hub_revision="try")])
    files = hub.files("user/shapes", revision="try")
    assert hub.repositories["models", "user/shapes"].messages[-1] == "Training in progress, step 2"
    assert "model.safetensors" in files and not any(name.endswith(".py") for name in files)


def test_a_wrong_token_is_refused_before_training(hub: HubServer, tmp_path: Path) -> None:
    config = write_config(tmp_path, queue_size=8, **{**PUSH, "hub_token": "hf_wrong"})
    message = refused(run_retrieval.main, [config])
    assert "Invalid user token" in message and "push_to_hub" in message and "user/shapes" in message
    assert not list((tmp_path / "out").glob("checkpoint-*"))
