"""ALBEF from a vision transformer and a BERT, as the paper starts from DeiT and BERT: sizes and weights of its towers.

Shapes: H width of a tower.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel
from transformers.utils import logging as library_logging

from ..configuration_albef import AlbefConfig, AlbefError, one_line

logger = library_logging.get_logger(__name__)

VISION_TYPES = ("vit", "deit", "dinov2")
TEXT_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")  # the first token has the position pad_token_id + 1
POOLED = ("vit", "deit", "bert", "roberta", "xlm-roberta", "camembert")  # with a pooler, which ALBEF does not have
WHY_NOT = {
    **dict.fromkeys(("clip", "clip_vision_model"), "it normalizes its tokens before the first layer"),
    **dict.fromkeys(("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model"), "it has no class token"),
    "dinov2_with_registers": "it has register tokens beside the class token",
    **dict.fromkeys(("beit", "data2vec-vision"), "its positions are relative"),
    **dict.fromkeys(("swin", "swinv2", "convnext", "convnextv2", "resnet"), "it is no plain vision transformer"),
    **dict.fromkeys(("mpnet", "deberta", "deberta-v2"), "its positions are relative"),
    "albert": "its layers share their weights",
    "modernbert": "its positions are rotary",
}

# Names of weights in the library -> ALBEF's, tried in this order; ViT's changed in transformers 5.21.
VISION_NAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(encoder\.layer|layers)\.", "blocks."),
    (r"\.attention\.attention\.", ".attention."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(query|key|value|q_proj|k_proj|v_proj)\.", r".attn.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
DISTILBERT_NAMES = (
    (r"^transformer\.layer\.", "encoder.layer."),
    (r"\.attention\.q_lin\.", ".attention.self.query."),
    (r"\.attention\.k_lin\.", ".attention.self.key."),
    (r"\.attention\.v_lin\.", ".attention.self.value."),
    (r"\.attention\.out_lin\.", ".attention.output.dense."),
    (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
    (r"\.ffn\.lin1\.", ".intermediate.dense."),
    (r"\.ffn\.lin2\.", ".output.dense."),
    (r"\.output_layer_norm\.", ".output.LayerNorm."),
)
IGNORED = r"^pooler\.|^embeddings\.(mask_token|distillation_token|position_ids|token_type_ids)$"


@dataclass(frozen=True)
class Encoder:
    """A tower as ALBEF has it.

    Attributes:
        name: What it was read from, for messages.
        sizes: Fields of `AlbefVisionConfig` or `AlbefTextConfig`.
        weights: Tensors by their names in the tower.
        source: Folder, Hub name, or model.
    """

    name: str
    sizes: dict[str, Any]
    weights: dict[str, torch.Tensor]
    source: Any = None


def read_vision_encoder(source: Any) -> Encoder:
    """Return a ViT, DeiT or DINOv2 as ALBEF's vision tower.

    DINOv2's LayerScale is folded into the map before it. A DeiT of which the training used a distillation token loses
    that token, and its states change a little.

    Args:
        source: Folder, Hub name, or model of the library.

    Raises:
        AlbefError: It cannot be loaded, or is of another form; the message says in what.
    """
    model, name = _load(source, VISION_TYPES, "vision encoder")
    config = model.config
    if not isinstance(config.image_size, int) or not isinstance(config.patch_size, int):
        _refuse(name, "vision encoder", "its images or patches are not square")
    if getattr(config, "use_swiglu_ffn", False):
        _refuse(name, "vision encoder", "its feed-forward blocks are SwiGLU")
    weights = _renamed(model.state_dict(), VISION_NAMES)
    if "distillation_token" in dict(model.embeddings.named_parameters()):
        logger.warning(f"The distillation token of {name!r} is left out, which changes its states a little.")
        positions = weights["pos_embed"]
        weights["pos_embed"] = torch.cat([positions[:, :1], positions[:, 2:]], dim=1)
    for index in range(config.num_hidden_layers):
        _fuse_projections(weights, f"blocks.{index}.attn", config.hidden_size)
        _fold_layer_scale(weights, f"blocks.{index}.layer_scale1", f"blocks.{index}.attn.proj")
        _fold_layer_scale(weights, f"blocks.{index}.layer_scale2", f"blocks.{index}.mlp.fc2")
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size", "patch_size")
    sizes = {name: getattr(config, name) for name in (*names, "hidden_act", "layer_norm_eps")}
    sizes["intermediate_size"] = weights["blocks.0.mlp.fc1.weight"].shape[0]
    return Encoder(name, sizes, weights)


def read_text_encoder(source: Any) -> Encoder:
    """Return a BERT, RoBERTa or DistilBERT as ALBEF's text tower; `num_hidden_layers` are its own.

    RoBERTa's positions are counted from 0; DistilBERT, which has no token types, gets one of zeros.

    Args:
        source: Folder, Hub name, or model of the library.

    Raises:
        AlbefError: It cannot be loaded, or is of another form; the message says in what.
    """
    model, name = _load(source, TEXT_TYPES, "text encoder")
    config, is_distilled = model.config, model.config.model_type == "distilbert"
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        _refuse(name, "text encoder", "its positions are relative")
    weights = _renamed(model.state_dict(), DISTILBERT_NAMES if is_distilled else ())
    width, positions = config.hidden_size, "embeddings.position_embeddings.weight"
    if config.model_type in POSITIONS_AFTER_PADDING:
        weights[positions] = weights[positions][config.pad_token_id + 1 :]
    weights.setdefault("embeddings.token_type_embeddings.weight", torch.zeros(1, width))
    dropouts = ("dropout", "attention_dropout") if is_distilled else _DROPOUTS
    act = "activation" if is_distilled else "hidden_act"
    return Encoder(
        name,
        {
            "vocab_size": weights["embeddings.word_embeddings.weight"].shape[0],
            "hidden_size": width,
            "intermediate_size": weights["encoder.layer.0.intermediate.dense.weight"].shape[0],
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "max_position_embeddings": weights[positions].shape[0],
            "type_vocab_size": weights["embeddings.token_type_embeddings.weight"].shape[0],
            "hidden_act": getattr(config, act),
            "layer_norm_eps": getattr(config, "layer_norm_eps", 1e-12),
            "pad_token_id": config.pad_token_id,
            **{ours: getattr(config, theirs) for ours, theirs in zip(_DROPOUTS, dropouts, strict=True)},
        },
        weights,
        source,
    )


_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")


def combined_config(
    vision: Encoder, text: Encoder, num_text_layers: int | None, num_fusion_layers: int | None, fields: dict[str, Any]
) -> AlbefConfig:
    """Return the configuration of an ALBEF of two encoders.

    Without numbers of layers the text encoder's are dealt out as in the paper: the lower half reads, the upper half
    (the smaller, of an odd number) fuses. One number leaves the rest of the layers to the other. With both, there may
    be more layers than the encoder has, or fewer.

    Args:
        vision: The vision encoder.
        text: The text encoder.
        num_text_layers: Layers that read text alone, at least 0; None: see above.
        num_fusion_layers: Layers with cross-attention, at least 0; None: see above.
        fields: Further fields of `AlbefConfig`; those of `vision_config` and `text_config` win over the encoders'.
    """
    layers = text.sizes["num_hidden_layers"]
    for name, value in (("num_text_layers", num_text_layers), ("num_fusion_layers", num_fusion_layers)):
        if value is not None and value < 0:
            raise AlbefError(f"{name} is {value}, but must be at least 0.")
        if value is not None and value > layers and None in (num_text_layers, num_fusion_layers):
            raise AlbefError(
                f"{name} is {value}, but {text.name} has {layers} layers: give num_text_layers and num_fusion_layers."
            )
    if num_fusion_layers is None:
        num_fusion_layers = layers // 2 if num_text_layers is None else layers - num_text_layers
    if num_text_layers is None:
        num_text_layers = layers - num_fusion_layers
    dealt = {"num_hidden_layers": num_text_layers + num_fusion_layers, "num_fusion_layers": num_fusion_layers}
    vision_config = {**vision.sizes, **(fields.pop("vision_config", None) or {})}
    text_config = {**text.sizes, **dealt, **(fields.pop("text_config", None) or {})}
    return AlbefConfig(vision_config=vision_config, text_config=text_config, **fields)


def load_encoders(model: Any, vision: Encoder, text: Encoder) -> list[str]:
    """Load two encoders into a model of `combined_config`, in place.

    Args:
        model: Any ALBEF model.
        vision: Its vision tower; position embeddings are resampled to the model's image size.
        text: Its text tower: as many of the model's lowest layers as both have.

    Returns:
        Names of the model's parameters that stayed new.

    Raises:
        AlbefError: A size differs, or an encoder has weights that the tower has no place for.
    """
    from ..modeling_albef_vision import interpolate_position_embeddings

    albef = model.base_model
    patches = albef.vision_model.config.num_patches
    positions = interpolate_position_embeddings(vision.weights["pos_embed"], patches)
    layers = albef.text_model.config.num_hidden_layers
    unused = [key for key in text.weights if (match := _LAYER.search(key)) and int(match[1]) >= layers]
    known = {key: value for key, value in text.weights.items() if key not in unused}
    loaded = _fill(albef.vision_model, {**vision.weights, "pos_embed": positions}, vision.name)
    loaded |= _fill(albef.text_model, known, text.name)
    if hasattr(model, "mlm_head"):
        loaded |= _fill_language_head(model.mlm_head, text.source)
    names = {parameter: name for name, parameter in model.named_parameters()}
    new = [name for parameter, name in names.items() if parameter not in loaded]
    if hasattr(model, "initialize_decoder"):
        model.initialize_decoder()
        new = [name for name in new if _counterpart(name, albef.text_model.config.num_text_layers) in {None, *new}]
    if unused:
        logger.warning(f"The layers of {text.name} from {layers} on are not used: ALBEF has {layers} of text here.")
    return new


_LAYER = re.compile(r"^encoder\.layer\.(\d+)\.")


def _fill(tower: Any, weights: Mapping[str, torch.Tensor], name: str) -> set[torch.nn.Parameter]:
    """Copy weights into a tower; return the parameters that got one."""
    parameters = dict(tower.named_parameters())
    if further := sorted(weights.keys() - parameters.keys()):
        _refuse(name, "encoder", f"it has weights that ALBEF does not have, such as {further[0]}")
    for key, value in weights.items():
        if parameters[key].shape != value.shape:
            raise AlbefError(
                f"{key} of {name} has the shape {tuple(value.shape)}, but the model {tuple(parameters[key].shape)}: "
                "leave the sizes out, which are the encoder's."
            )
        with torch.no_grad():
            parameters[key].copy_(value)
    return {parameters[key] for key in weights}


def _fill_language_head(head: Any, source: Any) -> set[torch.nn.Parameter]:
    """Copy the masked-language head of a BERT that has one, as published; return the parameters that got a weight."""
    if not isinstance(source, PreTrainedModel):
        with _without_report():
            options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
            source, info = AutoModelForMaskedLM.from_pretrained(source, **options)
        if any(key.startswith("cls.predictions.transform.") for key in info["missing_keys"]):
            return set()
    predictions = getattr(getattr(source, "cls", None), "predictions", None)
    if predictions is None:
        return set()
    weights = {f"dense.{key}": value for key, value in predictions.transform.dense.state_dict().items()}
    weights |= {f"LayerNorm.{key}": value for key, value in predictions.transform.LayerNorm.state_dict().items()}
    return _fill(head, {**weights, "decoder.bias": predictions.bias}, "The masked-language head")


def _counterpart(name: str, num_text_layers: int) -> str | None:
    """Return which parameter of the text tower one of the answer decoder starts from; None for any other."""
    if match := re.match(r"text_decoder\.layer\.(\d+)\.(.*)", name):
        return f"albef.text_model.encoder.layer.{num_text_layers + int(match[1])}.{match[2]}"
    return name.replace("text_decoder.", "albef.text_model.") if name.startswith("text_decoder.embeddings.") else None


def describe_new(names: Iterable[str]) -> str:
    """Return names of parameters in short: a module once, and the layers of a tower as their first and last."""
    layers: dict[str, list[str]] = {}
    for name in names:
        match = _SHORT_NAME.fullmatch(name)
        before, index, after = (match[1], [match[2]], match[3]) if match else (_MODULE.sub("", name), [], "")
        layers.setdefault(f"{before}{{}}{after}", []).extend(index)
    return ", ".join(short.format("-".join(dict.fromkeys(found[:1] + found[-1:]))) for short, found in layers.items())


_SHORT_NAME = re.compile(r"(.*\.)(\d+)(\.\w+).*")  # up to the layer, its index, its part
_MODULE = re.compile(r"\.(weight|bias)$")


def _load(source: Any, types: tuple[str, ...], role: str) -> tuple[Any, str]:
    """Return an encoder without its head, and its name."""
    if isinstance(source, PreTrainedModel):
        name = getattr(source.config, "_name_or_path", "") or f"The {type(source).__name__}"
        _check_type(source.config.model_type, name, types, role)
        return source.base_model, name
    if not isinstance(source, (str, Path)):
        raise AlbefError(f"The {role} is {source!r:.60}, but must be a folder, a name on the Hub, or a model.")
    name, path = str(source), Path(source)
    if not path.is_dir() and (path.is_absolute() or name.startswith(".") or len(path.parts) > 2):
        raise AlbefError(f"There is no {role} at {name!r}: give a folder of the library's form, or a name on the Hub.")
    try:
        kind = AutoConfig.from_pretrained(name).model_type
    except ValueError as error:
        raise AlbefError(
            f"The {role} {name!r} is not one that the library knows ({one_line(error):.200}): give one of "
            f"{', '.join(types)}."
        ) from error
    except OSError as error:
        raise AlbefError(f"The {role} {name!r} cannot be loaded: {one_line(error)}") from error
    _check_type(kind, name, types, role)
    options: dict[str, Any] = {"add_pooling_layer": False} if kind in POOLED else {}
    try:
        with _without_report():
            model, info = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **options)
    except (OSError, ImportError) as error:
        raise AlbefError(f"The {role} {name!r} cannot be loaded: {one_line(error)}") from error
    if missing := sorted(key for key in info["missing_keys"] if not re.search(IGNORED, key)):
        raise AlbefError(f"The {role} {name!r} lacks {len(missing)} weights, such as {missing[0]}: copy it again.")
    return model, name


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep the library from listing weights that ALBEF has no use for; those that are missing are refused."""
    before = library_logging.get_verbosity()
    library_logging.set_verbosity_error()
    try:
        yield
    finally:
        library_logging.set_verbosity(before)


