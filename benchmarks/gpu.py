"""One GPU in one command, under 8 minutes: is it right, is it near its limit, does the host wait?

    python -m benchmarks.gpu [--quick] [--output results.json]

Cases: equality with the CPU (float32 without TF32); a training step of each task in bfloat16, with its time over the
limit (see `limits.py`), host synchronisations, kernels and memory; re-ranking beside the plain algorithm; encoding of
images; a step under torch.compile; and two processes beside one, where there are two GPUs. Without a GPU it runs on the
CPU, where synchronisations and kernels are not counted; `--quick` takes tiny models.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import published, retrieval_evaluation, training_step, vqa_training_step
from benchmarks.limits import least_seconds, share_of_limit
from benchmarks.measure import arguments, report
from modeling_albef.packed_fusion_albef import Packing, finish_fusion, start_fusion
from modeling_albef.training.hardware import exact_products

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class RetrievalStep:
    """The step of `training_step.py` on a device, in bfloat16 there."""

    def __init__(self, quick: bool, batch: int, device: str = DEVICE) -> None:
        made = training_step.Step(quick, batch=batch)
        self.model, self.teacher, self.queue = made.model.to(device), made.teacher, made.queue.to(device)
        self.teacher.model.to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=device == "cuda")
        self.inputs = {name: value.to(device) for name, value in made.inputs.items()}
        self.step = made
        made.model, made.optimizer, made.inputs = self.model, self.optimizer, self.inputs
        made.own_autocast = autocast(device)

    def __call__(self) -> Any:
        """A step; the loss stays on the device."""
        self.teacher.update(self.model)
        teacher: Any = self.teacher.model
        with self.step.own_autocast:
            with torch.no_grad():
                text = teacher.get_text_features(self.inputs["input_ids"], self.inputs["attention_mask"])
                image = teacher.get_image_features(self.inputs["pixel_values"])
            features = {
                "image_embeds": image.pooler_output.float(),
                "text_embeds": text.pooler_output.float(),
                "image_ids": self.inputs["image_ids"],
            }
            loss = self.model(**self.inputs, **self.queue.candidates(**features), alpha=training_step.ALPHA).loss
        self.queue.enqueue(**features)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def autocast(device: str) -> Any:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()


def make_steps(quick: bool, batch: int) -> dict[str, Callable[[], Any]]:
    """A training step of each task."""
    vqa = vqa_training_step.Step(quick, batch, DEVICE)

    def vqa_step() -> Any:
        with autocast(DEVICE):
            return vqa()

    return {"retrieval": RetrievalStep(quick, batch), "VQA": vqa_step}


def synchronisations(step: Callable[[], Any]) -> int | None:
    """How often the host waits for the GPU in a step; None without one."""
    if DEVICE == "cpu":
        return None
    step()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def kernels(step: Callable[[], Any]) -> int | None:
    """How many kernels a step starts; None without a GPU."""
    if DEVICE == "cpu":
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiled.events())


def measure_step(step: Callable[[], Any], batch: int, runs: int) -> dict[str, Any]:
    """Share of the limit, synchronisations, kernels, memory."""
    step()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    figures: dict[str, Any] = share_of_limit(step, runs)
    figures |= {"host_synchronisations": synchronisations(step), "kernels": kernels(step)}
    figures["examples_a_second"] = batch / figures["seconds"]
    if DEVICE == "cuda":
        figures["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return figures


def measure_task(name: str, quick: bool, batch: int, runs: int) -> dict[str, Any]:
    """`measure_step` of a task's step."""
    return measure_step(make_steps(quick, batch)[name], batch, runs)


def equality() -> dict[str, float]:
    """Largest difference of matching logits and of gradients between the CPU and the device, on a tiny model."""
    found = []
    for device in ("cpu", DEVICE):
        step = training_step.Step(True, batch=2)
        model, inputs = step.model.to(device), {name: value.to(device) for name, value in step.inputs.items()}
        with exact_products(torch.device(device)):
            outputs = model(**inputs)
            outputs.loss.backward()
        gradients = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        found.append((outputs.itm_logits.detach().cpu(), gradients))
    (logits, gradients), (others, other_gradients) = found
    return {
        "max_logit_difference": (logits - others).abs().max().item(),
        "gradient_difference": ((gradients - other_gradients).norm() / gradients.norm()).item(),
    }


