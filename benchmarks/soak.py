"""Kills tiny runs at random moments, lets them go on, and compares the end with that of a run that was let be.

    python -m benchmarks.soak --tasks retrieval vqa --processes 1 2 --kills 10 --steps 300
    python -m benchmarks.soak --tasks retrieval --processes 2 --kills 6 --steps 3000 --save_steps 250
    python -m benchmarks.soak --kinds stream lora epochs last --kills 4 --steps 100
    python -m benchmarks.soak --kinds pretraining pretraining_shards --processes 1 2 --kills 6 --steps 200

For each task, number of processes and kind of run weights, optimizer, teacher, queue and every line of the log must be
equal to the bit. Kinds: `plain`; `stream`, rows that are streamed and opened by two workers a process; `lora`,
adapters; `epochs`, an evaluation and a checkpoint after each epoch; `last`, which does not end with the best
checkpoint; `mixture`, three data sets drawn by weight; `mixture_stream`, the same as `stream`. Whatever the tasks are,
`pretraining` pre-trains, and `pretraining_shards` does so on tar files that are streamed.
Memory and open files of the undisturbed run are sampled; the slopes are those of a least-squares line after warm-up.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dataset_scripts import load_dataset_script
from processing import build_tokenizer

ROOT = Path(__file__).parent.parent
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
BATCH = 8
CONFIG: dict[str, Any] = {
    "dataset": "shapes",
    "dataset_config": {"num_train": 100, "num_validation": 12, "num_test": 12, "image_size": 32},
    "model_config": {
        "projection_dim": 16,
        "vision_config": {**SIZES, "image_size": 32, "patch_size": 8},
        "text_config": {**SIZES, "num_fusion_layers": 1, "max_position_embeddings": 64},
    },
    "do_train": True,
    "per_device_train_batch_size": BATCH,
    "learning_rate": "1e-3",
    "warmup_steps": 0,
    "k_test": 5,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "logging_steps": 7,  # lines of the log average steps before and after a checkpoint
    "report_to": "none",
    "disable_tqdm": True,
}
MIXTURE: dict[str, Any] = {
    "dataset": None,
    "dataset_config": None,
    "datasets": [
        {"name": "shapes", "weight": weight, "dataset_config": {**CONFIG["dataset_config"], "seed": seed, **further}}
        for seed, (weight, further) in enumerate(
            [(0.5, {}), (0.3, {"num_train": 60, "min_objects": 1}), (0.2, {"num_train": 40, "captions_per_image": 3})]
        )
    ],
}
STREAM: dict[str, Any] = {"streaming": True, "shuffle_buffer": 30, "dataloader_num_workers": 2}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stream": STREAM,
    "mixture": MIXTURE,
    "mixture_stream": MIXTURE | STREAM,
    "lora": {"lora_rank": 2},
    "epochs": {"eval_strategy": "epoch", "save_strategy": "epoch"},
    "last": {"load_best_model_at_end": False},
    "pretraining": {"whole_word_masking": True},
    "pretraining_shards": STREAM,
}
NUM_SHARDS = 8
WEIGHTS = ("model.safetensors", "teacher/model.safetensors", "teacher/queue.safetensors")
NOT_COMPARED = ("runtime", "per_second", "train_loss", "total_flos")  # a part of the run has its own


def write_config(folder: Path, task: str, kind: str, args: argparse.Namespace) -> Path:
    """The configuration of a tiny run; a stream's words and answers have to be known before it is read."""
    config = CONFIG | {"max_steps": args.steps, "save_steps": args.save_steps, "eval_steps": args.save_steps}
    config |= KINDS[kind]
    if "streaming" in config:
        texts, answers = list[str](), set[str]()
        for one in config.get("datasets", [config]):
            name = "vqa" if task == "vqa" else "retrieval"
            rows = load_dataset_script("shapes", config_name=name, split="train", **one["dataset_config"])
            answers |= {answer for row in rows["answers"] for answer in row} if task == "vqa" else set()
            texts += rows["question"] if task == "vqa" else [text for row in rows["caption"] for text in row]
        build_tokenizer([*texts, *sorted(answers)]).save_pretrained(folder / "tokenizer")
        config["tokenizer"] = str(folder / "tokenizer")
        if kind == "pretraining_shards":
            config |= {"dataset": None, "dataset_config": None, "shards": write_shards(folder, rows)}
            config |= {"validation_files": str(write_validation(folder)), "image_root": str(folder)}
        if task == "vqa":
            (folder / "answers.json").write_text(json.dumps(sorted(answers)), encoding="utf-8")
            config["answer_list"] = str(folder / "answers.json")
    if task != "vqa":
        config["queue_size"] = 200
    path = folder / f"{task}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def write_shards(folder: Path, rows: Any) -> list[str]:
    """Tar files with the captions of each image in JSON; one sample in so many is none."""
    paths = [folder / f"{number}.tar" for number in range(NUM_SHARDS)]
    archives = [tarfile.open(path, "w") for path in paths]
    for number, row in enumerate(rows):
        buffer = io.BytesIO()
        row["image"].save(buffer, "PNG")
        texts = {} if number % 25 == 24 else {"caption": row["caption"]}
        for ending, content in (("png", buffer.getvalue()), ("json", json.dumps(texts).encode())):
            info = tarfile.TarInfo(f"{number:04d}.{ending}")
            info.size = len(content)
            archives[number % NUM_SHARDS].addfile(info, io.BytesIO(content))
    for archive in archives:
        archive.close()
    return [str(path) for path in paths]


