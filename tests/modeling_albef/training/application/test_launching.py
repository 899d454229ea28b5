"""The launch files: each is read by the launcher, and what can run on a CPU does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from run_cases import ONE_THREAD, ROOT, refused, write_config
from safetensors.torch import load_file

from benchmarks.soak import free_port
from run_retrieval import main

FOLDER = ROOT / "configs" / "accelerate"
LAUNCH = ["-m", "accelerate.commands.launch"]
SHORT = {"max_steps": 2, "do_eval": False, "do_predict": False, "eval_strategy": "no", "queue_size": 24}


def written(name: str) -> dict[str, object]:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_files_are_read_by_the_launcher(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No field is unknown, and the parser makes of them what the file's name says."""
    config = load_config_from_file(str(FOLDER / name))
    facts = {
        "cpu.yaml": (1, 1, "no"),
        "cpu_2.yaml": (2, 1, "no"),
        "gpu.yaml": (1, 1, "bf16"),
        "gpus_8.yaml": (8, 1, "bf16"),
        "nodes_2.yaml": (16, 2, "bf16"),
        "deepspeed_zero1.yaml": (8, 1, "bf16"),
        "deepspeed_zero2.yaml": (8, 1, "bf16"),
    }
    assert (config.num_processes, config.num_machines, config.mixed_precision) == facts[name]
    if name.startswith("deepspeed"):
        assert f"ZERO{config.deepspeed_config['zero_stage']}" == name[10:15].upper()
        return  # whose validation asks for the package
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    args = launch_command_parser().parse_args(["--config_file", str(FOLDER / name), "run_retrieval.py"])
    args, _, _ = _validate_launch_command(args)
    assert args.num_processes == facts[name][0] and args.multi_gpu == (facts[name][0] > 1)


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_the_command_in_a_file_names_it(name: str) -> None:
    head = [line for line in (FOLDER / name).read_text().splitlines() if line.startswith("#")]
    command = head[1].removeprefix("# ").split()
    parsed = launch_command_parser().parse_args(command[2:])
    assert parsed.config_file == f"configs/accelerate/{name}" and parsed.training_script == "run_retrieval.py"
    assert ("--use_cpu" in command) == name.startswith("cpu")


def launch(words: list[str], **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, **ONE_THREAD}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *LAUNCH, *words], cwd=ROOT, env=environment, **pipes, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu.yaml", "cpu_2.yaml"])
def test_cpu_files_run(name: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, **SHORT)
    port = ["--main_process_port", str(free_port())] if name == "cpu_2.yaml" else []
    process = launch(["--config_file", str(FOLDER / name), *port, "run_retrieval.py", config, "--use_cpu"])
    printed, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors[-3000:]
    assert printed.count("model: ") == 1
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    assert state["max_steps"] == 2 and (tmp_path / "out/model.safetensors").is_file()


@pytest.mark.slow
def test_two_machines(tmp_path: Path) -> None:
    """Two launchers that find each other by address and port, a process each: as two machines do."""
    config = write_config(tmp_path, **SHORT)
    port = str(free_port())
    common = ["--config_file", str(FOLDER / "nodes_2.yaml"), "--num_processes", "2", "--mixed_precision", "no"]
    processes = []
    for rank in ("0", "1"):
        place = ["--machine_rank", rank, "--main_process_ip", "127.0.0.1", "--main_process_port", port]
        processes.append(launch([*common, *place, "run_retrieval.py", config, "--use_cpu"]))
    outputs = [process.communicate(timeout=280) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0][1][-3000:] + outputs[1][1][-3000:]
    assert [printed.count("model: ") for printed, _ in outputs] == [1, 0]
    queue = load_file(tmp_path / "out/checkpoint-2/teacher/queue.safetensors")
    assert int(queue["pointer"]) == 2 * 16 % 24  # the rows of both went in


def two_nodes(folders: list[Path], words: list[str]) -> list[tuple[int, str]]:
    """Two machines of a process each: status and lines of each launcher, which sees its own folder or a shared one."""
    port, processes = str(free_port()), []
    for rank, folder in enumerate(folders):
        folder.mkdir(exist_ok=True)
        nodes = ["--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1", "--monitor_interval", "0.1"]
        command = [sys.executable, "-m", "torch.distributed.run", *nodes, "--master_addr", "127.0.0.1"]
        command += ["--master_port", port, str(ROOT / "run_retrieval.py"), *words, "--output_dir", "out"]
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, cwd=folder, env=environment, **pipes))
    printed = [process.communicate(timeout=280)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, printed, strict=True)]


