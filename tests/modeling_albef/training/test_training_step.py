"""A training step wastes nothing, and its gradients are the same whichever way they are computed."""

from __future__ import annotations

import re
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import golden_vqa_cases as vqa
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from golden_cases import build, load_case, pick_inputs, training_step
from task_trainers import TASKS, task_trainer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from trainer_cases import make_trainer, random_rows

from modeling_albef.losses_albef import PairPool, contrast
from modeling_albef.modeling_albef_retrieval import matched_images
from modeling_albef.training.hardware import autocast, exact_products

# what makes the host wait for a GPU; `multinomial` looks whether there are weights
STALLS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "multinomial", "equal.default")
COPIES = ("tolist", "cpu", "numpy", "__array__")
# where a whole step does so, and why that is none of a GPU's, or has to be
REMAINING = {
    "attention_albef.py:from_mask": "on a CPU alone; on a GPU texts stay padded",
    "data_loader.py:__iter__": "the seed and the order of an epoch are drawn on the CPU",
    "callbacks.py:read": "whether the loss of the step before is finite has arrived in main memory by then",
    "trainer.py:_finalize_training": "the mean loss of a training that ended",
}
BOXES = {"trainer.py:add_losses": "how many pairs have a box, whose maps alone are computed"}
GLOBAL_NEGATIVES = {"losses_albef.py:gather_pairs": "how long the longest text of all processes is"}
LOGGED = {
    "trainer.py:_maybe_log_save_evaluate": "the mean loss since the last log line, and the gradient's norm",
    "trainer.py:log": "the means of the parts of the loss, in one copy",
}
BATCH_MAKING = "torch/utils/data/_utils/fetch.py"  # what it calls makes a batch on the CPU, before the step


class CountStalls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        index = args[1] if "aten.index" in str(func) and isinstance(args[1], list | tuple) else ()
        by_mask = any(isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in index)
        of_unknown_size = "repeat_interleave.Tensor" in str(func) and (kwargs or {}).get("output_size") is None
        if by_mask or of_unknown_size or any(name in str(func) for name in STALLS):
            self.add(str(func))
        return func(*args, **(kwargs or {}))

    def add(self, name: str) -> None:
        """Count a call, unless it is part of making a batch."""
        stack = traceback.extract_stack()[:-2]
        if any(frame.filename.endswith(BATCH_MAKING) for frame in stack):
            return
        frames = [frame for frame in stack if "/torch/" not in frame.filename]
        frames = [frame for frame in frames if frame.name != "__torch_function__"]  # which all calls pass
        self.found.append(name)
        self.places.append(f"{Path(frames[-1].filename).name}:{frames[-1].name}")


class CountCopies(TorchFunctionMode):
    """Counts what copies a tensor to the host: on a CPU no operator is called for it."""

    def __init__(self, stalls: CountStalls) -> None:
        super().__init__()
        self.stalls = stalls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in COPIES:
            self.stalls.add(func.__name__)
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
        bool(torch.ones(2).any())  # the counter does see each kind
        torch.ones(2)[torch.tensor([True, False])]
        torch.multinomial(torch.ones(2), 1)
        torch.repeat_interleave(torch.tensor([1, 2]))
    assert len(counted.found) >= 4


def test_what_a_whole_training_waits_for_is_listed(tmp_path: Path) -> None:
    """With the optimizer that is the default on a GPU, and no step logged: one look a step, at the step before."""
    options = {"logging_steps": 100, "logging_first_step": False, "save_strategy": "no", "optim": "adamw_torch_fused"}
    trainer = make_trainer(tmp_path, **options)
    with CountStalls() as counted, CountCopies(counted):
        trainer.train()
    places = Counter(counted.places)
    assert set(places) <= set(REMAINING), places
    assert places["callbacks.py:read"] == trainer.state.global_step == 8
    assert places["data_loader.py:__iter__"] == 2 * 3 and places["trainer.py:_finalize_training"] == 1


