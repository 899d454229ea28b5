# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Names of tensors in released ALBEF checkpoints and in these models, both ways.

Three schemes are read: that of salesforce/ALBEF (`models/model_pretrain.py`, `models/model_retrieval.py`,
`models/model_vqa.py`, `models/model_nlvr.py`), which LAVIS shares but for the token-type embeddings; that of
torchmultimodal (`examples/albef/model.py`); and the names of this package. Shapes: E projection width, Q queue slots, H
width.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from ..configuration_albef import AlbefError

SALESFORCE, LAVIS, TORCHMULTIMODAL, OWN = "salesforce/ALBEF", "LAVIS", "torchmultimodal", "this package"

_PREFIXES = {
    "visual_encoder": "albef.vision_model",
    "text_encoder": "albef.text_model",
    "vision_proj": "albef.vision_proj",
    "text_proj": "albef.text_proj",
    "itm_head": "itm_head",
    "cls_head": "classifier",
    "ta_head": "assignment_head",
}
# Word embeddings, and the output map that they are unless a file says otherwise: of the text tower, of the decoder.
OUTPUT_MAPS = (
    ("albef.text_model.embeddings.word_embeddings.weight", "mlm_head.decoder.weight"),
    ("text_decoder.embeddings.word_embeddings.weight", "text_decoder.head.decoder.weight"),
)
_QUEUE = {"image_queue", "text_queue", "idx_queue", "queue_ptr"}
_LANGUAGE_HEAD = "cls.predictions."  # of a language model
_DERIVED = ("position_ids", "cls.predictions.bias")  # a plain count; the second name of a tensor
_UNTWINNED = ("itm_head.weight", "itm_head.bias", "albef.temperature")

# torchmultimodal -> salesforce/ALBEF, one after the other; `+T` stands for the text layers counted before.
_TORCHMULTIMODAL = (
    (r"^(model_with_similarity\.)?(albef_)?model\.|^model_with_similarity\.", ""),
    (r"^vision_encoder(_m)?\.encoder\.", r"visual_encoder\1."),
    (r"\.class_token$", ".cls_token"),
    (r"\.conv_proj\.", ".patch_embed.proj."),
    (r"\.encoder\.pos_embedding$", ".pos_embed"),
    (r"\.encoder\.ln\.", ".norm."),
    (r"\.encoder\.layers\.encoder_layer_(\d+)\.", r".blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^multimodal_encoder(_m)?\.layer\.(\d+)\.", r"text_encoder\1.encoder.layer.\2+T."),
    (r"^answer_decoder(_m)?\.text_embeddings\.", r"text_decoder\1.bert.embeddings."),
    (r"^answer_decoder(_m)?\.multimodal_encoder\.", r"text_decoder\1.bert.encoder."),
    (r"^answer_decoder(_m)?\.prediction_head\.decoder\.", r"text_decoder\1.cls.predictions.decoder."),
    (r"^answer_decoder(_m)?\.prediction_head\.", r"text_decoder\1.cls.predictions.transform."),
    (r"\.layer_norm\.", ".LayerNorm."),
    (r"\.cross_attention([._])", r".crossattention\1"),
    (r"attention\.(query|key|value)\.", r"attention.self.\1."),
    (r"attention\.output\.", "attention.output.dense."),
    (r"attention_layernorm\.", "attention.output.LayerNorm."),
    (r"\.feedforward\.model\.0\.", ".intermediate.dense."),
    (r"\.feedforward\.model\.[23]\.", ".output.dense."),  # 3 where the file is of a model with dropout
    (r"\.feedforward_layernorm\.", ".output.LayerNorm."),
)


@dataclass
class ConvertedCheckpoint:
    """A released checkpoint, taken apart."""

    student: dict[str, torch.Tensor] = field(default_factory=dict)  # weights of a model of this package
    # weights of its momentum twin, if any; the head and the temperature, which have no twin, are the student's
    teacher: dict[str, torch.Tensor] = field(default_factory=dict)
    queue: dict[str, torch.Tensor] = field(default_factory=dict)  # state of a `FeatureQueue`, if any
    leftover: list[str] = field(default_factory=list)  # names in the file that have no counterpart here
    source: str = SALESFORCE  # whose names the file has


def find_source(names: Iterable[str]) -> str | None:
    """Return whose names these are; None where they are not those of an ALBEF."""
    names = set(names)
    if any(name.startswith("albef.vision_model.") for name in names):
        return OWN
    if any(re.search(r"(^|\.)vision_encoder\.encoder\.conv_proj\.", name) for name in names):
        return TORCHMULTIMODAL
    if not any(name.startswith("visual_encoder.") for name in names):
        return None
    return SALESFORCE if any(name.endswith("token_type_embeddings.weight") for name in names) else LAVIS