STEP_BY_STEP = {**SHORT, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 9}


@pytest.mark.slow
def test_two_machines_that_see_other_folders(tmp_path: Path) -> None:
    """Refused, unless each is to save its own checkpoints; then the newest one that both have is resumed from."""
    one, two = tmp_path / "one", tmp_path / "two"
    config = write_config(tmp_path, **STEP_BY_STEP)
    ended = two_nodes([one, two], [config])
    assert all(status for status, _ in ended)
    said = "".join(text for _, text in ended)
    assert said.count("does not see the files of process 0 in output_dir") == 1, said[-3000:]
    assert not any((folder / "out").exists() for folder in (one, two))
    each = [config, "--save_on_each_node", "true"]
    assert [status for status, _ in two_nodes([one, two], each)] == [0, 0]
    whole = load_file(one / "out/model.safetensors")
    for folder, rank in ((one, 0), (two, 1)):
        assert (folder / f"out/checkpoint-2/rng_state_{rank}.pth").is_file()
        assert not list((folder / "out").glob("run.lock*"))
    shutil.rmtree(two / "out/checkpoint-2")  # as if the second machine had been killed before it was written
    ended = two_nodes([one, two], [*each, "--resume_from_checkpoint", "last"])
    assert [status for status, _ in ended] == [0, 0], ended
    assert "Resuming from out/checkpoint-1" in ended[0][1] and (one / "out/damaged-checkpoint-2").is_dir()
    again = load_file(two / "out/checkpoint-2/model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.slow
def test_two_machines_that_share_a_folder(tmp_path: Path) -> None:
    """One lock for both; each saving its own there is refused."""
    config = write_config(tmp_path, **STEP_BY_STEP)
    ended = two_nodes([tmp_path] * 2, [config, "--save_on_each_node", "true"])
    said = "".join(text for _, text in ended)
    assert all(status for status, _ in ended) and said.count("leave save_on_each_node out") == 1, said[-3000:]
    assert [status for status, _ in two_nodes([tmp_path] * 2, [config])] == [0, 0]
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-2/rng_state*")) == [
        *("rng_state_0.pth", "rng_state_1.pth")
    ]
    assert not list((tmp_path / "out").glob("run.lock*"))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP shards the parameters"),
    ],
)
def test_what_shards_parameters_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said = refused(main, [write_config(tmp_path, **SHORT)])
    assert message in said and "train with DDP" in said and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1", "2"])
def test_deepspeed_trains_as_ddp_does_and_goes_on_exactly(tmp_path: Path, stage: str) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    options = {**SHORT, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "save_total_limit": 9}
    folders = {name: tmp_path / name for name in ("ddp", "whole", "again")}
    files = {"ddp": "cpu_2.yaml", "whole": f"deepspeed_zero{stage}.yaml", "again": f"deepspeed_zero{stage}.yaml"}
    for name, folder in folders.items():
        config, resume = write_config(tmp_path, **options), []
        if name == "again":
            shutil.copytree(folders["whole"] / "checkpoint-3", folder / "checkpoint-3")
            resume = ["--resume_from_checkpoint", "last"]
        words = ["--config_file", str(FOLDER / files[name]), "--num_processes", "2", "--mixed_precision", "no"]
        words += ["--main_process_port", str(free_port())]
        process = launch([*words, "run_retrieval.py", config, "--use_cpu", "--output_dir", str(folder), *resume])
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors[-3000:]
    ends = {
        name: [load_file(folder / f"checkpoint-6/{part}model.safetensors") for part in ("", "teacher/")]
        for name, folder in folders.items()
    }
    for part in (0, 1):
        for name, value in ends["whole"][part].items():
            assert torch.equal(value, ends["again"][part][name]), name
            torch.testing.assert_close(value, ends["ddp"][part][name], atol=2e-3, rtol=0, msg=name)


@pytest.mark.slow
def test_zero_3_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    config = tmp_path / "zero3.yaml"
    config.write_text((FOLDER / "deepspeed_zero2.yaml").read_text().replace("zero_stage: 2", "zero_stage: 3"))
    words = ["--config_file", str(config), "--num_processes", "1", "--mixed_precision", "no"]
    process = launch([*words, "run_retrieval.py", write_config(tmp_path, **SHORT), "--use_cpu"])
    _, errors = process.communicate(timeout=280)
    assert process.returncode != 0 and "ZeRO-3 shards the parameters" in errors and not (tmp_path / "out").exists()
