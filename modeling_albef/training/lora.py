"""Low-rank adapters (Hu et al., 2021, arXiv 2106.09685) by `peft`, trained like any other parameters.

The adapters sit inside the model, whose class stays what it is: teacher, checkpoints and resume need nothing special.
What is saved at the end is the model with the adapters added into its weights, and beside it the adapters alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from .errors import SettingError

ADAPTER_FOLDER = "adapter"
# Queries and values of both towers and of the decoder; the heads.
TARGETS = ("qkv", "query", "value", "vision_proj", "text_proj", "itm_head")
TRAINED_WHOLE = ("classifier", "assignment_head")  # heads that start at random, which adapters could not make up for


def add_lora(model: PreTrainedModel, rank: int, alpha: float | None = None, targets: Sequence[str] = TARGETS) -> None:
    """Put adapters into the linear maps whose names end in `targets`, and freeze all else of the model.

    A classifier, which starts at random, is trained whole. Adapters are scaled by alpha / rank; alpha is 2 * rank by
    default. A SettingError names what cannot be used.
    """
    if rank < 1:
        raise SettingError(f"lora_rank is {rank}, but must be at least 1.")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise SettingError("Low-rank adapters need `pip install peft`.") from error
    present = {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = [name for name in targets if name in present]
    if not chosen:
        raise SettingError(
            f"lora_targets has {', '.join(targets)}, of which the model has none; it has {', '.join(sorted(present))}."
        )
    config = LoraConfig(r=rank, lora_alpha=cast(Any, alpha or 2 * rank), target_modules=chosen)
    try:
        inject_adapter_in_model(config, model)
    except (RuntimeError, TypeError) as error:  # more memory than there is, or than a number can say
        raise SettingError(f"lora_rank {rank} cannot be used ({error}): lower it.") from error
    whole = [name for name in TRAINED_WHOLE if hasattr(model, name)]
    for name in whole:
        getattr(model, name).requires_grad_(True)
    config.modules_to_save = whole or None
    model.albef_lora_config = cast(Any, config)  # a plain attribute, not a module


def merged_state_dict(model: Any) -> dict[str, torch.Tensor] | None:
    """Return the weights with the adapters added in, by the plain model's names; None for a model without adapters.

    A tensor with several names, of which the adapter has one, is the same under each.
    """
    if not hasattr(model, "albef_lora_config"):
        return None
    plain, merged = model.state_dict(), {}
    modules = dict(model.named_modules())
    for name, tensor in plain.items():
        if name.endswith(".base_layer.weight"):
            delta = modules[name.removesuffix(".base_layer.weight")].get_delta_weight("default")
            merged[tensor.data_ptr()] = tensor + delta.to(tensor)
    return {
        name.replace(".base_layer.", "."): merged.get(tensor.data_ptr(), tensor)
        for name, tensor in plain.items()
        if ".lora_" not in name
    }


def save_adapter(model: Any, folder: str | Path) -> None:
    """Write the adapters of a model alone, as `peft.PeftModel.from_pretrained` reads them."""
    from peft import get_peft_model_state_dict

    model.albef_lora_config.save_pretrained(folder)
    whole = model.albef_lora_config.modules_to_save or ()
    state = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(tuple(whole))}
    state |= get_peft_model_state_dict(model, adapter_name="default")
    save_file(
        {f"base_model.model.{name}": tensor.contiguous() for name, tensor in state.items()},
        Path(folder) / "adapter_model.safetensors",
    )
