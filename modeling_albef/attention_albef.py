# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What all models of ALBEF declare to the library, the plain attention that it calls "eager", and who attends to whom.

Shapes: N text rows, L text tokens, S tokens without padding, H width, I images, P image tokens, d width of a head.
"""

import copy
import os
import re
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, logging

from .configuration_albef import AlbefError, named_model_errors

logger = logging.get_logger(__name__)

KeyValue = tuple[torch.Tensor, torch.Tensor]  # each (B, heads, tokens, d)
CAPTURED = ("output_hidden_states", "output_attentions")
TOWERS = {"vision_model": "vision tower", "text_model": "text tower", "text_decoder": "answer decoder"}
# parts of which a checkpoint of another task has nothing: how the names of their weights begin
PARTS = {
    r"(albef\.)?(vision_proj\.|text_proj\.|temperature$)": "projections",
    r"itm_head\.": "matching head",
    r"mlm_head\.": "masked-language head",
    r"assignment_head\.": "assignment head",
    r"classifier\.": "classifier",
    r"text_decoder\.": "answer decoder",
}


class AlbefAttentionModel(PreTrainedModel):
    """A model whose layers go through the library's attention interface.

    It is loaded as the library does, but refuses what would silently be another model than was asked for.
    """

    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over the batch, not normalised over accumulated batches
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _head: ClassVar[tuple[str, str] | None] = None  # how the names of its weights begin, and what it is called
    _renamed_weights: ClassVar[dict[str, str]] = {}  # patterns of names in checkpoints of other heads -> names here
    _lacks_head: bool = False

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a model; position embeddings are resampled where the weights are of another resolution.

        Args:
            pretrained_model_name_or_path: Folder or Hub name.
            model_args: Those of `PreTrainedModel.from_pretrained`.
            kwargs: Likewise; fields of the configuration too, of which `image_size`, the side of the images that the
                model is to take (pixels), counts beside a whole `config`, too.

        Returns:
            The model in evaluation mode.

        Raises:
            AlbefError: Weights or configuration are damaged, do not belong together, or are those of another type of
                model; the weights lack a whole tower; or the image size is wrong.
        """
        name, config = pretrained_model_name_or_path, kwargs.get("config")
        if kwargs.get("image_size", 0) is None:
            del kwargs["image_size"]
        if isinstance(config, PreTrainedConfig):
            config_class: Any = cls.config_class
            expected = config_class.model_type
            if config.model_type != expected:
                kind = f"{type(config).__name__} (of the type {config.model_type!r})"
                raise AlbefError(f"config is a {kind}, but {cls.__name__} needs one of the type {expected!r}.")
            if "image_size" in kwargs:
                kwargs["config"] = config = copy.deepcopy(config)
                config.image_size = kwargs.pop("image_size")
        with_info = kwargs.pop("output_loading_info", False)
        named = kwargs.get("key_mapping") or {}
        kwargs["key_mapping"] = {**cls._renamed_weights, **named} or None
        on_meta = torch.get_default_device().type == "meta"  # which is an error of the caller's, not of the model
        with nullcontext() if on_meta else named_model_errors(name):
            loaded: Any = super().from_pretrained(name, *model_args, output_loading_info=True, **kwargs)
        model, info = loaded
        if not named:
            model._weight_conversions = None  # the library would save the renamed weights under their old names again
        if name is not None:  # there is a checkpoint
            model._check_towers(info["missing_keys"])
        if cls._head is not None:
            model._lacks_head = any(key.startswith(cls._head[0]) for key in info["missing_keys"])
        return (model, info) if with_info else model

    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        """As the library does; weights that a checkpoint of another task has none of are tied without a complaint."""
        pairs = getattr(self, "all_tied_weights_keys", {}).items()
        new = {source for pair in pairs if missing_keys and missing_keys.issuperset(pair) for source in pair[1:]}
        super().tie_weights(missing_keys - new if missing_keys and new else missing_keys, recompute_mapping)

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        """As the library does; where whole parts are new and nothing else is amiss, a sentence replaces its table."""
        super()._adjust_missing_and_unexpected_keys(loading_info)
        info, tied = loading_info, set(getattr(self, "all_tied_weights_keys", ()))
        info.unexpected_keys = {key for key in info.unexpected_keys if not any(re.match(one, key) for one in PARTS)}
        own = {name: {key for key in self.state_dict() if re.match(one, key)} for one, name in PARTS.items()}
        new = [name for name, keys in own.items() if keys and keys - tied <= info.missing_keys]
        left = info.missing_keys.difference(tied, *(own[name] for name in new))
        if new and not (left or info.unexpected_keys or info.mismatched_keys or info.conversion_errors):
            logger.warning(
                f"{type(self).__name__}: {self.config._name_or_path or 'the checkpoint'} is of another task. "
                f"New, to be trained: {', '.join(new)}."
            )
            info.create_loading_report = lambda *_: None

    def _check_towers(self, missing: set[str]) -> None:
        """Refuse a model of which the checkpoint has no layer of a tower, unless it can start from another tower."""
        for path, part in self.named_modules():
            if not isinstance(part, PreTrainedModel) or part.base_model_prefix not in TOWERS:
                continue
            names = (f"{path}.{key}" if path else key for key in part.state_dict())
            layers = {name for name in names if re.search(r"\.\d+\.", name)}
            if layers and layers <= missing and not self._start_tower(part.base_model_prefix):
                name = self.config._name_or_path
                raise AlbefError(
                    f"The model {name!r} has no weights of the {TOWERS[part.base_model_prefix]}: give a whole ALBEF."
                )

    def _start_tower(self, name: str) -> bool:
        """Start a tower that the checkpoint lacks, by its name in the model; False where it cannot be."""
        return False

    def train(self, mode: bool = True) -> Any:
        """As `torch.nn.Module.train`; a head that was started at random counts as trained from then on."""
        self._lacks_head = self._lacks_head and not mode
        return super().train(mode)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend step by step, so that the attention maps can be returned and differentiated.

    Queries (B, heads, L, d), keys and values (B, heads, N, d), a mask broadcastable to (B, heads, L, N), which is added
    or, where it is boolean, says what is seen; gives the context (B, L, heads, d), and the probabilities
    (B, heads, L, N) before dropout.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    probabilities = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    kept = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return (kept @ value).transpose(1, 2).contiguous(), probabilities