def convert_name(name: str) -> tuple[str, bool] | None:
    """Return the name here of a tensor of salesforce/ALBEF (with or without `bert.`), and whether it is the twin's.

    None where it has no counterpart.
    """
    if name == "temp":
        return "albef.temperature", False
    if name.startswith("text_decoder"):
        return _convert_decoder_name(name)
    match = re.fullmatch(r"(\w+?)(_m)?\.(?:bert\.)?(.+)", name)
    if match is None or match[1] not in _PREFIXES or match[3].endswith(_DERIVED):
        return None
    if match[1] == "text_encoder" and not match[3].startswith(("embeddings.", "encoder.")):
        is_head = match[3].startswith(_LANGUAGE_HEAD)
        return (_convert_head_name(match[3], "mlm_head."), match[2] is not None) if is_head else None
    return f"{_PREFIXES[match[1]]}.{match[3]}", match[2] is not None


def _convert_decoder_name(name: str) -> tuple[str, bool] | None:
    """As `convert_name`, for the answer decoder."""
    match = re.fullmatch(r"text_decoder(_m)?\.(?:bert\.)?(.+)", name)
    if match is None or match[2].endswith(_DERIVED):
        return None
    renamed = _convert_head_name(match[2].removeprefix("encoder."), "head.")
    return f"text_decoder.{renamed}", match[1] is not None


def _convert_head_name(name: str, prefix: str) -> str:
    """Return the name here of a tensor of a language head; other names stay."""
    return re.sub(rf"^{re.escape(_LANGUAGE_HEAD)}(transform\.)?", prefix, name)


def torchmultimodal_names(names: Iterable[str]) -> dict[str, str]:
    """Return the name in salesforce/ALBEF of each name of a torchmultimodal file, where fusion layers count from 0."""
    names = list(names)
    text_layers = {m[1] for m in (re.search(r"(?:^|\.)text_encoder\.encoder\.layer\.(\d+)\.", n) for n in names) if m}
    translated = {}
    for name in names:
        renamed = name
        for pattern, replacement in _TORCHMULTIMODAL:
            renamed = re.sub(pattern, replacement, renamed)
        translated[name] = re.sub(r"(\d+)\+T", lambda match: str(int(match[1]) + len(text_layers)), renamed)
    return translated


def convert_state_dict(state_dict: dict[str, torch.Tensor], source: str = SALESFORCE) -> ConvertedCheckpoint:
    """Take a released state dict apart into student, teacher and queue.

    Token-type embeddings that LAVIS leaves out become zeros, which add nothing.
    """
    if source == OWN:
        return ConvertedCheckpoint(student=_tied(state_dict), source=source)
    converted = ConvertedCheckpoint(source=source)
    names = torchmultimodal_names(state_dict) if source == TORCHMULTIMODAL else {name: name for name in state_dict}
    for original, name in names.items():
        renamed = convert_name(name)
        if renamed is not None:
            (converted.teacher if renamed[1] else converted.student)[renamed[0]] = state_dict[original]
        elif name not in _QUEUE and not name.endswith(_DERIVED):
            converted.leftover.append(original)
    if source == LAVIS:
        for weights in (converted.student, converted.teacher):
            _add_type_embeddings(weights)
    if converted.teacher:
        untwinned = {name: converted.student[name] for name in _UNTWINNED if name in converted.student}
        converted.teacher = {**untwinned, **converted.teacher}
    queue = {name: state_dict[original] for original, name in names.items() if name in _QUEUE}
    if {"image_queue", "text_queue"} <= set(queue):
        unknown = torch.full((1, queue["image_queue"].shape[1]), -100)
        converted.queue = {
            "image_embeds": queue["image_queue"].T.contiguous(),  # (Q, E)
            "text_embeds": queue["text_queue"].T.contiguous(),
            "image_ids": queue.get("idx_queue", unknown)[0].clone(),
            "pointer": queue.get("queue_ptr", torch.zeros(1, dtype=torch.long))[0].clone(),
        }
    return converted


