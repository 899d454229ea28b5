"""Arguments of the library's Trainer that the trainers here have no use for: they are refused, with what to do instead.

All other arguments have the effect that the library gives them.
"""

from __future__ import annotations

from typing import Any

from .errors import SettingError

NO_LOOP = "the evaluation ranks whole data sets, and compute_metrics gets its result; leave it out"
NO_LOSS = "the evaluation computes metrics and no loss; leave it out"
PRECISION = "the weights stay float32, so that no step is lost to rounding; set bf16 to evaluate in bfloat16"
REFUSED: dict[str, tuple[Any, str]] = {  # field: its default; why another has no effect, and what to do
    "label_smoothing_factor": (0.0, "it is the teacher that softens the targets; set alpha"),
    "bf16_full_eval": (False, PRECISION),
    "fp16_full_eval": (False, PRECISION),
    "use_liger_kernel": (False, "there are no such kernels for this model; set torch_compile"),
    "liger_kernel_config": (None, "there are no such kernels for this model; set torch_compile"),
    "use_cache": (False, "training has no cache, and generate has one anyway; leave it out"),
    "prediction_loss_only": (False, NO_LOSS),
    "eval_do_concat_batches": (True, NO_LOOP),
    "eval_use_gather_object": (False, NO_LOOP),
    "eval_accumulation_steps": (None, NO_LOOP),
    "include_for_metrics": ([], NO_LOOP),
    "batch_eval_metrics": (False, NO_LOOP),
    "label_names": (None, NO_LOSS),
    "length_column_name": ("length", "rows are not grouped by length; leave it out"),
    "parallelism_config": (None, "the teacher needs whole parameters; train with DDP"),
    "debug": ([], "non_finite_loss finds what is not finite, and the library's detector fails on masks; leave it out"),
    "enable_jit_checkpoint": (False, "SIGTERM is answered by a checkpoint without it; leave it out"),
}
SAMPLING = ("random", "sequential")  # of train_sampling_strategy
CALLABLES = {  # of the Trainer's constructor
    "compute_loss_func": "the loss needs the teacher; override compute_loss in a subclass",
    "preprocess_logits_for_metrics": NO_LOOP,
}


def check_library_arguments(args: Any) -> None:
    """Refuse what would have no effect.

    Raises:
        SettingError: The argument, its value, and what to do instead.
    """
    for name, (default, reason) in REFUSED.items():
        value = getattr(args, name)
        if value != default and value not in (None, "", [], {}):
            raise SettingError(f"{name} is {value!r}, but has no effect here: {reason}.")
    if args.train_sampling_strategy not in SAMPLING:
        raise SettingError(
            f"train_sampling_strategy is {args.train_sampling_strategy!r}, but rows have no length before they are "
            f"read: set it to {' or '.join(SAMPLING)}."
        )
    if getattr(args, "group_by_image", False) and args.train_sampling_strategy != "random":
        raise SettingError(
            f"train_sampling_strategy is {args.train_sampling_strategy!r}, but group_by_image sets the order, too: "
            "leave one of them out."
        )
    if args.mixed_precision == "fp16" and args.device.type == "cpu":
        raise SettingError("fp16 is True, but needs a GPU, and this run is on a CPU: set bf16, or leave it out.")


def check_callables(given: dict[str, Any]) -> None:
    """Refuse parameters of the Trainer's constructor that would never be called; a SettingError says what to do."""
    for name, reason in CALLABLES.items():
        if given.get(name) is not None:
            raise SettingError(f"{name} is given, but would not be called: {reason}.")
