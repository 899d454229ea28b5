# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Configurations of ALBEF (vision tower, text tower, decoder, the model that joins them), errors, argument checks."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pickle import UnpicklingError
from traceback import walk_tb
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

_SIZE, _LAYERS, _SHARE, _SMALL = (1, 2**24), (1, 1000), (0, 1), (0, 100)  # least and greatest value of a field
BERT_VOCABULARY, BERT_CLS, BERT_SEP = 30522, 101, 102  # of bert-base-uncased


class AlbefError(ValueError):
    """What a user can mend; the message is a sentence about the value and one about the remedy."""


@contextmanager
def exit_with_message(*errors: type[Exception], message: Callable[[Exception], str] = str) -> Iterator[None]:
    """End the process with status 1 and a message after one of these errors; all others keep their traceback."""
    try:
        yield
    except errors as error:
        raise SystemExit(message(error)) from error


def one_line(error: Exception) -> str:
    """Return the text of a library's error on one line that can be printed, at most 500 characters of it."""
    return " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())[:500]


def is_from_library(error: Exception) -> bool:
    """Return whether a library raised an error on what it was given, and not the code that it called."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__) if not frame.f_code.co_name.startswith("__getattr")]
    module = frames[-1].f_globals.get("__name__", "")
    name = module.partition(".")[0]
    known = name in ("transformers", "accelerate", "huggingface_hub", "peft") or name in sys.stdlib_module_names
    return known or module in ("torch.serialization", "torch._utils", "torch._weights_only_unpickler")  # read files


@contextmanager
def named_model_errors(name: Any, *further: type[Exception]) -> Iterator[None]:
    """Raise the library's errors on damaged or foreign files, and `further` ones, as one that names the model."""
    try:
        yield
    except Exception as error:  # the library raises nearly anything on damaged files
        is_unnamed = name is not None and str(name) not in str(error)
        if is_unnamed and type(error).__name__ == "AlbefError":  # of a value in its configuration
            raise AlbefError(f"The model in {name} cannot be used: {error}") from error
        passes = isinstance(error, OSError | ImportError) or not (is_from_library(error) or "allocat" in str(error))
        if passes and not isinstance(error, (SafetensorError, StrictDataclassError, UnpicklingError, *further)):
            raise
        raise AlbefError(f"The model in {name} cannot be used: {one_line(error)}") from error


def check_shapes(known: Mapping[str, int] | None = None, **tensors: tuple[torch.Tensor | None, str]) -> None:
    """Refuse tensors whose shapes do not fit each other, with an error that has the argument and both shapes.

    By the name of the argument: the tensor (None fits) and its shape, a letter a dimension, as "NL". The first tensor
    with a letter sets its size, unless `known` does; no size may be 0. Only shapes are looked at, no values: nothing
    waits for a device, and compiled and exported graphs stay whole.
    """
    sizes = dict(known or {})
    for name, (tensor, letters) in tensors.items():
        if tensor is None:
            continue
        if not hasattr(tensor, "dim"):
            kind = type(tensor).__name__
            raise ValueError(f'{name} is a {kind}, but a tensor is expected: give the processor return_tensors="pt".')
        found, fits = dict(sizes), tensor.dim() == len(letters)
        for letter, size in zip(letters, tensor.shape, strict=False):
            fits = fits and size > 0 and size == found.setdefault(letter, size)
        if not fits:
            fixed = ", ".join(f"{letter} = {sizes[letter]}" for letter in dict.fromkeys(letters) if letter in sizes)
            raise ValueError(
                f"{name} has the shape {tuple(tensor.shape)}, but ({', '.join(letters)}) is expected, no size 0"
                + (f", with {fixed}." if fixed else ".")
            )
        sizes = found


def check_finite(values: torch.Tensor, what: str, source: Callable[[int], str]) -> None:
    """Raise an error that names the source of the first row of values (N, ..) that is not finite.

    Args:
        values: Features or scores.
        what: Which of the two.
        source: Returns what a row belongs to, in words.

    Raises:
        AlbefError: A value is NaN or infinite.
    """
    rows = (~values.isfinite())[..., None].flatten(1).any(dim=1).nonzero()
    if len(rows):
        count = f" Of {len(values)} rows, {len(rows)} are not finite." if len(rows) > 1 else ""
        raise AlbefError(
            f"The {what} of {source(int(rows[0]))} are not finite: load the model in float32, or another checkpoint."
            f"{count}"
        )


