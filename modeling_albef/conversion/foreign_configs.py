"""Configuration files of salesforce/ALBEF and of TorchMultimodal's ALBEF example as fields of this project.

Keys and their meaning are those of salesforce/ALBEF `configs/` (with `Retrieval.py` and `VQA.py`) and of
facebookresearch/multimodal `examples/albef/configs/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..configuration_albef import AlbefError

VISION, TEXT = "model_config.vision_config", "model_config.text_config"
_SAME_IN_BOTH = ("image_root", "vqa_root", "vg_root", "answer_list")
_SAME_IN_BERT = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"),
    *("type_vocab_size", "hidden_act", "layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob"),
    "initializer_range",
)

# A key of theirs: the field of ours with the same value. Nested keys and fields are joined by dots.
SALESFORCE = {
    **{name: name for name in (*_SAME_IN_BOTH, "queue_size", "momentum", "k_test", "alpha", "distill")},
    **{"train_file": "train_files", "val_file": "validation_files", "test_file": "test_files"},
    "image_res": "image_size",
    "batch_size_train": "per_device_train_batch_size",
    "batch_size_test": "per_device_eval_batch_size",
    "warm_up": "alpha_warmup",
    "vision_width": f"{VISION}.hidden_size",
    "embed_dim": "model_config.projection_dim",
    "temp": "model_config.temperature_init",
    "optimizer.lr": "learning_rate",
    "optimizer.weight_decay": "weight_decay",
    "schedular.epochs": "num_train_epochs",
    "schedular.min_lr": "min_learning_rate",
    "schedular.warmup_lr": "warmup_learning_rate",
    **{f"bert_config.{name}": f"{TEXT}.{name}" for name in _SAME_IN_BERT},
}
_TORCHMULTIMODAL_SIZES = ("hidden_size", "num_attention_heads", "intermediate_size", "layer_norm_eps")
TORCHMULTIMODAL = {
    "seed": "seed",
    "k_test": "k_test",
    "output_root": "output_dir",
    **{f"datamodule_args.{name}": name for name in ("train_files", "test_files", *_SAME_IN_BOTH)},
    "datamodule_args.num_workers": "dataloader_num_workers",
    "vision_encoder_args.image_size": "image_size",
    "vision_encoder_args.mlp_dim": f"{VISION}.intermediate_size",
    **{
        f"vision_encoder_args.{name}": f"{VISION}.{name}"
        for name in (*_TORCHMULTIMODAL_SIZES, "patch_size", "num_hidden_layers", "attention_dropout")
    },
    **{
        f"text_encoder_args.{name}": f"{TEXT}.{name}"
        for name in (*_TORCHMULTIMODAL_SIZES, "type_vocab_size", "max_position_embeddings")
    },
    "projection_args.out_features": "model_config.projection_dim",
    "similarity_args.queue_size": "queue_size",
    "similarity_args.temp": "model_config.temperature_init",
    "training_args.alpha": "alpha",
    "training_args.weight_decay": "weight_decay",
    "training_args.lr": "learning_rate",
    "training_args.min_lr": "min_learning_rate",
    "training_args.max_epochs": "num_train_epochs",
    "training_args.log_every_n_steps": "logging_steps",
    "eval_args.k_test": "k_test",
}
# Keys whose one known value is what happens here, too; None: the value is that of another key, or of the tokenizer.
_FIXED: dict[str, Any] = {
    **{
        "optimizer.opt": "adamw",
        "schedular.sched": "cosine",
        "schedular.decay_rate": 1,
        "schedular.cooldown_epochs": 0,
    },
    **{"eos": "[sep]", "vision_encoder_args.dropout": 0, "device": "cuda"},
    **dict.fromkeys(("schedular.lr", "bert_config.model_type", "bert_config.architectures"), None),
    **dict.fromkeys(("bert_config.vocab_size", "bert_config.pad_token_id", "bert_config.encoder_width"), None),
    **dict.fromkeys(("hidden_size", "vocab_size", "type_vocab_size", "max_position_embeddings"), None),
    **dict.fromkeys(("pad_token_id", "embed_size", "text_encoder_args.vocab_size"), None),
    **dict.fromkeys(("text_encoder_args.pad_token_id", "projection_args.in_features"), None),
    "similarity_args.embed_size": None,
}
_REPEATED = ("text_embeddings_args.", "prediction_head_args.")  # sizes of the text encoder once more
_ELSEWHERE = {  # keys that something else does here
    "world_size": "the launcher decides, accelerate launch --num_processes",
    "dist_url": "the launcher decides, accelerate launch --main_process_ip",
    "checkpoint_root": "checkpoints stand in output_dir",
    "training_args.checkpoint_root": "checkpoints stand in output_dir",
    "eval_args.log_every_n_steps": "an evaluation shows a bar",
    "pretrained_checkpoint": "convert it with convert_albef_to_hf, then give --model_name_or_path FOLDER",
}


@dataclass
class Translation:
    """What a foreign configuration file says in this project's words.

    Attributes:
        source: The project that the file is of.
        task: "retrieval" or "vqa".
        fields: Fields of a run script, as they would stand in a file of ours.
        notes: Sentences on what has no counterpart.
    """

    source: str
    task: str
    fields: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def translate_config(config: Mapping[str, Any], path: str | Path) -> Translation | None:
    """Translate a configuration file of another implementation, which is known by its keys.

    Args:
        config: What the file holds.
        path: Where it is: files that it names are looked for from there, too.

    Returns:
        The translation; None if the file is none of salesforce/ALBEF's or TorchMultimodal's.

    Raises:
        AlbefError: The file is for another task, is one of LAVIS, or names a `bert_config` that cannot be read.
    """
    if isinstance(config.get("schedular"), Mapping):
        translation = _translate_salesforce(dict(config), Path(path))
    elif {"datamodule_args", "training_args"} <= set(config):
        translation = _translate_torchmultimodal(config, Path(path))
    elif {"model", "datasets", "run"} <= set(config):
        raise AlbefError(
            f"{path} is a configuration file of LAVIS, whose data sets and models are named in its code: "
            "docs/coming_from.md has the field here for each of its keys."
        )
    else:
        return None
    if not translation.task:
        raise AlbefError(
            f"{path} is a configuration file of {translation.source} for a task that no script here has: give one for "
            "retrieval (with k_test) or for visual question answering (with answer_list)."
        )
    fields = translation.fields
    fields |= {"do_train": True, "do_eval": "validation_files" in fields, "do_predict": "test_files" in fields}
    if not fields["do_eval"]:
        fields["eval_strategy"] = "no"
    return translation


def _translate_salesforce(config: dict[str, Any], path: Path) -> Translation:
    notes = []
    if isinstance(name := config.pop("bert_config", None), str):
        config["bert_config"] = _read_bert_config(name, path)
        if not config["bert_config"]:
            notes.append(f"There is no file {name} (bert_config): the text tower is BERT-base with 6 fusion layers.")
    keys = dict(_flat(config))
    task = "vqa" if {"answer_list", "vqa_root"} & set(keys) else "retrieval" if "k_test" in keys else ""
    translation = Translation("salesforce/ALBEF", task, notes=notes)
    layers = _take_count(keys, "bert_config.num_hidden_layers", 12, path)
    text_layers = _take_count(keys, "bert_config.fusion_layer", 6, path)  # the first fusion layer's index
    computed = {
        f"{TEXT}.num_hidden_layers": layers,
        f"{TEXT}.num_fusion_layers": max(layers - text_layers, 0),
        "output_dir": f"output/{path.stem}",
        "dataloader_num_workers": 4,
    }
    if "schedular.warmup_epochs" in keys:
        computed["warmup_steps"] = 100 * _take_count(keys, "schedular.warmup_epochs", 1, path)
    _fill(translation, keys, SALESFORCE, computed)
    if keys.get("schedular.lr", keys.get("optimizer.lr")) != keys.get("optimizer.lr"):
        translation.notes.append("schedular.lr differs from optimizer.lr, which is the rate that counts.")
    return translation


def _translate_torchmultimodal(config: Mapping[str, Any], path: Path) -> Translation:
    keys = dict(_flat(config))
    has_answers = {"datamodule_args.answer_list", "datamodule_args.vqa_root"} & set(keys)
    task = "vqa" if has_answers else "retrieval" if {"k_test", "eval_args.k_test"} & set(keys) else ""
    translation = Translation("facebookresearch/multimodal", task)
    encoders = [f"{one}_encoder_args" for one in ("text", "multimodal")]
    text, fusion = (_take_count(keys, f"{one}.num_hidden_layers", 6, path) for one in encoders)
    computed = {
        f"{TEXT}.num_hidden_layers": text + fusion,
        f"{TEXT}.num_fusion_layers": fusion,
        "schedule_rules": "torchmultimodal",
    }
    for name in _TORCHMULTIMODAL_SIZES:
        own, other = (keys.get(f"{one}.{name}") for one in encoders)
        keys.pop(f"multimodal_encoder_args.{name}", None)
        if other not in (None, own):
            translation.notes.append(
                f"multimodal_encoder_args.{name} is {other}, but all text layers have text_encoder_args.{name}, {own}."
            )
    batch = keys.pop("datamodule_args.batch_size", None)
    if batch is not None:
        computed |= dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), batch)
    if "training_args.warmup_steps" in keys:
        levels, size = (_take_count(keys, f"training_args.{one}", 100, path) for one in ("warmup_steps", "step_size"))
        computed["warmup_steps"] = size * levels
    if (output := keys.pop("output_path", None)) is not None:
        computed["output_dir"] = str(Path(str(output)).parent)
    if keys.get("device") == "cpu":
        computed["use_cpu"] = bool(keys.pop("device"))
    _fill(translation, keys, TORCHMULTIMODAL, computed)
    return translation


def _fill(
    translation: Translation, keys: Mapping[str, Any], table: Mapping[str, str], computed: Mapping[str, Any]
) -> None:
    """Set the fields of keys with a counterpart and those that were computed, and note all other keys."""
    unknown = []
    for key, value in keys.items():
        if key in table:
            is_file = table[key].endswith("_files") and isinstance(value, str)
            _set(translation.fields, table[key], [value] if is_file else value)
        elif key in _ELSEWHERE:
            translation.notes.append(f"{key} is left out: {_ELSEWHERE[key]}.")
        elif key in _FIXED:
            known = _FIXED[key]
            if known is not None and (value.lower() if isinstance(value, str) else value) != known:
                translation.notes.append(f"{key} is {value!r}, which has no counterpart: it stays as with {known!r}.")
        elif not key.startswith(_REPEATED):
            unknown.append(key)
    for name, value in computed.items():
        _set(translation.fields, name, value)
    if unknown:
        translation.notes.append(f"These keys have no counterpart and are left out: {', '.join(unknown)}.")


def _take_count(keys: dict[str, Any], name: str, default: int, path: Path) -> int:
    """Remove a key and return its value, a whole number."""
    value = keys.pop(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise AlbefError(f"{path} has {name}: {value!r:.60}, but it must be a whole number from 0 on.")
    return value


def _set(fields: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        fields = fields.setdefault(part, {})
    fields[last] = value


def _flat(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return the values that are not empty, by keys joined with dots."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _read_bert_config(name: str, path: Path) -> dict[str, Any]:
    """Read the sizes of the text layers; nothing where the file is not there.

    Its path starts from the folder that the scripts are started in, mostly the parent of the file's own folder.
    """
    here = path.absolute().parent
    candidates = (Path(name), here / name, here.parent / name, here / Path(name).name)
    found = next((one for one in candidates if one.is_file()), None)
    if found is None:
        return {}
    try:
        fields = json.loads(found.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AlbefError(f"The file {found}, bert_config of {path}, cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise AlbefError(f"The file {found}, bert_config of {path}, must hold a mapping of fields to values.")
    return fields