def _tied(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a saved model with the second names of tensors, which safetensors leave out.

    They are output maps that are the word embeddings, and what the fusion layers of two images share.
    """
    maps: dict[str, torch.Tensor] = {}
    layers = fusion_layers(state_dict)
    for number, layer in layers.items():
        for part, name in () if "key.weight" in layer else layers.get(number - 1, {}).items():
            if part.startswith(("key.", "value.")):
                maps[name.replace(f".{number - 1}.cross", f".{number}.cross")] = state_dict[name]
    for words, output in OUTPUT_MAPS:
        if words in state_dict and output.replace("decoder.weight", "dense.weight") in state_dict:  # has that head
            maps[output] = state_dict[words]
    return {**maps, **state_dict}


def fusion_layers(names: Iterable[str]) -> dict[int, dict[str, str]]:
    """Return the names here of query, key and value maps to the image, by fusion layer and the end of the name."""
    found: dict[int, dict[str, str]] = {}
    for name in names:
        if match := re.fullmatch(r"albef\.text_model\.encoder\.layer\.(\d+)\.crossattention\.self\.(.+)", name):
            found.setdefault(int(match[1]), {})[match[2]] = name
    return dict(sorted(found.items()))


def images_per_text(weights: dict[str, torch.Tensor]) -> int:
    """Return how many images a classifier reads with a text: 2 where pairs of fusion layers share keys and values.

    Raises:
        AlbefError: Some pairs do, others do not.
    """
    layers = fusion_layers(weights)
    pairs = list(zip(list(layers)[::2], list(layers)[1::2], strict=False))
    if len(layers) % 2 or not any(name.startswith(("classifier.", "assignment_head.")) for name in weights):
        return 1
    shared = [pair for pair in pairs if _share_key_value(weights, *(layers[number] for number in pair))]
    if shared and shared != pairs:
        odd = next(pair for pair in pairs if pair not in shared)
        raise AlbefError(
            f"The fusion layers {odd[0]} and {odd[1]} have keys and values of their own, but other pairs share them, "
            "as the layers for two images do: download the checkpoint again."
        )
    return 2 if shared else 1


def _share_key_value(weights: dict[str, torch.Tensor], first: dict[str, str], second: dict[str, str]) -> bool:
    """Return whether the maps to keys and values of two fusion layers, by the end of their names, are the same."""
    for part in ("key.weight", "key.bias", "value.weight", "value.bias"):
        one, other = weights.get(first.get(part, "")), weights.get(second.get(part, ""))
        if one is None or other is None or one.shape != other.shape or not torch.equal(one, other):
            return False
    return True


def _add_type_embeddings(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if name.endswith("word_embeddings.weight")]:
        types = torch.zeros(2, weights[name].shape[1], dtype=weights[name].dtype)  # (2, H)
        weights.setdefault(name.replace("word_embeddings", "token_type_embeddings"), types)


def restore_state_dict(checkpoint: ConvertedCheckpoint) -> dict[str, torch.Tensor]:
    """Return the tensors in the format of salesforce/ALBEF: the way back of `convert_state_dict`.

    `bert.` is in language models only, which are the decoder and the text tower with a masked-language head; position
    ids and both names of a head's output bias are there, and the queue has one column a slot, in pre-training without
    image ids.
    """
    restored = {}
    is_pretrained = "mlm_head.dense.weight" in checkpoint.student
    for weights, twin in ((checkpoint.student, ""), (checkpoint.teacher, "_m")):
        for name, tensor in weights.items():
            if twin and name in _UNTWINNED:
                continue
            renamed = _restore_name(name, twin)
            if is_pretrained:
                renamed = re.sub(r"^(text_encoder\w*\.)(?=embeddings|encoder)", r"\1bert.", renamed)
            restored[renamed] = tensor
            if renamed.endswith("cls.predictions.decoder.bias"):
                restored[renamed.replace("decoder.bias", "bias")] = tensor
            elif renamed.endswith("embeddings.position_embeddings.weight"):
                positions = torch.arange(len(tensor))[None]  # (1, positions)
                restored[renamed.replace("position_embeddings.weight", "position_ids")] = positions
    if checkpoint.queue:
        restored["image_queue"] = checkpoint.queue["image_embeds"].T.contiguous()  # (E, Q)
        restored["text_queue"] = checkpoint.queue["text_embeds"].T.contiguous()
        if not is_pretrained:
            restored["idx_queue"] = checkpoint.queue["image_ids"][None].clone()
        restored["queue_ptr"] = checkpoint.queue["pointer"][None].clone()
    return restored


def _restore_name(name: str, twin: str) -> str:
    """Return the original's name of a tensor; `twin` is `_m` or empty."""
    if name == "albef.temperature":
        return "temp"
    for theirs, ours in _PREFIXES.items():
        if name.startswith(f"{ours}."):
            return f"{theirs}{twin}{name.removeprefix(ours)}"
    part = "text_encoder" if name.startswith("mlm_head.") else "text_decoder"
    renamed = re.sub(r"^(text_decoder\.|mlm_)", "", name)
    renamed = re.sub(r"^head\.decoder\.", f"{_LANGUAGE_HEAD}decoder.", renamed)
    renamed = re.sub(r"^head\.", f"{_LANGUAGE_HEAD}transform.", renamed)
    renamed = re.sub(r"^layer\.", "bert.encoder.layer.", renamed)
    return f"{part}{twin}.{re.sub(r'^embeddings', 'bert.embeddings', renamed)}"