@pytest.mark.parametrize("task", TASKS)
def test_no_task_waits_for_more(tmp_path: Path, task: str) -> None:
    """With batches from files: the same list for every trainer, and as often. The first of three steps is logged."""
    options = {"max_steps": 3, "per_device_train_batch_size": 4, "use_cpu": True, "optim": "adamw_torch_fused"}
    options |= {"logging_steps": 100, "save_strategy": "no", "eval_strategy": "no", "report_to": "none"}
    trainer = task_trainer(task, tmp_path, {**options, "disable_tqdm": True})
    with CountStalls() as counted, CountCopies(counted):
        trainer.train()
    places = Counter(counted.places)
    assert set(places) <= REMAINING.keys() | LOGGED.keys() | BOXES.keys(), places
    assert places["trainer.py:add_losses"] == (3 if task == "boxes" else 0)
    assert places["callbacks.py:read"] == trainer.state.global_step == 3
    assert places["trainer.py:_maybe_log_save_evaluate"] == 2 and places["trainer.py:log"] == 1
    assert places["data_loader.py:__iter__"] == 2 and places["trainer.py:_finalize_training"] == 1


def test_the_page_lists_what_a_step_waits_for() -> None:
    page = (Path(__file__).parents[3] / "docs/distributed.md").read_text()
    table = page.partition("## What a step waits for")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+\.py)`, `(\w+)` \|", table, re.MULTILINE)
    assert sorted(f"{file}:{name}" for file, name in rows) == sorted(REMAINING | LOGGED | BOXES | GLOBAL_NEGATIVES)


def test_of_the_images_of_all_processes_those_that_are_matched_are_projected() -> None:
    """Of 5 images in the pool of which this process has 2: its own, and the wrong ones, once each kind."""
    states = torch.randn(5, 3, 4)
    pool = PairPool(states, states, None, states[:, 0], states[:, 0], torch.arange(5), own=torch.tensor([2, 3]))
    wrong = torch.tensor([0, 4])
    chosen, index = matched_images(pool, wrong)
    assert len(chosen) == 4 and torch.equal(chosen[index], states[torch.tensor([2, 3, 0, 4, 2, 3])])
    alone = PairPool(states, states, None, states[:, 0], states[:, 0], torch.arange(5), own=torch.arange(5))
    chosen, index = matched_images(alone, torch.tensor([1, 2, 3, 4, 0]))
    assert chosen is states and index.tolist() == [0, 1, 2, 3, 4, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4]


def test_contrastive_logits_are_exact_under_autocast() -> None:
    first, second = torch.nn.functional.normalize(torch.randn(2, 6, 64), dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(contrast(first, second, 0.07), (first @ second.T).float() / 0.07)
        found = contrast(first, second, 0.07)
        assert contrast(first.bfloat16(), second, 0.07).dtype == torch.float32
    assert torch.equal(found, first @ second.T / 0.07)
    assert contrast(first.bfloat16(), second.bfloat16(), 0.07).dtype == torch.bfloat16  # as the model's own weights


def test_the_teacher_computes_in_the_precision_of_the_run_under_every_engine() -> None:
    """Where an engine keeps the precision to itself, as DeepSpeed does, the accelerator enters none."""
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    for native in (True, False):
        accelerator.native_amp = native
        with autocast(accelerator):
            assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
    with accelerator.autocast():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32  # what the teacher got before
    AcceleratorState._reset_state()


def test_exact_products_restore_what_they_found() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        with exact_products(torch.device("cpu")):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


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


def test_the_optimizer_of_one_pass_takes_the_same_step(tmp_path: Path) -> None:
    trained: list[dict[str, torch.Tensor]] = []
    for optim in ("adamw_torch", None):  # None: the default
        trainer = make_trainer(tmp_path / str(optim), optim=optim, max_steps=1, save_strategy="no", learning_rate=1e-3)
        before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
        trainer.train()
        assert all(bool(group["fused"]) == (optim is None) for group in trainer.optimizer.param_groups)
        trained.append({name: weight.detach() - before[name] for name, weight in trainer.model.named_parameters()})
    largest = max(move.abs().max().item() for move in trained[0].values())
    assert largest > 1e-4
    for name, move in trained[0].items():
        assert (move - trained[1][name]).abs().max() < 1e-3 * largest, name
