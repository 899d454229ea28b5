# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Find the class and the sizes of the model that a checkpoint holds, and build it, with every tensor checked.

Names and shapes of the tensors say all but the number of attention heads, which leaves no trace in the weights.
"""

import math
import re

import torch

from ..configuration_albef import AlbefConfig, one_line
from ..modeling_albef import AlbefPreTrainedModel
from ..modeling_albef_classification import AlbefForImageTextClassification
from ..modeling_albef_pretraining import AlbefForPreTraining
from ..modeling_albef_question_answering import AlbefForQuestionAnswering
from ..modeling_albef_retrieval import AlbefForImageTextRetrieval
from ..modeling_albef_visual_reasoning import AlbefForTextAssignment, AlbefForVisualReasoning
from .checkpoint_names import ConvertedCheckpoint, images_per_text
from .checkpoint_reading import ConversionError, shorten

ENTAILMENT_LABELS = ("contradiction", "neutral", "entailment")  # salesforce/ALBEF `dataset/ve_dataset.py`
REASONING_LABELS = ("False", "True")  # `dataset/nlvr_dataset.py`
HEAD_WIDTH = 64  # of ViT-B and BERT-base


def find_model_class(checkpoint: ConvertedCheckpoint) -> type[AlbefPreTrainedModel]:
    """Return the model class, known by its heads: a decoder, a classifier, one of pre-training, or matching alone.

    Two images are told from one by the fusion layers, see `images_per_text`.
    """
    if any(name.startswith("text_decoder.") for name in checkpoint.student):
        return AlbefForQuestionAnswering
    if "assignment_head.weight" in checkpoint.student:
        return AlbefForTextAssignment
    if "classifier.0.weight" in checkpoint.student:
        reads_two = images_per_text(checkpoint.student) == 2
        return AlbefForVisualReasoning if reads_two else AlbefForImageTextClassification
    if any(name.startswith("mlm_head.") for name in checkpoint.student):
        return AlbefForPreTraining
    if "itm_head.weight" in checkpoint.student:
        return AlbefForImageTextRetrieval
    raise ConversionError("The checkpoint has no answer decoder, classifier or matching head: its task is not known.")


def find_config(
    weights: dict[str, torch.Tensor], num_attention_heads: int | None, vision_num_attention_heads: int | None
) -> AlbefConfig:
    """Return the configuration found from the shapes of the student's weights; heads default to width / 64.

    What leaves no trace in the weights, such as dropout, is as published.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    vision, text, decoder = "albef.vision_model.", "albef.text_model.", "text_decoder."
    _, tokens, vision_width = _shape(shapes, f"{vision}pos_embed", 3)
    _, channels, patch_size, _ = _shape(shapes, f"{vision}patch_embed.proj.weight", 4)
    side = math.isqrt(max(tokens - 1, 0))
    if side**2 != tokens - 1 or not side:
        raise ConversionError(f"The image has {tokens} positions, which are not a class token and a square of patches.")
    layers = _count_layers(shapes, f"{text}encoder.layer.")
    fusing = sorted(_numbers(shapes, rf"{re.escape(text)}encoder\.layer\.(\d+)\.crossattention\."))
    if not 0 < len(fusing) < layers or fusing != list(range(layers - len(fusing), layers)):
        raise ConversionError(
            f"Of {layers} text layers those with attention to the image are {fusing or 'none'}; in ALBEF they are the "
            "upper ones, the lower ones read text alone: this is another model."
        )
    config = AlbefConfig(
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": _shape(shapes, f"{vision}blocks.0.mlp.fc1.weight", 2)[0],
            "num_hidden_layers": _count_layers(shapes, f"{vision}blocks."),
            "num_attention_heads": vision_num_attention_heads
            or _default_heads(vision_width, "--vision_num_attention_heads"),
            "num_channels": channels,
            "patch_size": patch_size,
            "image_size": side * patch_size,
        },
        text_config={
            **_text_sizes(shapes, f"{text}embeddings.", f"{text}encoder.layer.", num_attention_heads),
            "num_fusion_layers": len(fusing),
            "images_per_text": images_per_text(weights),
        },
    )
    if "albef.vision_proj.weight" in shapes:
        config.projection_dim = _shape(shapes, "albef.vision_proj.weight", 2)[0]
    if "classifier.2.weight" in shapes:
        _name_labels(config, _shape(shapes, "classifier.2.weight", 2)[0])
    if any(name.startswith(decoder) for name in shapes):
        sizes = _text_sizes(shapes, f"{decoder}embeddings.", f"{decoder}layer.", num_attention_heads)
        fields = {**sizes, "num_fusion_layers": sizes["num_hidden_layers"]}
        config = AlbefConfig(**{**config.to_dict(), "decoder_config": fields})
    return config


