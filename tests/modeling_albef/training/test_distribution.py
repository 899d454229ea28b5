"""Two processes against one: what the mathematics says is equal is equal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import two_process_cases as cases
from run_cases import ONE_THREAD, ROOT, run, two_processes, write_config
from safetensors.torch import load_file

from benchmarks.soak import descendants
from modeling_albef.training import last_checkpoint


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and facts of two processes."""
    folder = tmp_path_factory.mktemp("two")
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, *two_processes(), str(ROOT / "tests/two_process_cases.py"), str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **ONE_THREAD, **environment}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "tensors.pt", weights_only=True), json.loads((folder / "facts.json").read_text())


def assert_same(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    assert expected.keys() == found.keys()
    assert max(value.abs().max() for value in expected.values()) > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_two_processes_are_an_accumulated_step_of_retrieval(together: Any, tmp_path: Path) -> None:
    """Each half is contrasted with itself alone, in both."""
    assert_same(cases.retrieval_step(tmp_path, 2), together[0]["retrieval"])


def test_two_processes_one_and_an_accumulated_step_are_the_same_for_questions(together: Any, tmp_path: Path) -> None:
    joint = cases.vqa_step(tmp_path / "joint", 4, 1)
    assert_same(joint, together[0]["vqa"])
    assert_same(joint, cases.vqa_step(tmp_path / "accumulated", 2, 2))


def test_global_negatives_make_the_matching_loss_that_of_the_joint_batch(together: Any) -> None:
    joint = cases.matching_gradients(0, 1)
    kept = {name: value for name, value in joint.items() if "key.bias" not in name}  # zero but for rounding
    assert_same(kept, {name: value for name, value in together[0]["matching"].items() if name in kept})


def test_all_rows_enter_the_queue_in_the_order_of_the_processes(together: Any, tmp_path: Path) -> None:
    options = {**cases.SGD, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    trainer = cases.retrieval_trainer(tmp_path, cases.random_rows(4), **options)
    trainer.train()
    for name, value in trainer.queue.state_dict().items():
        torch.testing.assert_close(together[0]["queue"][name], value, atol=1e-6, rtol=0)
    assert together[0]["queue"]["image_ids"][:5].tolist() == [0, 1, 2, 3, -100]


def test_students_teachers_and_queues_stay_equal(together: Any) -> None:
    facts = together[1]["run"]
    for name in ("students", "teachers", "queues"):
        assert facts[name] == [True] * facts["steps"]


def test_an_uneven_last_batch_ends_the_epoch(together: Any) -> None:
    """Nine rows in batches of two for two processes: three steps, the last one filled up with rows of the start."""
    facts = together[1]["run"]
    assert facts["steps"] == 3
    assert facts["queue_ids"] == [0, 1, -100, 3, 4, 5, 6, 7, 8, 0, 1, 2] or facts["queue_ids"][:9] == [
        *(0, 1, -100, 3, 4, 5, 6, 7, 8)
    ]


def test_a_loss_of_one_process_that_is_not_finite_is_skipped_by_both(together: Any) -> None:
    facts = together[1]["run"]
    assert facts["skipped"][0] == 1 and facts["finite"]


def test_rows_of_ones_own_are_the_same_to_two_processes(together: Any, tmp_path: Path) -> None:
    """Metrics of rows in disorder, every caption once, and one number for an image whatever process sees it."""
    facts, tensors = cases.own_data(tmp_path, 1)
    found = together[1]["own"]
    assert facts["metrics"]["eval_flat_images"] == facts["metrics"]["eval_lists_images"] == 9
    assert found["metrics"] == pytest.approx(facts["metrics"])
    for name, value in facts["metrics"].items():
        assert name == "epoch" or value == pytest.approx(facts["metrics"][name.replace("flat", "lists")])
    assert found["seen"] == facts["seen"] and len(set(found["seen"])) == len(found["seen"]) == 18
    known = sorted(tensors["ids"].tolist())
    assert sorted(together[0]["own"]["ids"].tolist()) == known and len(set(known)) == 9


RESUME = {"num_train_epochs": 8, "gradient_accumulation_steps": 2, "logging_steps": 1, "queue_size": 24}
RESUME |= {"do_eval": False, "do_predict": False, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 1000}


def start(words: list[str], launcher: tuple[str, ...], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        command = [sys.executable, *launcher, "run_retrieval.py", *words]
        environment = {**os.environ, **ONE_THREAD, "PYTHONUNBUFFERED": "1"}  # its lines are waited for
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_in_mid_epoch_with_accumulation_and_then_more_readers(tmp_path: Path, processes: int) -> None:
    """The launcher gets the signal; the run that goes on reads with two processes in place of none."""
    launcher = two_processes() if processes == 2 else ()
    whole, cut = (write_config(tmp_path, **RESUME, output_dir=str(tmp_path / name)) for name in ("whole", "cut"))
    run("run_retrieval.py", [whole, "--output_dir", str(tmp_path / "whole")], launcher)
    log = tmp_path / "cut.log"
    process = start([cut], launcher, log)
    deadline = time.monotonic() + 200
    while b"'loss'" not in log.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=120)
    text = log.read_text()
    if process.returncode == 0:
        pytest.fail(f"The run was over before the signal came: {text[-500:]}")
    assert text.count("Stopped by SIGTERM after step") == 1, text[-3000:]
    assert processes == 2 or process.returncode == 143
    found = last_checkpoint(tmp_path / "cut")
    assert found is not None and int(found.split("-")[-1]) < (40 if processes == 1 else 16)
    words = ["--resume_from_checkpoint", "last", "--dataloader_num_workers", "2"]
    run("run_retrieval.py", [cut, *words], launcher)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def wait_for_line(log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 200
    while b"'loss'" not in log.read_bytes() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


def process_of_rank(launcher: int, rank: int) -> int:
    """The process of a rank that a launcher started; its readers come later and have higher ids."""
    mark = f"RANK={rank}".encode()
    (found, *_) = sorted(
        one
        for one in descendants(launcher)
        if mark in Path(f"/proc/{one}/environ").read_bytes().split(b"\0")
        and b"run_retrieval.py" in Path(f"/proc/{one}/cmdline").read_bytes()
    )
    return found


@pytest.mark.parametrize(
    ("number", "rank", "words", "message"),
    [
        pytest.param(
            signal.SIGKILL,
            1,
            [],
            "ended without a message, as one that is killed does",
            id="killed",
            marks=pytest.mark.slow,
        ),
        pytest.param(signal.SIGKILL, 0, [], "ended without a message", id="first killed", marks=pytest.mark.slow),
        pytest.param(
            *(signal.SIGSTOP, 1, ["--ddp_timeout", "5"], "did not answer within --ddp_timeout: look for one"),
            id="stopped",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_process_that_is_killed_or_stopped_ends_the_others_with_one_sentence(
    number: signal.Signals, rank: int, words: list[str], message: str, tmp_path: Path
) -> None:
    """Beside it stand the lines of the launcher, which has a traceback of its own."""
    config = write_config(tmp_path, **{**RESUME, "num_train_epochs": 500, "save_steps": 5})
    log = tmp_path / "log"
    process = start([config, *words], two_processes(), log)
    wait_for_line(log, process)
    os.kill(process_of_rank(process.pid, rank), number)
    assert process.wait(timeout=150) != 0
    text = log.read_text()
    sentences = [line for line in text.splitlines() if "Another process of this run" in line]
    assert len(sentences) == 1 and message in sentences[0], text[-3000:]
    assert sentences[0].endswith("What was saved is whole: --resume_from_checkpoint last goes on from it.")
    assert "[rank" not in text and text.count("Traceback (most recent call last)") == 1  # the launcher's
