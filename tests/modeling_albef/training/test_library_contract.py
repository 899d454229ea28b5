"""What the training takes from the library beyond its public names exists, and looks as expected."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState, TrainerControl
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils.hub import PushInProgress

import modeling_albef.training as training
from modeling_albef.training import RetrievalTrainer, VQATrainer

FOLDER = Path(training.__file__).parent
FILES = [path for path in FOLDER.rglob("*.py") if "application" not in path.parts]
HOOKS = {  # private methods that are overridden or called: their parameters
    "_save_checkpoint": ["self", "model", "trial"],
    "_get_output_dir": ["self", "trial"],
    "_save_optimizer_and_scheduler": ["self", "output_dir"],
    "_save_scaler": ["self", "output_dir"],
    "_save_rng_state": ["self", "output_dir"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_load_scaler": ["self", "checkpoint"],
    "_load_rng_state": ["self", "checkpoint"],
    "_issue_warnings_after_load": ["self", "load_result"],
    "_finalize_training": ["self", "trial", "num_train_samples", "start_time"],
    "_finish_current_push": ["self"],
    "_get_train_sampler": ["self", "train_dataset"],
    "_hp_search_setup": ["self", "trial"],
    "_prepare_inputs": ["self", "inputs"],
    "_track_num_input_tokens": ["self", "inputs"],
}
PUBLIC = {  # public methods that are overridden: the parameters that ours name
    "train": ["self", "resume_from_checkpoint"],
    "evaluate": ["self", "eval_dataset", "ignore_keys", "metric_key_prefix"],
    "predict": ["self", "test_dataset", "ignore_keys", "metric_key_prefix"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
    "log": ["self", "logs", "start_time"],
    "save_model": ["self", "output_dir", "_internal_call"],
    "create_optimizer": ["self", "model"],
    "create_scheduler": ["self", "num_training_steps", "optimizer"],
    "get_train_dataloader": ["self"],
    "call_model_init": ["self", "trial"],
    "hyperparameter_search": ["self", "hp_space", "compute_objective", "n_trials", "direction"],
    "push_to_hub": ["self", "commit_message", "blocking", "token", "revision"],
    "init_hf_repo": ["self", "token"],
}
FREE = {"set_initial_training_values", "create_model_card"}  # ours take any parameters and hand them on, or need none
ATTRIBUTES = {"_created_lr_scheduler", "_memory_tracker"}


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def trainer_classes() -> list[type]:
    own = {kind for trainer in (RetrievalTrainer, VQATrainer) for kind in trainer.__mro__}
    return [kind for kind in own if kind.__module__.startswith("modeling_albef.")]


@pytest.mark.parametrize("name", HOOKS)
def test_private_hooks_of_the_trainer(name: str) -> None:
    assert parameters(getattr(Trainer, name)) == HOOKS[name]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_methods_that_are_overridden(name: str) -> None:
    names = PUBLIC[name]
    assert parameters(getattr(Trainer, name))[: len(names)] == names


def test_every_overridden_method_is_listed() -> None:
    overridden = {
        name
        for kind in trainer_classes()
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and name in vars(Trainer) and not name.startswith("__")
    }
    assert {name for name in overridden if name.startswith("_")} <= HOOKS.keys()
    assert {name for name in overridden if not name.startswith("_")} == PUBLIC.keys() | FREE


def test_every_private_name_that_is_used_is_listed() -> None:
    """Private names of `self` that are the library's, and private names imported from a library."""
    library = set(vars(Trainer)) | set(re.findall(r"self\.(_\w+) ?=", inspect.getsource(Trainer.__init__)))
    library |= {"_created_lr_scheduler"}
    own = {name for kind in trainer_classes() for name in vars(kind) if name not in vars(Trainer)}
    used = {name for kind in trainer_classes() for name in vars(kind) if name.startswith("_")}  # overridden
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                used.add(node.attr)
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], path
    used = {name for name in used if not name.startswith("__")}
    assert used & library - own == HOOKS.keys() | ATTRIBUTES


def test_the_trainer_makes_a_new_schedule_in_every_training() -> None:
    assert "if self._created_lr_scheduler:\n            self.lr_scheduler = None" in inspect.getsource(Trainer)


def test_names_of_the_trainers_modules() -> None:
    names = ["output_dir", "save_total_limit", "best_model_checkpoint", "use_mtime"]
    assert parameters(rotate_checkpoints)[: len(names)] == names
    assert PREFIX_CHECKPOINT_DIR == "checkpoint" and isinstance(TrainerControl(), ExportableState)
    assert parameters(PushInProgress) == ["jobs"] and PushInProgress([]).is_done()
    assert {"wait_until_done", "is_done"} <= set(vars(PushInProgress))


@pytest.mark.parametrize(
    "event",
    [
        *("train_begin", "epoch_begin", "step_begin", "pre_optimizer_step", "optimizer_step", "step_end", "epoch_end"),
        *("evaluate", "predict", "save", "train_end"),
    ],
)
def test_events_of_callbacks(event: str) -> None:
    assert parameters(getattr(TrainerCallback, f"on_{event}"))[:4] == ["self", "args", "state", "control"]


def test_a_checkpoint_is_reported_when_it_is_written() -> None:
    """`InterruptionCallback` ends the training in `on_save`."""
    source = inspect.getsource(Trainer._maybe_log_save_evaluate)
    assert source.index("self._save_checkpoint(model, trial)") < source.index("self.callback_handler.on_save(")


def test_training_begins_after_the_checkpoint_was_read() -> None:
    """`MomentumTeacherCallback` restores the teacher in `on_train_begin`."""
    assert "self.callback_handler.on_train_begin(" in inspect.getsource(Trainer._inner_training_loop)
    assert "self._load_from_checkpoint(resume_from_checkpoint)" in inspect.getsource(Trainer.train)


def test_arguments_that_are_read() -> None:
    fields = TrainingArguments.__dataclass_fields__
    assert {"fsdp", "save_only_model", "hub_strategy", "hub_always_push", "hub_revision", "save_total_limit"} <= set(
        fields
    )
    assert {"should_save", "world_size", "process_index", "get_warmup_steps"} <= set(dir(TrainingArguments))


def test_no_module_imports_peft_before_it_is_asked_for() -> None:
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "peft"], path