class AlbefPartConfig(PreTrainedConfig):
    """What the configurations of ALBEF share: they are not made of those of other models."""

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a `config.json`, as `PreTrainedConfig.get_config_dict` does.

        Raises:
            AlbefError: It is that of another type of model, of which the library would take ALBEF's sizes; or the
                model does not have this part.
        """
        fields, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        what = f"The model {str(pretrained_model_name_or_path)!r}"
        if not isinstance(fields, dict):
            raise AlbefError(f"{what} has a {type(fields).__name__} for a configuration, which must be a mapping.")
        if fields and fields.get("model_type") not in (AlbefConfig.model_type, cls.model_type):
            _refuse_type(fields.get("model_type"), what, cls.model_type)
        if fields.get(cls.base_config_key, ...) is None:
            raise AlbefError(f"{what} has no {cls.base_config_key}: give another.")
        return fields, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a configuration of its fields, as `PreTrainedConfig.from_dict` does; an AlbefError as above."""
        if config_dict.get("model_type", cls.model_type) != cls.model_type:
            _refuse_type(config_dict["model_type"], "The configuration", cls.model_type)
        for name in cls.sub_configs:
            if isinstance(kwargs.get(name), Mapping) and isinstance(config_dict.get(name) or {}, Mapping):
                # before the other changes, which the library's own way would undo
                config_dict = {**config_dict, name: {**(config_dict.get(name) or {}), **kwargs.pop(name)}}
        return super().from_dict(config_dict, **kwargs)


def _refuse_type(kind: Any, what: str, expected: str) -> None:
    raise AlbefError(f"{what} is of the type {kind!r:.60}, not {expected!r}: give an ALBEF model.")


@strict
class AlbefVisionConfig(AlbefPartConfig):
    """Sizes of the vision transformer; the defaults are ViT-B/16 at 384 pixels.

    Attributes:
        image_size: Side of the square input, pixels.
        patch_size: Side of a square patch, pixels; divides `image_size`.
        layer_norm_eps: 1e-6, as in salesforce/ALBEF `models/vit.py`.
        attention_dropout: Dropout on attention probabilities, 0..1; published: 0.
    """

    model_type = "albef_vision_model"
    base_config_key = "vision_config"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 384
    patch_size: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        _check_ranges(
            self,
            **dict.fromkeys(("hidden_size", "intermediate_size", "num_channels", "image_size"), _SIZE),
            **dict.fromkeys(("layer_norm_eps", "initializer_range"), _SMALL),
            num_hidden_layers=_LAYERS,
            attention_dropout=_SHARE,
        )
        _check_divides(self.patch_size, self.image_size, "patch_size", "image_size")
        _check_divides(self.num_attention_heads, self.hidden_size, "num_attention_heads", "hidden_size")

    @property
    def num_patches(self) -> int:
        """Patches of one image, the class token not counted."""
        return (self.image_size // self.patch_size) ** 2


@strict
class AlbefTextConfig(AlbefPartConfig):
    """Sizes of the text tower; the defaults are BERT-base whose upper half fuses text with the image.

    Attributes:
        num_hidden_layers: All layers: the text layers, then the fusion layers.
        num_fusion_layers: The last layers, which have cross-attention to the image.
        images_per_text: Images that each text is read with. Above 1 the fusion layers take turns: fusion layer i looks
            at image i modulo this number, and each run of as many layers shares its maps of images to keys and values.
        encoder_hidden_size: Width of the image states that the cross-attention reads; `AlbefConfig` sets it to the
            width of the vision tower.
        hidden_dropout_prob: Dropout after the embeddings and every block, 0..1; published: 0.1.
        attention_probs_dropout_prob: Dropout on attention probabilities, 0..1; published: 0.1.
    """

    model_type = "albef_text_model"
    base_config_key = "text_config"

    vocab_size: int = 30522
    hidden_size: int = 768
    encoder_hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_fusion_layers: int = 6
    images_per_text: int = 1
    num_attention_heads: int = 12
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    initializer_range: float = 0.02
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        sizes = ("vocab_size", "hidden_size", "encoder_hidden_size", "intermediate_size", "max_position_embeddings")
        _check_ranges(
            self,
            **dict.fromkeys((*sizes, "type_vocab_size"), _SIZE),
            **dict.fromkeys(("layer_norm_eps", "initializer_range"), _SMALL),
            **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), _SHARE),
            num_hidden_layers=_LAYERS,
        )
        _check_divides(self.num_attention_heads, self.hidden_size, "num_attention_heads", "hidden_size")
        if not 0 <= self.num_fusion_layers <= self.num_hidden_layers:
            raise AlbefError(
                f"num_fusion_layers is {self.num_fusion_layers}, but must lie between 0 and num_hidden_layers "
                f"({self.num_hidden_layers}): the fusion layers are the last of these layers."
            )
        if self.images_per_text < 1 or self.num_fusion_layers % self.images_per_text:
            raise AlbefError(
                f"images_per_text is {self.images_per_text}, but must be at least 1 and divide num_fusion_layers "
                f"({self.num_fusion_layers}): each image has a layer of every run of fusion layers."
            )

    @property
    def num_text_layers(self) -> int:
        """Layers that read text alone."""
        return self.num_hidden_layers - self.num_fusion_layers


