"""One run at a time writes into an output folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from run_cases import ONE_THREAD, ROOT, refused, run, two_processes, write_run
from small_models import save_retrieval
from trainer_cases import make_trainer
from transformers import TrainerCallback

from modeling_albef.training import CheckpointError, SettingError
from modeling_albef.training.checkpoints import lock
from modeling_albef.training.checkpoints.holder import Holder
from modeling_albef.training.checkpoints.lock import OutputLock
from run_retrieval import main

HOLD = """
import sys, time
from pathlib import Path
from modeling_albef.training.checkpoints.lock import hold_output
hold_output(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def stamps(folder: Path) -> dict[str, Any]:
    """Number, time and content of every file below a folder; the holder of the lock changes the time of that."""
    files = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    times = {path: 0 if path.name == "run.lock" else entry.st_mtime_ns for path, entry in files.items()}
    return {str(path): (entry.st_ino, times[path], path.read_bytes()) for path, entry in files.items()}


@pytest.fixture
def live(tmp_path: Path) -> Any:
    """A folder with a checkpoint and files, which another process uses."""
    folder = tmp_path / "out"
    make_trainer(folder, save_strategy="steps", save_steps=2, max_steps=2).train()
    (folder / "unfinished/checkpoint-4").mkdir(parents=True)
    (folder / "all_results.json").write_text("{}")
    (folder / "checkpoint-9").mkdir()
    process = holding(folder)
    yield folder, process
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--overwrite_output_dir"],
        pytest.param(["--resume_from_checkpoint", "last"], marks=pytest.mark.slow),
        pytest.param(["--resume_from_checkpoint", "last", "--overwrite_output_dir"], marks=pytest.mark.slow),
        pytest.param(["--do_train", "false"], marks=pytest.mark.slow),
    ],
)
def test_a_second_run_is_refused_and_touches_nothing(live: Any, tmp_path: Path, words: list[str]) -> None:
    folder, process = live
    save_retrieval(tmp_path / "model")
    before = stamps(folder)
    words = [*words, "--model_name_or_path", str(tmp_path / "model")]
    message = refused(main, [write_run(tmp_path), *words])
    assert message == (
        f"The output folder {folder} is in use by process {process.pid} on this machine: wait until that run has "
        "ended, or give another --output_dir."
    )
    assert stamps(folder) == before


@pytest.mark.slow
def test_a_trainer_of_ones_own_script_is_refused_too(live: Any) -> None:
    folder, process = live
    before = stamps(folder)
    with pytest.raises(SettingError, match=f"in use by process {process.pid} on this machine"):
        make_trainer(folder, save_strategy="steps", save_steps=1, max_steps=1).train()
    with pytest.raises(SettingError, match="in use"):
        make_trainer(folder, save_strategy="steps", save_steps=1).train(resume_from_checkpoint=True)
    assert stamps(folder) == before


@pytest.mark.slow
def test_two_processes_hold_one_lock_and_are_refused_with_one_sentence(live: Any, tmp_path: Path) -> None:
    folder, _ = live
    before = stamps(folder)
    done = run("run_retrieval.py", [write_run(tmp_path), "--overwrite_output_dir"], two_processes(), check=False)
    assert done.returncode != 0 and done.stderr.count("is in use by process") == 1
    assert stamps(folder) == before


def test_what_sigkill_leaves_behind_is_taken_over_at_once(live: Any) -> None:
    folder, process = live
    process.kill()
    start = time.monotonic()
    one = OutputLock(folder)  # before anybody has waited for it: a zombie
    one.acquire()
    assert time.monotonic() - start < 2 and one.is_held()
    assert json.loads((folder / "run.lock").read_text())["pid"] == os.getpid()
    one.release()
    assert not list(folder.glob("run.lock*"))


def test_a_process_with_the_id_of_one_that_ended_is_another(tmp_path: Path) -> None:
    one = OutputLock(tmp_path)
    one.acquire()
    values = json.loads((tmp_path / "run.lock").read_text())
    (tmp_path / "run.lock").write_text(json.dumps({**values, "birth": "1"}))
    two = OutputLock(tmp_path)
    two.acquire()
    assert two.is_held() and not one.is_held()
    two.release()


def foreign(folder: Path, **changes: Any) -> Path:
    """A lock of another machine."""
    text = json.dumps({**vars(Holder.current()), "machine": "another boot", "host": "node-7", "pid": 44, **changes})
    (folder / "run.lock").write_text(text)
    return folder / "run.lock"