def _check_type(kind: str, name: str, types: tuple[str, ...], role: str) -> None:
    if kind not in types:
        _refuse(name, role, f"it is of the type {kind!r}" + (f": {WHY_NOT[kind]}" if kind in WHY_NOT else ""), types)


def _refuse(name: str, role: str, reason: str, types: Iterable[str] = (*VISION_TYPES, *TEXT_TYPES)) -> NoReturn:
    raise AlbefError(f"{name} cannot be ALBEF's {role}, since {reason}. Give one of {', '.join(types)}.")


def _renamed(state: Mapping[str, torch.Tensor], names: Iterable[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Return tensors by ALBEF's names, in float32, without what ALBEF does not have."""
    weights = {}
    for key, value in state.items():
        if re.search(IGNORED, key):
            continue
        for pattern, name in names:
            key = re.sub(pattern, name, key)
        weights[key] = value.detach().float()
    return weights


def _fuse_projections(weights: dict[str, torch.Tensor], prefix: str, width: int) -> None:
    """Put the maps to queries, keys and values (H, H) into one (3 H, H), in place; a bias that is missing is 0."""
    for kind in ("weight", "bias"):
        parts = []
        for short, long in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            keys = [f"{prefix}.{name}.{kind}" for name in (short, long)]
            found = [weights.pop(key) for key in keys if key in weights]
            parts.append(found[0] if found else torch.zeros(width))
        weights[f"{prefix}.qkv.{kind}"] = torch.cat(parts)


def _fold_layer_scale(weights: dict[str, torch.Tensor], scale: str, linear: str) -> None:
    """Multiply the result of a linear map by a LayerScale (H,), in place, where there is one."""
    if (factor := weights.pop(f"{scale}.lambda1", None)) is not None:
        weights[f"{linear}.weight"] = weights[f"{linear}.weight"] * factor[:, None]
        weights[f"{linear}.bias"] = weights[f"{linear}.bias"] * factor