def attention_name(name: str, attention_mask: Any, output_attentions: bool | None = None) -> str:
    """Return the attention of the library that does what is asked: `name` wherever it can.

    Only "eager" gives probabilities, so that it stands in for "sdpa" where they are asked for; and "sdpa" stands in for
    flash and flex attention, whose masks have forms of their own, where a plain mask says what is seen.
    """
    if name == "sdpa" and output_attentions:
        return "eager"
    plain = isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 4
    return "sdpa" if plain and ("flash" in name or name == "flex_attention") else name


def output_options(config: Any, **given: Any) -> dict[str, Any]:
    """Return which states a model asks its towers for: what is `given` or, where that is None, what `config` says."""
    options = {"output_attentions": None, "output_hidden_states": None, **given}
    said = {name: getattr(config, name, False) or None if value is None else value for name, value in options.items()}
    return {name: value for name, value in said.items() if value is not None}


def select_layers(states: tuple[torch.Tensor, ...] | None, wanted: Any) -> Any:
    """Return states of layers with None where `output_hidden_states`, a layer or a list of them, does not want them."""
    if states is None or wanted is None or isinstance(wanted, bool):
        return states
    kept = {index % len(states) for index in ([wanted] if isinstance(wanted, int) else wanted)}
    return tuple(state if index in kept else None for index, state in enumerate(states))