def write_validation(folder: Path) -> Path:
    """Annotations of the validation images, which are files."""
    rows = load_dataset_script("shapes", config_name="retrieval", split="validation", **CONFIG["dataset_config"])
    for number, row in enumerate(rows):
        row["image"].save(folder / f"{number}.png")
    path = folder / "validation.json"
    listed = [{"image": f"{n}.png", "caption": row["caption"]} for n, row in enumerate(rows)]
    path.write_text(json.dumps(listed), encoding="utf-8")
    return path


def start(task: str, config: Path, output: Path, processes: int, log: Path) -> subprocess.Popen[bytes]:
    """Starts a run that goes on from what is in its output folder, in a process group of its own."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(free_port())]
    command = [sys.executable, *(launcher if processes > 1 else []), f"run_{task}.py", str(config)]
    command += ["--use_cpu", "--output_dir", str(output), "--resume_from_checkpoint", "last"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("wb") as file:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(is_true: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
    """Waits until something is so; False where the process ends before."""
    while process.poll() is None:
        if is_true():
            return True
        time.sleep(0.05)
    return is_true()


def has_logged(log: Path) -> bool:
    """Whether a run has printed a line of its log."""
    return b"'loss'" in log.read_bytes()


def run_whole(task: str, config: Path, output: Path, processes: int) -> dict[str, Any]:
    """An undisturbed run: its seconds of training, and how memory and open files developed."""
    log = output.with_suffix(".log")
    process = start(task, config, output, processes, log)
    wait_for(lambda: has_logged(log), process)
    begun, samples = time.monotonic(), []
    while process.poll() is None:
        samples.append((time.monotonic() - begun, *usage(process.pid)))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"The undisturbed run failed:\n{log.read_text(encoding='utf-8')[-3000:]}")
    seconds = time.monotonic() - begun
    steady = [sample for sample in samples if 0.3 * seconds < sample[0] < 0.95 * seconds]
    times = [sample[0] for sample in steady]
    figures: dict[str, Any] = {"seconds": seconds}
    if len(steady) > 2:
        for column, name in ((1, "megabytes"), (2, "open files")):
            values = [sample[column] for sample in steady]
            slope = statistics.linear_regression(times, values).slope * seconds
            figures |= {f"{name}, median": statistics.median(values), f"{name}, slope over the run": slope}
    return figures


def usage(process: int) -> tuple[float, int]:
    """Resident megabytes and open files of a process and all that it started."""
    memory, files = 0.0, 0
    for one in (process, *descendants(process)):
        folder = Path(f"/proc/{one}")
        try:
            resident = (folder / "statm").read_text(encoding="ascii").split()[1]
            memory += int(resident) * os.sysconf("SC_PAGE_SIZE") / 1e6
            files += len(list((folder / "fd").iterdir()))
        except (ProcessLookupError, FileNotFoundError):
            continue  # it has just ended
    return memory, files


def run_killed(
    task: str, config: Path, output: Path, processes: int, seconds: float, kills: int, moments: random.Random
) -> int:
    """The same run, killed at random moments of its training and now and then of its start; the kills that hit."""
    hit, attempts = 0, 0
    log = output.with_suffix(".log")
    while hit < kills and attempts < 3 * kills:
        attempts += 1
        process = start(task, config, output, processes, log)
        if moments.random() < 0.15:
            time.sleep(moments.uniform(0, 10))
        elif wait_for(lambda: has_logged(log), process):
            time.sleep(moments.uniform(0, seconds / kills))  # all of them fit into the run
        if process.poll() is None:
            hit += 1
        elif process.returncode:
            raise SystemExit(f"A run that went on failed:\n{log.read_text(encoding='utf-8')[-3000:]}")
        kill_group(process)
    process = start(task, config, output, processes, log)
    if process.wait():
        raise SystemExit(f"The last run failed:\n{log.read_text(encoding='utf-8')[-3000:]}")
    return hit


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a launcher and all that it started, which may have groups of their own."""
    children = [process.pid, *descendants(process.pid)]
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def descendants(parent: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]) == parent:
                found += [int(folder.name), *descendants(int(folder.name))]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def differences(one: Path, other: Path, task: str, steps: int) -> list[str]:
    """What differs between two finished runs."""
    import torch
    from safetensors.numpy import load_file

    found: list[str] = []
    last = Path(f"checkpoint-{steps}")
    names = [Path("model.safetensors"), *(last / name for name in WEIGHTS)]
    states = [torch.load(folder / last / "optimizer.pt", weights_only=True)["state"] for folder in (one, other)]
    flat = [{f"{n} {key}": one[key] for n, one in state.items() for key in one} for state in states]
    found += [f"optimizer: {key}" for key in flat[0] if not torch.equal(flat[0][key], flat[1][key])]
    for name in names if task != "vqa" else names[:-1]:
        first, second = load_file(one / name), load_file(other / name)
        found += [f"{name}: {key}" for key in first.keys() | second.keys() if not equal(first, second, key)]
    histories = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in (one, other)]
    if len(histories[0]) != len(histories[1]):
        found.append(f"log: {len(histories[0])} and {len(histories[1])} lines")
    for first, second in zip(*histories, strict=False):
        for key in first.keys() | second.keys():
            if not any(word in key for word in NOT_COMPARED) and first.get(key) != second.get(key):
                found.append(f"log, step {first['step']}: {key} {first.get(key)} and {second.get(key)}")
    return found


