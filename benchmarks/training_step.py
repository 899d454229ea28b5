"""One training step for retrieval: ours against the same step in its plain form, and where its time goes.

    python -m benchmarks.training_step [--quick] [--output results.json]

Base size, 384 pixels, 4 pairs of 14 tokens, a queue of 65,536, AdamW. The plain form (`published.py`) has attention in
steps, keys and values for every one of the three rows a pair, a teacher updated parameter by parameter, and negatives
drawn one by one. Gradients are compared on a batch of two, where the hard negatives leave no choice. On a processor
without instructions for bfloat16 our step computes in float32, as the trainers do there; the plain one, minutes long,
has no such choice and runs once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks import published
from benchmarks.measure import arguments, compare, report, run_once
from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval
from modeling_albef.products_albef import fast_products
from modeling_albef.training import FeatureQueue, MomentumTeacher
from modeling_albef.training.hardware import has_bfloat16_instructions, padding_left_out

SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ALPHA, MOMENTUM = 0.4, 0.995


class Step:
    """A student with its teacher, queue, optimizer and batch, and the seconds of each stage."""

    def __init__(
        self, quick: bool, batch: int = 4, dtype: torch.dtype = torch.float32, checkpointing: bool = False
    ) -> None:
        torch.manual_seed(0)
        config = AlbefConfig(text_config=NO_DROPOUT)
        if quick:
            text = {**SMALL, **NO_DROPOUT, "num_fusion_layers": 1}
            config = AlbefConfig(vision_config={**SMALL, "image_size": 64}, text_config=text)
        self.model = AlbefForImageTextRetrieval(config).train()
        if checkpointing:
            self.model.gradient_checkpointing_enable()
        self.teacher = MomentumTeacher(self.model, MOMENTUM)
        self.queue = FeatureQueue(1024 if quick else 65_536, config.projection_dim)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        side = config.vision_config.image_size
        self.inputs = {
            "pixel_values": torch.randn(batch, 3, side, side),
            "input_ids": torch.randint(1000, 30_000, (batch, 14)),
            "attention_mask": torch.ones(batch, 14, dtype=torch.long),
            "image_ids": torch.arange(batch),
        }
        self.autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
        # as the trainers: where the processor would have to emulate bfloat16 they compute in float32
        is_native = dtype != torch.float32 and has_bfloat16_instructions()
        self.own_autocast = torch.autocast("cpu", dtype, enabled=is_native)
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of what is done within to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def ours(self, optimize: bool = True) -> float:
        """The step as the trainer does it."""
        with padding_left_out(self.model, self.teacher.model), fast_products():
            return self._ours(optimize)

    def _ours(self, optimize: bool) -> float:
        with self.stage("teacher's update"):
            self.teacher.update(self.model)
        with self.own_autocast:
            with self.stage("teacher's features"), torch.no_grad():
                teacher: Any = self.teacher.model
                text = teacher.get_text_features(self.inputs["input_ids"], self.inputs["attention_mask"])
                image = teacher.get_image_features(self.inputs["pixel_values"])
                features = {
                    "image_embeds": image.pooler_output.float(),
                    "text_embeds": text.pooler_output.float(),
                    "image_ids": self.inputs["image_ids"],
                }
            with self.stage("forward"):
                loss = self.model(**self.inputs, **self.queue.candidates(**features), alpha=ALPHA).loss
        with self.stage("queue"):
            self.queue.enqueue(**features)
        return self._finish(loss, optimize)

    def plain(self, optimize: bool = True) -> float:
        """The step in its plain form."""
        teacher: Any = self.teacher.model
        with self.autocast:
            loss = published.retrieval_loss(self.model, teacher, self.queue, self.inputs, ALPHA, MOMENTUM)
        return self._finish(loss, optimize)

    def _finish(self, loss: torch.Tensor, optimize: bool) -> float:
        with self.stage("backward"):
            loss.backward()
        if optimize:
            with self.stage("optimizer"):
                self.optimizer.step()
                self.optimizer.zero_grad()
        return loss.item()


def gradients(quick: bool) -> dict[str, float]:
    """Largest difference of a gradient, as a share of its largest entry; keys' biases have none but rounding."""
    found = []
    for name in ("ours", "plain"):
        step = Step(quick, batch=2)
        loss = getattr(step, name)(optimize=False)
        found.append((loss, {key: parameter.grad for key, parameter in step.model.named_parameters()}))
    worst = max(
        ((found[0][1][key] - value).abs().max() / value.abs().max()).item()
        for key, value in found[1][1].items()
        if "self.key.bias" not in key
    )
    return {"loss_difference": abs(found[0][0] - found[1][0]), "max_gradient_difference": worst}


def speed(quick: bool, runs: int, dtype: torch.dtype) -> dict[str, float]:
    """Both forms, each with a model of its own, in turn."""
    own, theirs = Step(quick, dtype=dtype), Step(quick, dtype=dtype)
    own.ours()
    own.seconds.clear()
    figures = compare(own.ours, theirs.plain, lambda a, b: 0.0, runs)
    del figures["max_score_difference"]
    total = sum(own.seconds.values())
    shares = {f"share of {name}": seconds / total for name, seconds in own.seconds.items()}
    return {**figures, "pairs_a_second": 4 / figures["seconds"], **shares}


def memory(quick: bool, form: str, dtype: torch.dtype, checkpointing: bool) -> dict[str, float]:
    """Seconds and peak memory of the second step, in a process of its own."""
    step = Step(quick, dtype=dtype, checkpointing=checkpointing)
    getattr(step, form)()
    seconds, peak, _ = run_once(getattr(step, form))
    return {"seconds": seconds, "peak_memory_mb": peak}


def main() -> None:
    """Runs the cases."""
    parser = arguments(__doc__)
    parser.add_argument("--memory", choices=["ours", "plain", "checkpointing"], help="one memory case alone, float32")
    args = parser.parse_args()
    if args.memory:
        checkpointing = args.memory == "checkpointing"
        form = "ours" if checkpointing else args.memory
        print(json.dumps(memory(args.quick, form, torch.float32, checkpointing)))
        return
    cases: dict[str, dict[str, Any]] = {}
    todo = {
        "gradients": lambda: gradients(args.quick),
        "float32": lambda: speed(args.quick, args.runs, torch.float32),
        "bfloat16": lambda: speed(args.quick, 1, torch.bfloat16),
    }
    for name, case in todo.items():
        if not args.only or name in args.only:
            cases[name] = case()
    if not args.only or "memory" in args.only:
        for name in ("plain", "ours", "checkpointing"):
            words = [sys.executable, "-m", "benchmarks.training_step", "--memory", name, *["--quick"] * args.quick]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            cases[f"memory, {name}"] = json.loads(done.stdout.splitlines()[-1])
    report(cases, args.output)


if __name__ == "__main__":
    main()
