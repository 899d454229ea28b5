"""The model of a run, with its teacher and queue where they were saved beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import cached_file, logging

from ...configuration_albef import AlbefConfig, AlbefError, one_line
from ...hub_albef import check_head
from ..lora import add_lora
from ..momentum import QUEUE_FILE, TEACHER_FOLDER, FeatureQueue
from ..queue_file import read_queue
from .mappings import abbreviated, merged
from .parsing import check_known
from .settings import ModelArguments

logger = logging.get_logger(__name__)


class ModelError(AlbefError):
    """A model that cannot be loaded or made."""


def load_model(
    model_class: Any, model_args: ModelArguments, tokenizer: Any, needs_head: bool = False, **head_fields: Any
) -> Any:
    """Load or make the model, and load its teacher where one was saved beside it; adapters are put into both.

    Args:
        model_class: A model class with a head.
        model_args: Which model.
        tokenizer: Its tokenizer; a model from scratch takes its vocabulary from it.
        needs_head: Whether to refuse a model that was not trained for this task.
        head_fields: Fields of the configuration that the data sets, such as `id2label`.

    Returns:
        The model, in float32, and its teacher or None.
    """
    logging.disable_progress_bar()  # the library's own, of weights that are read and written
    # whatever the file holds: in half precision the steps of fine-tuning would be lost to rounding
    options = {"attn_implementation": model_args.attn_implementation, "dtype": torch.float32}
    teacher = None
    if model_args.has_encoders:
        if needs_head:
            raise ModelError("vision_encoder and text_encoder start a training: set do_train, or give a trained model.")
        model = _combine_encoders(model_class, model_args, tokenizer, head_fields)
    elif model_args.model_name_or_path is None:
        model = _make_model(model_class, model_args, tokenizer, options, head_fields)
    else:
        model, teacher = _load_models(model_class, model_args, tokenizer, options, head_fields)
    if needs_head:
        check_head(model)
    decoder_config = model.config.decoder_config
    if decoder_config is not None:
        decoder_config.bos_token_id, decoder_config.eos_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    if model_args.lora_rank:
        if model_args.model_name_or_path is None and not model_args.has_encoders:
            logger.warning("lora_rank adapts a model from scratch, whose random weights stay: give model_name_or_path.")
        for one in filter(None, (model, teacher)):
            add_lora(one, model_args.lora_rank, model_args.lora_alpha, model_args.lora_targets)
    return model, teacher


def _combine_encoders(model_class: Any, model_args: ModelArguments, tokenizer: Any, head_fields: dict[str, Any]) -> Any:
    """Make a model of a vision encoder and a text encoder."""
    fields: Any = model_args.model_config
    _check_config_fields(fields, AlbefConfig, "model_config")
    make = partial(
        model_class.from_encoders,
        model_args.vision_encoder,
        model_args.text_encoder,
        num_text_layers=model_args.num_text_layers,
        num_fusion_layers=model_args.num_fusion_layers,
        **fields,
        **head_fields,
    )
    if model_args.image_size is not None:
        make = partial(make, image_size=model_args.image_size)
    model = _with_attention(make, {"attn_implementation": model_args.attn_implementation})
    _check_tokenizer(model, tokenizer)
    return model


def _check_tokenizer(model: Any, tokenizer: Any) -> None:
    if len(tokenizer) > model.config.text_config.vocab_size:
        raise ModelError(
            f"The tokenizer knows {len(tokenizer)} tokens, the model {model.config.text_config.vocab_size}: give the "
            "tokenizer that the model was trained with."
        )


def _make_model(
    model_class: Any, model_args: ModelArguments, tokenizer: Any, options: dict[str, Any], head_fields: dict[str, Any]
) -> Any:
    """Make a model from scratch."""
    fields: Any = model_args.model_config
    _check_config_fields(fields, AlbefConfig, "model_config")
    if model_args.image_size is not None:
        fields = merged(fields, {"vision_config": {"image_size": model_args.image_size}})
    try:
        config = AlbefConfig(**fields, **head_fields)
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(f"model_config is refused: {' '.join(str(error).split())}") from error
    for part in filter(None, (config.text_config, config.decoder_config)):
        part.vocab_size, part.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    try:
        return _with_attention(partial(model_class._from_config, config), options)
    except ModelError:
        raise
    except AlbefError as error:  # fields that a task has no use for
        raise ModelError(f"model_config is refused: {error}") from error
    except RuntimeError as error:
        if "allocat" not in str(error):
            raise
        raise ModelError(f"model_config asks for more memory than there is ({error}): lower its sizes.") from error


def _load_models(
    model_class: Any, model_args: ModelArguments, tokenizer: Any, options: dict[str, Any], head_fields: dict[str, Any]
) -> Any:
    """Load a model and the teacher beside it."""
    name = str(model_args.model_name_or_path)
    overrides = _checked_overrides(name, model_args)
    fields = {**overrides, **head_fields, "image_size": model_args.image_size, "output_loading_info": True}
    load = partial(model_class.from_pretrained, name, **fields)
    model, _ = _with_attention(load, options)
    _start_temperature(model, overrides)
    _check_tokenizer(model, tokenizer)
    if find_teacher_file(name, "config.json") is None:
        return model, None
    teacher, info = _with_attention(partial(load, subfolder=TEACHER_FOLDER), options)
    _start_temperature(teacher, overrides)
    if missing := info["missing_keys"]:  # the task's head is new: the student's, not another random one
        start = model.state_dict()
        known = {key: value for key, value in teacher.state_dict().items() if key not in missing}
        try:
            teacher.load_state_dict({**start, **known})
        except RuntimeError as error:
            raise ModelError(f"The teacher in {name} has other sizes than its model: {one_line(error)}") from error
        if any(key.startswith("text_decoder.layer.") for key in missing):
            teacher.initialize_decoder()
    return model, teacher


def _checked_overrides(name: str, model_args: ModelArguments) -> dict[str, Any]:
    """Return what `model_config` changes of a loaded model; refuse changes of a decoder that it does not have."""
    fields: Any = model_args.model_config
    _check_config_fields(fields, AlbefConfig, "model_config")
    if "decoder_config" in fields and not AlbefConfig.get_config_dict(name)[0].get("decoder_config"):
        raise ModelError(
            f"model_config.decoder_config is {abbreviated(fields['decoder_config'])}, but the model in {name} has no "
            "answer decoder: give the fields in text_config, which a new decoder starts from."
        )
    return fields


def _start_temperature(model: Any, overrides: dict[str, Any]) -> None:
    """Set the learned temperature, which was loaded with the weights, where it is to start anew."""
    if (value := overrides.get("temperature_init")) is None:
        return
    if getattr(model.albef, "temperature", None) is None:
        raise ModelError(f"model_config.temperature_init is {value}, but this task has no temperature: leave it out.")
    model.albef.temperature.data.fill_(value)


def _with_attention(make: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Make a model; refuse an attention implementation, a package or weights that do not exist."""
    name, known = options["attn_implementation"], ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]
    if name.removeprefix("paged|") not in known and "/" not in name:  # a kernel of the Hub
        raise ModelError(f"attn_implementation is {name!r}, but must be one of {', '.join(known)}.")
    try:
        return make(**options)
    except (ImportError, OSError) as error:  # a package or a file of weights is missing
        raise ModelError(f"The model cannot be used: {' '.join(str(error).split())}") from error


def _check_config_fields(config: Any, config_class: type, where: str) -> None:
    """Refuse misspelt fields of a model configuration, which the library would accept in silence."""
    if not isinstance(config, dict):
        raise ModelError(f"{where} is {abbreviated(config)}, but must be a mapping of fields to values.")
    check_known(config, [field.name for field in dataclasses.fields(config_class)], where)
    for name, sub_class in getattr(config_class, "sub_configs", {}).items():
        _check_config_fields(config.get(name) or {}, sub_class, f"{where}.{name}")


def find_teacher_file(name: str, file_name: str) -> Path | None:
    """Return the path of a file in the teacher's folder beside a model (folder or Hub name); None without one."""
    optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(name, file_name, subfolder=TEACHER_FOLDER, **optional)
    return None if path is None else Path(path)


def load_saved_queue(queue: FeatureQueue, model_args: ModelArguments) -> None:
    """Start the queue of a run, in place, from the one that was saved beside the model, where there is one."""
    name = model_args.model_name_or_path
    path = None if name is None else find_teacher_file(name, QUEUE_FILE)
    if path is not None:
        queue.start_from(read_queue(path, width=queue.image_embeds.shape[1]))