def reranking(quick: bool, runs: int) -> dict[str, float]:
    """256 texts of one image, texts encoded before, beside the plain algorithm."""
    model: Any = retrieval_evaluation.make_model(quick)
    model.to(DEVICE)
    vision, text_model = model.config.vision_config, model.albef.text_model
    ids, mask = (part.to(DEVICE) for part in retrieval_evaluation.draw_texts(16 if quick else 256))
    image = torch.randn(1, 1 + vision.num_patches, vision.hidden_size, device=DEVICE)
    lengths = mask.sum(dim=1).cpu()
    packing = Packing.from_lengths(lengths)
    index = packing.tokens(torch.arange(len(ids)) * ids.shape[1]).to(DEVICE)
    moved = packing.to(torch.device(DEVICE))
    with torch.inference_mode(), autocast(DEVICE):
        texts = published.encode_texts(model, ids, mask)
        read = start_fusion(text_model, texts.flatten(0, 1).index_select(0, index), moved)

        def ours() -> torch.Tensor:
            return model.itm_head(finish_fusion(text_model, read, moved, text_model.project_images(image)))[:, 1]

        def plain() -> torch.Tensor:
            return published.score_texts(model, image[0], texts, mask)

        difference = (ours().float() - plain().float()[packing.order.to(DEVICE)]).abs().max().item()
        figures = share_of_limit(ours, runs)
        plain_seconds = least_seconds(plain, max(2, runs))
    return {**figures, "speedup": plain_seconds / figures["seconds"], "max_score_difference": difference}


def encoding(quick: bool, runs: int) -> dict[str, float]:
    """Images a second through the vision tower."""
    model: Any = retrieval_evaluation.make_model(quick)
    model.to(DEVICE)
    batch, side = 8 if quick or DEVICE == "cpu" else 64, model.config.vision_config.image_size
    pixels = torch.randn(batch, 3, side, side, device=DEVICE)
    with torch.inference_mode(), autocast(DEVICE):
        figures = share_of_limit(lambda: model.get_image_features(pixels).pooler_output, runs)
    return {**figures, "images_a_second": batch / figures["seconds"]}


def compiled(quick: bool, batch: int, runs: int) -> dict[str, float]:
    """The retrieval step with a compiled student, beside the same without."""
    step = RetrievalStep(quick, batch)
    before = least_seconds(step, max(2, runs))
    step.model = torch.compile(step.model)
    step()
    return {"speedup": before / least_seconds(step, max(2, runs))}


def worker(quick: bool, batch: int) -> None:
    """A step of one of several processes, with DDP; the first prints its time."""
    torch.distributed.init_process_group("nccl" if DEVICE == "cuda" else "gloo")
    rank = torch.distributed.get_rank()
    if DEVICE == "cuda":
        torch.cuda.set_device(rank)
    step = RetrievalStep(quick, batch)
    step.model = torch.nn.parallel.DistributedDataParallel(step.model)
    step.teacher.update = lambda student: None  # type: ignore[method-assign]  # of what DDP wraps
    step()
    seconds = least_seconds(step, 3)
    if rank == 0:
        print(json.dumps({"seconds": seconds, "examples_a_second": 2 * batch / seconds}))
    torch.distributed.destroy_process_group()


def two_processes(quick: bool, batch: int) -> dict[str, float]:
    """The same batch on each of two processes."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words += ["-m", "benchmarks.gpu", "--worker", "--batch", str(batch), *["--quick"] * quick]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    """Runs the cases."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, help="examples of a step; default: 32, on a CPU 2")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    batch = args.batch or (32 if DEVICE == "cuda" and not args.quick else 2)
    if args.worker:
        return worker(args.quick, batch)
    todo: dict[str, Callable[[], dict[str, Any]]] = {"equality with the CPU": equality}
    for name in ("retrieval", "VQA"):
        todo[f"{name} training step"] = partial(measure_task, name, args.quick, batch, args.runs)
    todo["re-ranking"] = lambda: reranking(args.quick, args.runs)
    todo["encoding of images"] = lambda: encoding(args.quick, args.runs)
    if DEVICE == "cuda":
        todo["torch.compile"] = lambda: compiled(args.quick, batch, args.runs)
    if torch.cuda.device_count() > 1 or "two processes" in args.only:
        todo["two processes"] = lambda: two_processes(args.quick, batch)
    cases = {name: case() for name, case in todo.items() if not args.only or name in args.only}
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else "no GPU"
    report({"device": {"name": card}, **cases}, args.output)


if __name__ == "__main__":
    main()
