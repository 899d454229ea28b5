"""The job script of docs/slurm.md, with two processes on a CPU in place of GPUs and a stand-in for SLURM's scontrol."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_cases import ONE_THREAD, ROOT, write_run

from benchmarks.soak import free_port


def job(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the script as SLURM does."""
    (script,) = re.findall(r"<!-- file: job.sh -->\n```bash\n(.*?)```", (ROOT / "docs/slurm.md").read_text(), re.DOTALL)
    config = write_run(folder, num_train_epochs=8, logging_steps=1, eval_strategy="no", do_eval=False, do_predict=False)
    changes = {
        "configs/accelerate/gpus_8.yaml": f"configs/accelerate/cpu_2.yaml --main_process_port {free_port()}",
        "configs/retrieval_coco.yaml --model_name_or_path albef-14m --output_dir out": config,
    }
    for theirs, ours in changes.items():
        assert script.count(theirs) == 1
        script = script.replace(theirs, ours)
    (folder / "job.sh").write_text(script)
    (folder / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {folder}/scontrol.log\n')
    (folder / "scontrol").chmod(0o755)
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **ONE_THREAD, "PATH": path, "SLURM_JOB_ID": "7", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        command = ["bash", str(folder / "job.sh")]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_a_job_saves_is_requeued_and_goes_on(tmp_path: Path) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    process, deadline = job(tmp_path, first), time.monotonic() + 200
    while b"'loss'" not in first.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=120)
    text = first.read_text()
    assert text.count("Stopped by SIGTERM after step") == 1 and "starting anew" in text, text[-3000:]
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"
    (saved,) = (tmp_path / "out").glob("checkpoint-*")
    assert job(tmp_path, second).wait(timeout=250) == 0, second.read_text()[-3000:]
    assert f"Resuming from {saved}" in second.read_text() and (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"  # a job that ends by itself is not put back
