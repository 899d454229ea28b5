"""One training step for visual question answering: its time over the limit, and where the time goes.

    python -m benchmarks.vqa_training_step [--quick] [--output results.json]

Base size, 384 pixels, 4 questions of 8 to 14 tokens with 1 to 4 answers each, AdamW. The limit is the time of the
step's own matrix products alone; see `limits.py`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.limits import share_of_limit
from benchmarks.measure import arguments, report
from modeling_albef import AlbefConfig, AlbefForQuestionAnswering
from modeling_albef.products_albef import fast_products
from modeling_albef.training import MomentumTeacher
from modeling_albef.training.hardware import padding_left_out

SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
ALPHA, MOMENTUM = 0.4, 0.995
CLS, SEP = 101, 102


def draw_batch(questions: int, side: int) -> dict[str, torch.Tensor]:
    """Noise images, questions of 8 to 14 tokens, and answers of one to three words."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, 15, (questions,), generator=generator)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    counts = torch.arange(questions) % 4 + 1
    answers = int(counts.sum())
    words = torch.randint(1, 4, (answers,), generator=generator)
    positions = torch.arange(int(words.max()) + 2)
    ids = torch.randint(1000, 30_000, (answers, len(positions)), generator=generator)
    ids = ids.masked_fill(positions == 0, CLS).masked_fill(positions == words[:, None] + 1, SEP)
    answer_mask = (positions <= words[:, None] + 1).long()
    return {
        "pixel_values": torch.randn(questions, 3, side, side, generator=generator),
        "input_ids": torch.randint(1000, 30_000, mask.shape, generator=generator) * mask,
        "attention_mask": mask,
        "answer_input_ids": ids * answer_mask,
        "answer_attention_mask": answer_mask,
        "answer_weights": (1 / counts).repeat_interleave(counts),
        "answers_per_question": counts,
    }


class Step:
    """A student with its teacher, optimizer and batch, and the seconds of each stage."""

    def __init__(self, quick: bool, batch: int = 4, device: str = "cpu", **config_fields: Any) -> None:
        torch.manual_seed(0)
        config = AlbefConfig(**config_fields)
        if quick:
            config = AlbefConfig(
                vision_config={**SMALL, "image_size": 64}, text_config={**SMALL, "num_fusion_layers": 1}
            )
        self.model: Any = AlbefForQuestionAnswering(config).train()
        self.model.to(device)
        self.teacher = MomentumTeacher(self.model, MOMENTUM)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        drawn = draw_batch(batch, config.vision_config.image_size)
        self.inputs = {name: value.to(device) for name, value in drawn.items()}
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of what is done within to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def __call__(self) -> torch.Tensor:
        """The step as the trainer does it."""
        with padding_left_out(self.model, self.teacher.model), fast_products():
            return self._step()

    def _step(self) -> torch.Tensor:
        with self.stage("teacher's update"):
            self.teacher.update(self.model)
        with self.stage("teacher's logits"), torch.no_grad():
            teacher: Any = self.teacher.model
            logits = teacher(**self.inputs).logits
        with self.stage("forward"):
            loss = self.model(**self.inputs, teacher_logits=logits, alpha=ALPHA).loss
        with self.stage("backward"):
            loss.backward()
        with self.stage("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()


def main() -> None:
    """Runs the case."""
    args = arguments(__doc__).parse_args()
    step = Step(args.quick)
    figures = share_of_limit(step, args.runs)
    total = sum(step.seconds.values())
    shares = {f"share of {name}": seconds / total for name, seconds in step.seconds.items()}
    report({"VQA training step": {**figures, "questions_a_second": 4 / figures["seconds"], **shares}}, args.output)


if __name__ == "__main__":
    main()