def _name_labels(config: AlbefConfig, count: int) -> None:
    """Set the labels of a classifier: three are those of visual entailment, two of two images those of NLVR2."""
    names = [f"LABEL_{index}" for index in range(count)]
    for known in (ENTAILMENT_LABELS, REASONING_LABELS if config.text_config.images_per_text > 1 else ()):
        names = list(known) if len(known) == count else names
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


def _text_sizes(shapes: dict[str, tuple], embeddings: str, layer: str, heads: int | None) -> dict[str, int]:
    vocabulary, width = _shape(shapes, f"{embeddings}word_embeddings.weight", 2)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _shape(shapes, f"{layer}0.intermediate.dense.weight", 2)[0],
        "num_hidden_layers": _count_layers(shapes, layer),
        "num_attention_heads": heads or _default_heads(width, "--num_attention_heads"),
        "max_position_embeddings": _shape(shapes, f"{embeddings}position_embeddings.weight", 2)[0],
        "type_vocab_size": _shape(shapes, f"{embeddings}token_type_embeddings.weight", 2)[0],
    }


def _shape(shapes: dict[str, tuple], name: str, dimensions: int) -> tuple:
    shape = shapes.get(name)
    if shape is None or len(shape) != dimensions:
        found = "is missing" if shape is None else f"has the shape {shape}"
        raise ConversionError(f"The sizes cannot be found: {name} {found}: give a whole checkpoint.")
    return shape


def _numbers(shapes: dict[str, tuple], pattern: str) -> set[int]:
    return {int(match[1]) for match in (re.match(pattern, name) for name in shapes) if match}


def _count_layers(shapes: dict[str, tuple], prefix: str) -> int:
    numbers = _numbers(shapes, rf"{re.escape(prefix)}(\d+)\.")
    if numbers != set(range(len(numbers))):
        odd = min(numbers - set(range(len(numbers))))
        raise ConversionError(
            f"Of {len(numbers)} layers {prefix}* one has the number {odd}: a layer before it is missing."
        )
    return len(numbers)


def _default_heads(width: int, option: str) -> int:
    if width % HEAD_WIDTH:
        raise ConversionError(f"The width {width} is no multiple of {HEAD_WIDTH}: say how many heads with {option}.")
    return width // HEAD_WIDTH


def build_model(
    model_class: type[AlbefPreTrainedModel],
    config: AlbefConfig,
    weights: dict[str, torch.Tensor],
    what: str,
    allow_leftover: bool = False,
    allow_missing: bool = False,
) -> tuple[AlbefPreTrainedModel, list[str]]:
    """Return a model of weights, not copied, and sentences that list what was left out or started at random."""
    try:
        with torch.device("meta"):
            model = model_class(config)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ConversionError(f"{what} has a configuration of no model ({one_line(error)}).") from error
    expected, notes = model.state_dict(), []
    if unknown := [name for name in weights if name not in expected]:
        if not allow_leftover:
            raise ConversionError(f"{what} has no place for {shorten(unknown)}: --allow_leftover leaves them out.")
        notes.append(f"{what}: left out: {', '.join(unknown)}")
    wrong = [
        f"{name} has {tuple(weights[name].shape)} in place of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if wrong:
        raise ConversionError(f"{what} is of mixed sizes: {shorten(wrong)}.")
    if odd := [name for name in expected if name in weights and not weights[name].is_floating_point()]:
        raise ConversionError(f"{what} has {shorten(odd)} of {weights[odd[0]].dtype}: weights must be floats.")
    if missing := [name for name in expected if name not in weights]:
        if not allow_missing:
            raise ConversionError(f"{what} lacks {shorten(missing)}: --allow_missing starts them at random.")
        notes.append(f"{what}: started at random: {', '.join(missing)}")
        model = model_class(config)
    known = {name: tensor for name, tensor in weights.items() if name in expected}
    model.load_state_dict(known, strict=not missing, assign=True)
    model.tie_weights()
    return model.eval(), notes