@strict
class AlbefTextDecoderConfig(AlbefTextConfig):
    """Sizes of the answer decoder; the defaults are the published ones, six causal layers of BERT-base.

    Every layer has cross-attention to the states of the question, whose width is `encoder_hidden_size`.

    Attributes:
        bos_token_id: `[CLS]`, with which an answer starts; by default BERT's where the vocabulary has BERT's size.
        eos_token_id: `[SEP]`, with which it ends; likewise.
        tie_word_embeddings: Whether the output map is the word embeddings, as in the original.
        answer_list: Candidate answers that the model was trained with, which pipelines rank; None: answers are written.
    """

    model_type = "albef_text_decoder"
    base_config_key = "decoder_config"

    num_hidden_layers: int = 6
    num_fusion_layers: int = 6
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    is_decoder: bool = True
    use_cache: bool = True
    tie_word_embeddings: bool = True
    answer_list: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.vocab_size == BERT_VOCABULARY and self.bos_token_id is None and self.eos_token_id is None:
            self.bos_token_id, self.eos_token_id = BERT_CLS, BERT_SEP
        super().__post_init__(**kwargs)


@strict
class AlbefConfig(AlbefPartConfig):
    """Configuration of an ALBEF model (Li et al., NeurIPS 2021, arXiv 2107.07651).

    Attributes:
        vision_config: An `AlbefVisionConfig`, or a mapping of what differs from its defaults.
        image_size: That of `vision_config`: side of the square input, pixels. `from_pretrained` takes it too; the
            weights of another size are resampled.
        text_config: An `AlbefTextConfig`, or a mapping of what differs from its defaults.
        decoder_config: An `AlbefTextDecoderConfig` or a mapping for models that answer questions; None for the others.
        projection_dim: Width E of the space in which images and texts are compared.
        temperature_init: Start of the learned temperature that divides the similarities; > 0.
        search_calibration: `temperature` and `threshold` of the matching score, `cosine_temperature` and
            `cosine_threshold` of the similarity, below which a search says that nothing fits; None before calibration.
        rerank_weight: Of the matching logit beside similarity / temperature, by which a search orders its candidates:
            0 for the similarity alone; None, as published, for the matching logit alone.
        tie_word_embeddings: Whether the output map of the masked-language head is the word embeddings, as in the
            original; models without that head have no use for it.

    Example:
        >>> config = AlbefConfig(vision_config={"image_size": 256}, text_config={"num_hidden_layers": 8})
        >>> config.vision_config.num_patches, config.text_config.num_text_layers
        (256, 2)
    """

    model_type = "albef"
    sub_configs = {
        "vision_config": AlbefVisionConfig,
        "text_config": AlbefTextConfig,
        "decoder_config": AlbefTextDecoderConfig,
    }

    keys_to_ignore_at_inference = [  # `Trainer` gathers all else of an evaluation
        *("cache", "past_key_values", "vision_model_output", "text_model_output", "image_hidden_states"),
        *("text_hidden_states", "multimodal_hidden_states", "question_hidden_states", "hidden_states", "attentions"),
        *("cross_attentions", "decoder_hidden_states", "decoder_attentions", "decoder_cross_attentions"),
    ]

    vision_config: Any = None
    text_config: Any = None
    decoder_config: Any = None
    projection_dim: int = 256
    temperature_init: float = 0.07
    search_calibration: dict[str, float] | None = None
    rerank_weight: float | int | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = _as_config(self.vision_config, AlbefVisionConfig)
        self.text_config = _as_config(self.text_config, AlbefTextConfig)
        self.text_config.encoder_hidden_size = self.vision_config.hidden_size
        if self.decoder_config is not None:
            self.decoder_config = _as_config(self.decoder_config, AlbefTextDecoderConfig)
            self.decoder_config.encoder_hidden_size = self.text_config.hidden_size
        _check_ranges(self, projection_dim=_SIZE, temperature_init=(1e-6, 1e6), initializer_range=_SMALL)
        if self.rerank_weight is not None:
            _check_ranges(self, rerank_weight=(0, 1e6))
        if self.search_calibration is not None:
            _check_calibration(self.search_calibration)
        self.architectures = self.architectures or []  # an Auto class that has several heads looks into it
        if not __name__.startswith("transformers_modules."):
            kwargs.pop("custom_pipelines", None)  # the registered ones; the library would ask for trust in the copies
        super().__post_init__(**kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Return the configuration of what reads text or, with `decoder` alone, of what writes it, if that is there.

        Args:
            decoder: Whether the answer decoder is meant.
            encoder: Whether the text tower is meant; so it is where both are given or none.

        Returns:
            `decoder_config` or `text_config` itself.
        """
        return self.decoder_config if decoder and not encoder and self.decoder_config is not None else self.text_config

    @property
    def image_size(self) -> int:
        """Return the side of the square input, pixels."""
        return self.vision_config.image_size

    @image_size.setter
    def image_size(self, value: int) -> None:
        AlbefVisionConfig(patch_size=self.vision_config.patch_size, image_size=value)  # checks the size
        self.vision_config.image_size = value


def _as_config(value: Any, config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        if value.model_type != config_class.model_type:  # not by class, of which there may be copies
            what = f"The configuration for {config_class.base_config_key}"
            _refuse_type(value.model_type, what, config_class.model_type)
        return value
    if not isinstance(value or {}, Mapping):
        raise AlbefError(f"{config_class.base_config_key} is {value!r:.100}, but must be a mapping of its fields.")
    return config_class(**(value or {}))


def _check_ranges(config: PreTrainedConfig, **ranges: tuple[float, float]) -> None:
    for name, (least, most) in ranges.items():
        if not least <= getattr(config, name) <= most:
            raise AlbefError(f"{name} is {getattr(config, name)}, but must lie between {least} and {most}.")
    if getattr(config, "hidden_act", "gelu") not in ACT2FN:
        raise AlbefError(f"hidden_act is {config.hidden_act!r}, but must be one of {', '.join(ACT2FN)}.")


def _check_calibration(calibration: Mapping[str, float]) -> None:
    names = [f"{stage}{name}" for stage in ("", "cosine_") for name in ("temperature", "threshold")]
    if sorted(calibration) != sorted(names) or min(calibration[name] for name in names[::2]) <= 0:
        raise AlbefError(f"search_calibration is {calibration}, but must have {', '.join(names)}, temperatures > 0.")


def _check_divides(divisor: int, number: int, divisor_name: str, number_name: str) -> None:
    if divisor < 1 or number < 1:
        raise AlbefError(f"{number_name} is {number} and {divisor_name} {divisor}, but both must be at least 1.")
    if number % divisor:
        raise AlbefError(f"{number_name} is {number}, but must be a multiple of {divisor_name} ({divisor}).")
