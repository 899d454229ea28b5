"""A training step wastes nothing, and its gradients are the same whichever way they are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden_vqa_cases as vqa
import pytest
import torch
from golden_cases import build, load_case, pick_inputs, training_step
from torch.utils._python_dispatch import TorchDispatchMode
from trainer_cases import make_trainer, random_rows

STALLS = ("_local_scalar_dense", "nonzero", "masked_select", "unique")  # what makes the host wait for a GPU


class CountStalls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in STALLS):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device() -> None:
    case, checkpoint = load_case("retrieval_distill")
    student, teacher, queue = build(checkpoint)
    with CountStalls() as counted:
        training_step(student.train(), teacher, queue, pick_inputs(case), 0.3).loss.backward()
    assert counted.found == []

    case, checkpoint = load_case("vqa_distill")
    model = vqa.build(checkpoint).train()
    batch = {**vqa.inputs_of(case), **vqa.answers_of(case)}
    with CountStalls() as counted:
        with torch.no_grad():
            logits = model(**batch).logits
        model(**batch, teacher_logits=logits, alpha=0.4).loss.backward()
    assert counted.found == []
    with CountStalls() as counted:
        bool(torch.ones(2).any())  # the counter does see one
    assert counted.found


def gradients(model: torch.nn.Module, inputs: dict[str, Any], call: Any = None) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(0)  # the hard negatives
    (model if call is None else call)(**inputs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def both_tasks() -> list[tuple[torch.nn.Module, dict[str, Any]]]:
    case, checkpoint = load_case("retrieval_plain")
    vqa_case, vqa_checkpoint = load_case("vqa_plain")
    return [
        (build(checkpoint)[0].train(), pick_inputs(case)),
        (vqa.build(vqa_checkpoint).train(), {**vqa.inputs_of(vqa_case), **vqa.answers_of(vqa_case)}),
    ]


@pytest.mark.parametrize("task", [0, 1])
def test_bfloat16_gradients(task: int) -> None:
    model, inputs = both_tasks()[task]
    exact = gradients(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rough = gradients(model, inputs)
    # bfloat16 keeps 8 bits, 0.4 % a number; the gradient of the temperature is a difference of like sums
    errors = {name: (rough[name] - expected).norm() / expected.norm() for name, expected in exact.items()}
    assert max(error for name, error in errors.items() if "key.bias" not in name) < 0.15  # those are zero
    whole = torch.cat([value.flatten() for value in exact.values()])
    assert (torch.cat([value.flatten() for value in rough.values()]) - whole).norm() / whole.norm() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("task", [0, 1])
def test_compiled_gradients(task: int) -> None:
    model, inputs = both_tasks()[task]
    exact = gradients(model, inputs)
    compiled = gradients(model, inputs, torch.compile(model))
    for name, expected in exact.items():
        torch.testing.assert_close(compiled[name], expected, atol=1e-5 * max(expected.abs().max().item(), 0.1), rtol=0)


def test_accumulated_gradients_are_the_mean(tmp_path: Path) -> None:
    """One SGD step over two batches moves by their mean gradient; without queue or teacher no batch sees another."""
    alone = {"queue_size": 0, "distill": False, "max_steps": 1, "per_device_train_batch_size": 2}
    options = {**alone, "optim": "sgd", "learning_rate": 1.0, "weight_decay": 0.0, "save_strategy": "no"}
    options |= {"published_schedule": False, "lr_scheduler_type": "constant", "max_temperature": 10.0}
    _, checkpoint = load_case("retrieval_plain")
    start = {name: value.clone() for name, value in build(checkpoint)[0].state_dict().items()}
    moved = []
    for rows, steps in ((random_rows(4), 2), (random_rows(2), 1), (random_rows(4)[2:], 1)):
        trainer = make_trainer(tmp_path, build(checkpoint)[0], rows, gradient_accumulation_steps=steps, **options)
        trainer._get_train_sampler = lambda _=None, rows=rows: torch.utils.data.SequentialSampler(rows)
        trainer.train()
        moved.append({name: value - start[name] for name, value in trainer.model.state_dict().items()})
    for name, step in moved[0].items():
        torch.testing.assert_close(step, (moved[1][name] + moved[2][name]) / 2, atol=1e-6, rtol=1e-4, msg=name)


def test_the_teacher_rests_where_nobody_asks_it(tmp_path: Path) -> None:
    passes = []
    for options in ({"queue_size": 0, "distill": False}, {"queue_size": 0, "alpha": 0.0}, {"queue_size": 0}, {}):
        trainer = make_trainer(tmp_path, max_steps=1, save_strategy="no", **options)
        seen: list[int] = []
        trainer.teacher.model.albef.vision_model.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        trainer.train()
        passes.append(len(seen))
    assert passes == [0, 0, 1, 1]