def equal(first: dict[str, Any], second: dict[str, Any], key: str) -> bool:
    """Whether both have the same bytes under a name."""
    return key in first and key in second and first[key].tobytes() == second[key].tobytes()


def main() -> None:
    """Runs the cases; exit status 1 where a run did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["retrieval", "vqa"], choices=["retrieval", "vqa"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--kinds", nargs="+", default=["plain"], choices=list(KINDS))
    parser.add_argument("--kills", type=int, default=10, help="of each run")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--save_steps", type=int, default=20, help="steps between checkpoints, and evaluations")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    moments, results, failed = random.Random(args.seed), {}, False
    product = itertools.product(args.tasks, args.processes, args.kinds)
    cases = (("pretraining" if "pretraining" in kind else task, number, kind) for task, number, kind in product)
    for task, processes, kind in dict.fromkeys(cases):
        with tempfile.TemporaryDirectory(prefix="albef-soak-") as name:
            folder = Path(name)
            config = write_config(folder, task, kind, args)
            whole, killed = folder / "whole", folder / "killed"
            figures = run_whole(task, config, whole, processes)
            hit = run_killed(task, config, killed, processes, figures["seconds"], args.kills, moments)
            steps = json.loads((whole / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
            found = differences(whole, killed, task, steps)
        case = f"{task}, {processes} processes, {kind}"
        results[case] = figures | {"kills": hit, "differences": found}
        failed = failed or bool(found) or hit < args.kills
        print(f"{case}: {json.dumps(results[case])}", flush=True)
    if args.output:
        args.output.write_text(json.dumps(results, indent=1), encoding="utf-8")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
