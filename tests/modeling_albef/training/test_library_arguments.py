"""Every argument of the library's Trainer has its effect here, or is refused with what to do instead."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_models import WORDS, save_retrieval
from trainer_cases import collate, logged, make_trainer, random_rows
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import SchedulerType

from modeling_albef.training import RetrievalTrainer, RetrievalTrainingArguments, SettingError, VQATrainingArguments
from modeling_albef.training.library_arguments import CALLABLES, REFUSED
from processing import AlbefProcessor

# Refused, with a value that asks for them
REFUSALS: dict[str, Any] = {
    "label_smoothing_factor": 0.1,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True},
    "use_cache": True,
    "prediction_loss_only": True,
    "eval_do_concat_batches": False,
    "eval_use_gather_object": True,
    "eval_accumulation_steps": 2,
    "include_for_metrics": ["inputs"],
    "batch_eval_metrics": True,
    "label_names": ["labels"],
    "length_column_name": "words",
    "debug": "underflow_overflow",
    "enable_jit_checkpoint": True,
}
REFUSED_ELSEWHERE = {  # in tests of their own, here or where the name says
    "parallelism_config": "below",
    "fsdp": "checkpoints/test_processes.py",
    "fsdp_config": "belongs to fsdp",
    "train_sampling_strategy": "below",
    "fp16": "below, on a CPU",
    "remove_unused_columns": "below, with a collator that reads other columns",
    "lr_scheduler_type": "below, with published_schedule",
    "lr_scheduler_kwargs": "below, with published_schedule",
    "metric_for_best_model": "test_own_data.py, where no evaluation has it",
    "deepspeed": "checkpoints/test_processes.py, what shards parameters",
}
HONORED = {  # by what reads it
    "optimizer": (
        "learning_rate warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon "
        "optim_target_modules gradient_accumulation_steps max_grad_norm neftune_noise_alpha"
    ),
    "length and memory of a training": (
        "num_train_epochs max_steps per_device_train_batch_size auto_find_batch_size bf16 tf32 torch_empty_cache_steps "
        "activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs "
        "torch_compile torch_compile_backend torch_compile_mode use_cpu accelerator_config"
    ),
    "log": (
        "logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level "
        "log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id "
        "trackio_static_space_id include_num_input_tokens_seen skip_memory_metrics"
    ),
    "evaluation": "eval_strategy eval_steps eval_delay eval_on_start per_device_eval_batch_size greater_is_better",
    "checkpoints": (
        "output_dir save_only_model save_strategy save_steps save_on_each_node save_total_limit load_best_model_at_end "
        "ignore_data_skip restore_callback_states_from_checkpoint"
    ),
    "Hub": "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
    "order of rows and random numbers": "seed data_seed full_determinism",
    "loading of rows": (
        "dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
        "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order"
    ),
    "processes": (
        "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout "
        "local_rank"
    ),
    "run scripts, as in the library's examples": "do_train do_eval do_predict resume_from_checkpoint",
    "losses over tokens; these are means over a batch, whatever it is": "average_tokens_across_devices",
}
CONSTRUCTOR = {  # of the Trainer
    "honored": (
        "model args data_collator train_dataset eval_dataset processing_class model_init compute_metrics callbacks "
        "optimizers optimizer_cls_and_kwargs"
    ),
    "refused": "compute_loss_func preprocess_logits_for_metrics",
}


def arguments(folder: Path, **given: Any) -> RetrievalTrainingArguments:
    options = {"use_cpu": True, "eval_strategy": "no", "report_to": "none", "disable_tqdm": True}
    return RetrievalTrainingArguments(output_dir=str(folder), **{**options, **given})


def test_every_argument_is_in_the_table_once() -> None:
    listed = [*REFUSALS, *REFUSED_ELSEWHERE, *(name for names in HONORED.values() for name in names.split())]
    assert len(listed) == len(set(listed))
    assert set(listed) >= {field.name for field in dataclasses.fields(TrainingArguments)}
    assert set(REFUSED) == REFUSALS.keys() | {"parallelism_config"}
    names = [name for names in CONSTRUCTOR.values() for name in names.split()]
    assert set(names) == set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert set(CALLABLES) == set(CONSTRUCTOR["refused"].split())


def test_the_defaults_that_count_as_not_asked_for_are_the_librarys() -> None:
    args = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    for name, (default, _) in REFUSED.items():
        field = args[name]
        own = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        assert own == default or (name == "debug" and own == ""), name


@pytest.mark.parametrize("name", REFUSALS)
def test_what_would_have_no_effect_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match=f"^{name} is .+, but has no effect here: .+; (leave it out|set )"):
        arguments(tmp_path, **{name: REFUSALS[name]})


def test_it_is_refused_however_it_came_in(tmp_path: Path) -> None:
    """After the arguments were made, as a hyperparameter search sets them, too."""
    trainer = make_trainer(tmp_path, save_strategy="no", max_steps=1)
    trainer.args.label_smoothing_factor = 0.1
    with pytest.raises(SettingError, match=r"label_smoothing_factor is 0\.1"):
        trainer.train()
    with pytest.raises(SettingError, match=r"label_smoothing_factor is 0\.1"):
        RetrievalTrainer(trainer.model, trainer.args, train_dataset=random_rows(8), data_collator=collate)
    plan: Any = object()
    trainer.args.label_smoothing_factor, trainer.args.parallelism_config = 0.0, plan
    with pytest.raises(
        SettingError, match=r"parallelism_config is .+ the teacher needs whole parameters; train with DDP"
    ):
        trainer.args.check()


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_rows_have_no_length_to_group_them_by(tmp_path: Path, strategy: str) -> None:
    with pytest.raises(SettingError, match=f"train_sampling_strategy is '{strategy}', but rows have no length"):
        arguments(tmp_path, train_sampling_strategy=strategy)
    with pytest.raises(SettingError, match="'sequential', but group_by_image sets the order, too"):
        VQATrainingArguments(str(tmp_path), use_cpu=True, group_by_image=True, train_sampling_strategy="sequential")


def test_float16_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="fp16 is True, but needs a GPU, and this run is on a CPU: set bf16"):
        arguments(tmp_path, fp16=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # what `accelerate launch --mixed_precision fp16` sets
    with pytest.raises(SettingError, match="needs a GPU"):
        arguments(tmp_path)


@pytest.mark.parametrize("name", CALLABLES)
def test_functions_that_would_not_be_called_are_refused(tmp_path: Path, name: str) -> None:
    trainer = make_trainer(tmp_path)
    with pytest.raises(SettingError, match=f"{name} is given, but would not be called: "):
        RetrievalTrainer(trainer.model, trainer.args, **{name: print})


def test_arguments_of_another_class_are_refused(tmp_path: Path) -> None:
    model = make_trainer(tmp_path).model
    for args in (
        None,
        TrainingArguments(str(tmp_path), use_cpu=True),
        VQATrainingArguments(str(tmp_path), use_cpu=True),
    ):
        with pytest.raises(SettingError, match=f"args is a {type(args).__name__}, but must be RetrievalTrainingArg"):
            RetrievalTrainer(model, args)


# ---- the schedule


def rates(trainer: RetrievalTrainer) -> list[float]:
    trainer.train()
    return [line["learning_rate"] for line in logged(trainer)]


def test_a_schedule_of_the_library_that_is_named_is_used(tmp_path: Path) -> None:
    """In closed form: of eight steps at 1e-3, without warm-up."""
    options: dict[str, Any] = {"save_strategy": "no", "learning_rate": 1e-3, "num_train_epochs": 2}
    linear = [1e-3 * (8 - step) / 8 for step in range(8)]
    assert rates(make_trainer(tmp_path, lr_scheduler_type="linear", **options)) == pytest.approx(linear)
    assert rates(make_trainer(tmp_path, published_schedule=False, **options)) == pytest.approx(linear)
    changed = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 4e-4}}
    found = rates(make_trainer(tmp_path, **changed, **options))
    half_way = 4e-4 + (1e-3 - 4e-4) / 2
    assert found[4] == pytest.approx(half_way) and min(found) > 4e-4
    published = rates(make_trainer(tmp_path, **options))
    assert published[:4] == [1e-3] * 4 and len(set(published[4:])) == 1


def test_the_schedule_is_one_or_the_other(tmp_path: Path) -> None:
    for given in ({"lr_scheduler_type": "cosine"}, {"lr_scheduler_kwargs": {"num_cycles": 2}}):
        assert arguments(tmp_path, **given).published_schedule is False
        with pytest.raises(SettingError, match="but published_schedule is true: leave one of them out"):
            arguments(tmp_path, published_schedule=True, **given)
    with pytest.raises(SettingError, match="lr_scheduler_type is 'steep', but must be one of linear, cosine"):
        arguments(tmp_path, lr_scheduler_type="steep")
    args = arguments(tmp_path)
    assert args.published_schedule is True
    again = dataclasses.replace(args, learning_rate=2e-5)  # a copy asks for nothing more
    assert again.published_schedule is True and again.learning_rate == 2e-5
    other = dataclasses.replace(arguments(tmp_path, lr_scheduler_type="cosine"), seed=1)
    assert other.lr_scheduler_type == SchedulerType.COSINE and not other.published_schedule
    changed = args.set_lr_scheduler("polynomial", num_epochs=2)
    assert changed.lr_scheduler_type == SchedulerType.POLYNOMIAL and not changed.published_schedule


# ---- effects that the trainers could have lost


def trained(folder: Path, **changes: Any) -> RetrievalTrainer:
    trainer = make_trainer(folder, save_strategy="no", **changes)
    trainer.train()
    return trainer


class OneBatchTooMany:
    """Runs out of memory, as a GPU would, with more than two rows."""

    def __call__(self, rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return collate(rows)


@pytest.mark.slow
def test_a_batch_size_that_fits_is_found(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, auto_find_batch_size=True, num_train_epochs=1, save_strategy="no")
    trainer.data_collator = OneBatchTooMany()
    trainer.train()
    assert trainer.state.global_step == 8  # of two rows each
    assert [line["alpha"] for line in logged(trainer)] == pytest.approx([0.4 * step / 8 for step in range(8)])


def test_tokens_are_those_of_the_texts(tmp_path: Path) -> None:
    for counted in ("all", True, "non_padding"):
        trainer = make_trainer(tmp_path, max_steps=3, save_strategy="no", include_num_input_tokens_seen=counted)
        trainer.train()
        assert trainer.state.num_input_tokens_seen == 3 * 4 * 6  # steps, rows, tokens


def test_noise_in_the_embeddings_changes_the_students_loss_alone(tmp_path: Path) -> None:
    trainers = [trained(tmp_path, max_steps=2, neftune_noise_alpha=alpha) for alpha in (None, None, 5.0)]
    first, same, noisy = (logged(trainer)[0]["loss"] for trainer in trainers)
    assert first == same != noisy
    for trainer in trainers:  # nothing of it stays
        for model in (trainer.model, trainer.teacher.model):
            assert not model.get_input_embeddings()._forward_hooks


def test_activation_checkpointing_gives_the_same_losses(tmp_path: Path) -> None:
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    name = next(one for one in ("activation_checkpointing", "gradient_checkpointing") if one in known)
    plain, saving = (trained(tmp_path, max_steps=3, **{name: on}) for on in (False, True))
    assert getattr(saving.model, f"is_{name}") and not getattr(plain.model, f"is_{name}")
    expected, found = ([line["loss"] for line in logged(one)] for one in (plain, saving))
    assert found == pytest.approx(expected, abs=1e-4)


def test_optimizers_that_are_handed_in_are_used(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path, max_steps=2, save_strategy="no")
    optimizer = torch.optim.SGD(plain.model.bfloat16().parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    data = {"train_dataset": random_rows(16), "data_collator": collate}
    trainer = RetrievalTrainer(plain.model, plain.args, optimizers=(optimizer, scheduler), **data)
    start = trainer.model.itm_head.weight.clone()
    trainer.train()
    assert [line["learning_rate"] for line in logged(trainer)] == [0.5, 0.25]
    assert trainer.model.dtype == torch.float32 and not torch.equal(start, trainer.model.itm_head.weight)
    named = RetrievalTrainer(plain.model, plain.args, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.125}), **data)
    named.train()
    assert isinstance(named.optimizer.optimizer, torch.optim.SGD)


def test_callbacks_that_are_handed_in_are_called(tmp_path: Path) -> None:
    seen: list[str] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **kwargs: Any) -> None:
            seen.append("step")

    plain = make_trainer(tmp_path, max_steps=2, save_strategy="no")
    data = {"train_dataset": random_rows(16), "data_collator": collate}
    RetrievalTrainer(plain.model, plain.args, callbacks=[Watch()], **data).train()
    assert seen == ["step"] * 2


def test_columns_that_the_collator_reads_are_not_removed(tmp_path: Path) -> None:
    args = arguments(tmp_path, remove_unused_columns=True, queue_size=4, per_device_train_batch_size=4)
    model = make_trainer(tmp_path).model
    with pytest.raises(SettingError, match="remove_unused_columns is True, but the collator"):
        RetrievalTrainer(model, args, train_dataset=random_rows(8))
    rows = [{**row, "remark": torch.tensor(1)} for row in random_rows(8)]
    trainer = RetrievalTrainer(model, args, train_dataset=rows, data_collator=collate)  # whose rows are inputs: honored
    assert {"pixel_values", "image_ids"} <= next(iter(trainer.get_train_dataloader())).keys()


def test_how_rows_are_loaded_holds_in_evaluations_too(tmp_path: Path) -> None:
    given = {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 3, "dataloader_multiprocessing_context": "fork"}
    metrics = []
    for options in ({}, given):
        folder = tmp_path / str(len(options))
        model = save_retrieval(folder)
        rows = [{"image": Image.new("RGB", (40, 30), (40 * n, 9, 90)), "caption": WORDS[n % 4]} for n in range(6)]
        processor = AlbefProcessor.from_pretrained(folder)
        trainer = RetrievalTrainer(model, arguments(folder, **options), eval_dataset=rows, processing_class=processor)
        metrics.append({name: value for name, value in trainer.evaluate().items() if name.endswith(("r1", "r5"))})
    assert metrics[0] == metrics[1] != {}
    loading = trainer.evaluator_options()["loading"]
    assert (loading["prefetch_factor"], loading["multiprocessing_context"]) == (3, "fork")


def test_memory_is_measured_where_it_is_asked_for(tmp_path: Path) -> None:
    model = save_retrieval(tmp_path)
    rows = [{"image": Image.new("RGB", (40, 30)), "caption": "a circle"}]
    processor = AlbefProcessor.from_pretrained(tmp_path)
    args = arguments(tmp_path, skip_memory_metrics=False)
    trainer = RetrievalTrainer(model, args, eval_dataset=rows, processing_class=processor)
    assert "eval_mem_cpu_alloc_delta" in trainer.evaluate()
    assert "test_mem_cpu_alloc_delta" in trainer.predict(rows).metrics