def test_a_process_of_another_machine_lives_while_it_touches_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its clock says: the time of the file is in the last century."""
    monkeypatch.setattr(lock, "SILENCE", 20.0)
    path = foreign(tmp_path)
    ended = threading.Event()

    def touch() -> None:
        for second in range(1000):
            os.utime(path, (second, second))
            if ended.wait(0.3):
                return

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(SettingError, match="is in use by process 44 on node-7: wait until"):
            OutputLock(tmp_path).acquire()
    finally:
        ended.set()
        thread.join()
    assert "node-7" in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("text", [None, "", "{}", "[1, 2]", "[" * 9000, "\0"])
def test_a_silent_or_damaged_lock_is_taken_over_after_a_while(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SILENCE", 1.0)
    path = foreign(tmp_path)
    if text is not None:
        path.write_text(text)
    start = time.monotonic()
    one = OutputLock(tmp_path)
    one.acquire()
    assert time.monotonic() - start >= 1 and one.is_held()
    one.release()


def test_a_holder_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.05)
    one = OutputLock(tmp_path)
    one.acquire()
    times = set()
    for _ in range(10):
        times.add((tmp_path / "run.lock").stat().st_mtime_ns)
        time.sleep(0.1)
    assert len(times) > 3
    one.release()
    assert not (tmp_path / "run.lock").exists()


@pytest.mark.slow
def test_of_many_that_start_at_once_one_gets_a_stale_lock(tmp_path: Path) -> None:
    """A child a start, since a process may hold a lock twice."""
    code = """
import sys, time
from pathlib import Path
from modeling_albef.training import SettingError
from modeling_albef.training.checkpoints.lock import hold_output
Path(sys.argv[2]).touch()
while not Path(sys.argv[1], "go").exists():
    time.sleep(0.001)
try:
    hold_output(Path(sys.argv[1]))
    print("got it", flush=True)
    time.sleep(3)
except SettingError as error:
    print(error, flush=True)
"""
    process = holding(tmp_path)
    process.kill()
    process.wait()
    ready = [tmp_path / f"ready-{number}" for number in range(4)]
    starts = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(one)], cwd=ROOT, stdout=-1, text=True)
        for one in ready
    ]
    while not all(one.exists() for one in ready):
        time.sleep(0.05)
    (tmp_path / "go").touch()
    said = sorted(one.communicate(timeout=60)[0] for one in starts)
    assert [text.startswith("got it") for text in said].count(True) == 1
    assert all("is in use by process" in text for text in said if not text.startswith("got it"))


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    one, two = OutputLock(tmp_path), OutputLock(tmp_path)
    one.acquire()
    assert one.is_held()
    with pytest.raises(SettingError, match=f"in use by process {os.getpid()} on this machine"):
        two.acquire()
    assert one.is_held()
    one.release()


def test_a_refused_start_leaves_no_folder_behind(tmp_path: Path) -> None:
    message = refused(main, [write_run(tmp_path, model_config=None), "--model_name_or_path", "no/such"])
    assert "There is no model at 'no/such'" in message and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    """The system's own folder: not even root makes a folder there."""
    save_retrieval(tmp_path / "model")
    words = [write_run(tmp_path), "--output_dir", "/sys/out"]
    expected = "The output folder /sys/out cannot be written (Operation not permitted): Give another --output_dir."
    assert refused(main, words) == expected
    words += ["--do_train", "false", "--model_name_or_path", str(tmp_path / "model")]
    assert refused(main, words) == expected


def test_a_run_whose_lock_was_taken_writes_nothing_more(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=2)

    class TakeOver(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                foreign(tmp_path)

    trainer.add_callback(TakeOver())
    with pytest.raises(CheckpointError, match="was taken over by process 44 on node-7: let one run go on alone"):
        trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "run.lock"}
    assert "node-7" in (tmp_path / "run.lock").read_text()


def test_a_lock_that_was_removed_is_written_again(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=2)
    found = []

    class Remove(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found.append((tmp_path / "run.lock").exists())
            (tmp_path / "run.lock").unlink(missing_ok=True)

    trainer.add_callback(Remove())
    trainer.train()
    assert found == [True, False, True, False, True, False, True, False]
    assert not (tmp_path / "run.lock").exists() and (tmp_path / "checkpoint-8").exists()


def test_a_lock_ends_with_its_run(tmp_path: Path) -> None:
    words = [write_run(tmp_path, max_steps=1, do_eval=False, do_predict=False, eval_strategy="no")]
    main(words)
    assert (tmp_path / "out/model.safetensors").is_file() and not list((tmp_path / "out").glob("run.lock*"))
    assert not lock._held


@pytest.mark.slow
def test_a_process_that_is_killed_in_a_run_leaves_its_lock_to_the_next(tmp_path: Path) -> None:
    """With two processes: the first one holds the lock for both."""
    config = write_run(tmp_path, do_eval=False, do_predict=False, eval_strategy="no", num_train_epochs=500)
    command = [sys.executable, *two_processes(), "run_retrieval.py", config, "--save_strategy=steps", "--save_steps=2"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **ONE_THREAD}, stdout=log, stderr=log)
    deadline = time.monotonic() + 200
    while not (tmp_path / "out/checkpoint-2").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    holder = int(json.loads((tmp_path / "out/run.lock").read_text())["pid"])
    message = refused(main, [config, "--overwrite_output_dir"])
    assert f"is in use by process {holder} on this machine" in message
    os.kill(holder, 9)
    assert process.wait(timeout=60) != 0
    assert (tmp_path / "out/run.lock").exists()
    words = [config, "--resume_from_checkpoint", "last", "--max_steps", "1"]
    assert "Resuming from" in run("run_retrieval.py", words).stderr
    assert not (tmp_path / "out/run.lock").exists()