def every_layer(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with all hidden states in place of some; for a tower that is run in two parts."""
    wanted = options.get("output_hidden_states")
    return options if wanted is None else {**options, "output_hidden_states": wanted is not False}


class NestedOutput(ModelOutput):
    """An output with outputs of towers in it, which are tuples in the tuple that it is turned to."""

    def to_tuple(self) -> tuple[Any, ...]:
        """Return what is there, without names."""
        return tuple(part.to_tuple() if isinstance(part, ModelOutput) else part for part in self.values())


class PaddedRows:
    """Attention pattern of states (N, L, H): a row attends to itself, and to the other states that belong to the row.

    A pattern says which states attend to which; `AlbefTextSelfAttention.attend` computes it. Further ones are
    `PackedRows`, `PackedTexts` and `TreeNodes`.
    """

    def pack(self, states: torch.Tensor) -> torch.Tensor:
        """Return what the layers compute of states (N, L, H)."""
        return states

    def pad(self, states: torch.Tensor) -> torch.Tensor:
        """Return (N, L, H) of what `pack` returned."""
        return states

    def residual(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states of which self-attention is computed."""
        return states

    def self_attention(
        self,
        module: Any,
        states: torch.Tensor,
        mask: torch.Tensor | None,
        cache: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the context of `residual(states)`, in its shape, and the probabilities where there are any.

        `module` is an `AlbefTextSelfAttention`, `cache` a `Cache` of the library, in generation, or None.
        """
        key = module.split_heads(self.pad(module.key(states)))
        value = module.split_heads(self.pad(module.value(states)))
        if cache is not None:
            key, value = cache.update(key, value, module.layer_index)
        query = module.split_heads(self.pad(module.query(states)))
        context, probabilities = module.attend(query, key, value, mask, **kwargs)
        return self.pack(context), probabilities

    def cross_attention(
        self,
        module: Any,
        states: torch.Tensor,
        key_value: KeyValue,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the context of the states, in their shape.

        With fewer keys than rows, the rows are equal runs, one for each key. A run is folded into the query length, so
        nothing is repeated: (I, heads, T * L, d) against (I, heads, P, d). States (I, P, W) may stand for keys and
        values; see `AlbefTextSelfAttention.attend_folded`.
        """
        states = self.pad(module.query(states))
        rows, runs = states.shape[0], key_value[0].shape[0]  # len() would be a constant in an exported graph
        if rows % runs:
            raise ValueError(f"{rows} text rows cannot be dealt out to {runs} images: give `image_index`.")
        if key_value[0].dim() == 3:
            context = module.attend_folded(states.reshape(runs, -1, states.shape[2]), key_value[0])
            return self.pack(context.reshape(states.shape)), None
        query = module.split_heads(states)  # (N, heads, L, d)
        if rows != runs:
            query = query.unflatten(0, (runs, -1)).transpose(1, 2).flatten(2, 3)  # (I, heads, T * L, d)
        context, probabilities = module.attend(query, *key_value, attention_mask, **kwargs)
        if rows != runs and probabilities is not None:
            probabilities = probabilities.unflatten(2, (rows // runs, -1)).transpose(1, 2).flatten(0, 1)
        return self.pack(context.reshape(states.shape)), probabilities


PADDED_ROWS = PaddedRows()


@dataclass(frozen=True)
class PackedRows(PaddedRows):
    """The same pattern of rows whose padding is left out, (1, S, H): it is there in the attention alone.

    So every linear map, nearly all of the work, is one product over the tokens.
    """

    slots: torch.Tensor  # (S,) index of each token among the N * L
    shape: tuple[int, int]  # N, L

    @staticmethod
    def from_mask(attention_mask: torch.Tensor | None) -> PaddedRows:
        """Return the pattern of rows with a mask (N, L), 1 = token.

        The rows stay padded where there is no padding, where a row has no token, and on a GPU, which would be waited
        for; so they do where a graph is recorded, whose shapes may not depend on the tokens.
        """
        if attention_mask is None or attention_mask.dim() != 2 or attention_mask.device.type != "cpu":
            return PADDED_ROWS
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return PADDED_ROWS
        counts = attention_mask.bool().sum(dim=1)
        if counts.numel() == 0 or int(counts.min()) in (0, attention_mask.shape[1]):
            return PADDED_ROWS
        slots = attention_mask.flatten().nonzero()[:, 0]
        return PackedRows(slots, (attention_mask.shape[0], attention_mask.shape[1]))

    def pack(self, states: torch.Tensor) -> torch.Tensor:
        """Return (1, S, H) of states (N, L, H)."""
        return states.flatten(0, 1).index_select(0, self.slots)[None]

    def pad(self, states: torch.Tensor) -> torch.Tensor:
        """Return (N, L, H), 0 where there is no token, of states (1, S, H)."""
        count = self.shape[0] * self.shape[1]
        padded = states.new_zeros(count, states.shape[2]).index_copy(0, self.slots, states[0])
        return padded.unflatten(0, self.shape)
