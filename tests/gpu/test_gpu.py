"""What only a GPU can show; skipped without one. The same code is tested on the CPU beside its modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_cases import make_trainer, weights

from benchmarks import gpu

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def test_equal_to_the_cpu() -> None:
    figures = gpu.equality()
    assert figures["max_logit_difference"] < 1e-4 and figures["gradient_difference"] < 1e-3


@pytest.mark.parametrize("task", ["retrieval", "VQA"])
def test_no_step_waits_for_the_device(task: str) -> None:
    assert gpu.synchronisations(gpu.make_steps(True, 4)[task]) == 0


def test_reranking_has_the_scores_of_the_plain_algorithm() -> None:
    assert gpu.reranking(True, 1)["max_score_difference"] < 0.1  # in bfloat16


def test_a_trainer_takes_the_fused_optimizer_and_tf32(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, use_cpu=False, save_strategy="no", max_steps=2)
    trainer.train()
    assert trainer.args.tf32 and "fused" in str(trainer.args.optim)
    assert trainer.args.accelerator_config.non_blocking


def test_resume_is_bit_identical_in_deterministic_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    options: dict[str, Any] = {"use_cpu": False, "full_determinism": True, "save_strategy": "steps", "save_steps": 4}
    make_trainer(tmp_path / "whole", **options).train()
    make_trainer(tmp_path / "cut", **options, max_steps=4).train()
    again = make_trainer(tmp_path / "cut", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "cut/checkpoint-4"))
    expected, found = (weights(tmp_path / name / "checkpoint-8") for name in ("whole", "cut"))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
