# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Text tower of ALBEF: tokens -> states. The lower layers read text, the upper (fusion) layers also look at the image.

A post-norm BERT whose parameters keep BERT's names, so that released weights map one to one. Shapes: N text rows, L
text tokens, H width, I images, P image tokens, d width of a head.
"""

import copy
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention_albef import (
    CAPTURED,
    PADDED_ROWS,
    AlbefAttentionModel,
    KeyValue,
    PackedRows,
    PaddedRows,
    attention_name,
    eager_attention_forward,
    output_options,
)
from .configuration_albef import AlbefError, AlbefTextConfig, check_shapes


class AlbefTextEmbeddings(nn.Module):
    """Word, position and token-type embeddings; the type is always 0."""

    def __init__(self, config: AlbefTextConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            length, limit = words.shape[1], self.position_embeddings.num_embeddings
            if length > limit:
                raise AlbefError(f"The text has {length} tokens, but the model reads at most {limit}: truncate it.")
            position_ids = token_positions(torch.arange(length, device=words.device), attention_mask)
        token_type = self.token_type_embeddings(position_ids.new_zeros(1))  # not .weight[0], which may be offloaded
        embeddings = words + token_type
        return self.dropout(self.LayerNorm(embeddings + self.position_embeddings(position_ids)))  # (N, L, H)


def token_positions(columns: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the positions of tokens in their texts, (L,) or (N, L): columns (L,) less the padding on the left."""
    if attention_mask is None or attention_mask.dim() != 2:
        return columns
    return (columns - attention_mask.int().argmax(dim=1, keepdim=True)).clamp(min=0)


def first_token(states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the states (N, H) of the first tokens, `[CLS]`, of states (N, L, H); padding may be on either side."""
    if attention_mask is None:
        return states[:, 0]
    index = attention_mask.int().argmax(dim=1)[:, None, None].expand(-1, 1, states.shape[2])
    return states.gather(1, index)[:, 0]


class AlbefTextSelfAttention(nn.Module):
    """Attention of texts to themselves or to other states, all of it: query, key and value maps, and what they give."""

    def __init__(
        self, config: AlbefTextConfig, layer_index: int, key_value_width: int, is_causal: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.layer_index = layer_index
        self.is_causal = is_causal  # sdpa takes a module without this flag for causal
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(key_value_width, config.hidden_size)
        self.value = nn.Linear(key_value_width, config.hidden_size)

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """Turn (B, tokens, H) into (B, heads, tokens, d)."""
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def project(self, states: torch.Tensor) -> KeyValue:
        """Return keys and values of states (B, tokens, width)."""
        return self.split_heads(self.key(states)), self.split_heads(self.value(states))

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        implementation: str | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the context (B, L, H) of heads (B, heads, tokens, d), and the probabilities where there are any."""
        name = implementation or self.config._attn_implementation
        name = attention_name(name, attention_mask, kwargs.get("output_attentions"))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        scaling = self.head_dim**-0.5
        context, probabilities = attend(
            self, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return context.flatten(2), probabilities

    def attend_folded(self, query: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return the context (I, L, H) of queries (I, L, H); states (I, P, W) stand for keys and values.

        The maps to keys and values are applied to the query and to the context, of `heads * L` rows, in place of the P
        rows of states: the same sums in another order. The bias of the keys adds the same number to all of a row's
        scores, which softmax does not see.
        """
        shape, width = query.shape[:2], self.head_dim
        heads = (self.split_heads(query) * width**-0.5).transpose(0, 1).flatten(1, 2)  # (heads, I * L, d)
        folded = heads @ self.key.weight.unflatten(0, (-1, width))  # (heads, I * L, W)
        folded = folded.unflatten(1, shape).transpose(0, 1).flatten(1, 2)  # (I, heads * L, W)
        weights = (folded @ states.transpose(1, 2)).softmax(dim=-1)  # (I, heads * L, P)
        weights = nn.functional.dropout(weights, self.config.attention_probs_dropout_prob, self.training)
        seen = (weights @ states).unflatten(1, (-1, shape[1])).transpose(0, 1).flatten(1, 2)  # (heads, I * L, W)
        context = seen @ self.value.weight.unflatten(0, (-1, width)).transpose(1, 2)  # (heads, I * L, d)
        context = context.unflatten(1, shape).permute(1, 2, 0, 3)  # (I, L, heads, d)
        if self.value.bias is not None:  # with dropout the weights do not sum to 1
            sums = weights.sum(dim=2).unflatten(1, (-1, shape[1])).transpose(1, 2)[..., None]  # (I, L, heads, 1)
            bias = self.value.bias + 0 * self.key.bias  # a gradient of 0, which other processes wait for
            context = context + sums * bias.unflatten(0, (-1, width))
        return context.flatten(2)

    @property
    def can_fold(self) -> bool:
        """Whether `attend_folded` may read the maps: they are no adapters, not quantized, and on the CPU."""
        return all(
            isinstance(part, nn.Linear)
            and type(part.weight) is nn.Parameter
            and part.weight.device.type == "cpu"
            and part.weight.is_floating_point()
            for part in (self.key, self.value)
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value: KeyValue | None = None,
        attention_mask: torch.Tensor | None = None,
        pattern: PaddedRows = PADDED_ROWS,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if key_value is None:
            return pattern.self_attention(self, hidden_states, attention_mask, cache, **kwargs)
        return pattern.cross_attention(self, hidden_states, key_value, attention_mask, **kwargs)


class AlbefTextOutput(nn.Module):
    """Linear map, dropout, residual, layer norm."""

    def __init__(self, config: AlbefTextConfig, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + residual)


class AlbefTextAttention(nn.Module):
    """Attention with its output map; `self` and `output` are BERT's names."""

    def __init__(
        self, config: AlbefTextConfig, layer_index: int, key_value_width: int, is_causal: bool = False
    ) -> None:
        super().__init__()
        self.self = AlbefTextSelfAttention(config, layer_index, key_value_width, is_causal)
        self.output = AlbefTextOutput(config, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value: KeyValue | None = None,
        attention_mask: torch.Tensor | None = None,
        pattern: PaddedRows = PADDED_ROWS,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        context = self.self(hidden_states, key_value, attention_mask, pattern, cache, **kwargs)[0]
        return self.output(context, pattern.residual(hidden_states) if key_value is None else hidden_states)


class AlbefTextIntermediate(nn.Module):
    """First half of the feed-forward block."""

    def __init__(self, config: AlbefTextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.act(self.dense(hidden_states))


class AlbefTextLayer(GradientCheckpointingLayer):
    """Post-norm layer: self-attention, in fusion and decoder layers cross-attention, feed-forward."""

    crossattention: AlbefTextAttention

    def __init__(self, config: AlbefTextConfig, index: int, has_cross_attention: bool, is_causal: bool = False) -> None:
        super().__init__()
        self.attention = AlbefTextAttention(config, index, config.hidden_size, is_causal)
        if has_cross_attention:
            self.crossattention = AlbefTextAttention(config, index, config.encoder_hidden_size)
        self.intermediate = AlbefTextIntermediate(config)
        self.output = AlbefTextOutput(config, config.intermediate_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cross_key: torch.Tensor | None = None,
        cross_value: torch.Tensor | None = None,
        cross_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        pattern: PaddedRows = PADDED_ROWS,
        **kwargs: Any,
    ) -> torch.Tensor:
        hidden_states = self.attention(hidden_states, None, attention_mask, pattern, cache, **kwargs)
        return self.finish(hidden_states, cross_key, cross_value, cross_mask, pattern, **kwargs)

    def finish(
        self,
        hidden_states: torch.Tensor,
        cross_key: torch.Tensor | None = None,
        cross_value: torch.Tensor | None = None,
        cross_mask: torch.Tensor | None = None,
        pattern: PaddedRows = PADDED_ROWS,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Do what comes after the self-attention: cross-attention where there are keys, and feed-forward."""
        if cross_key is not None and cross_value is not None:
            cross = (cross_key, cross_value)
            hidden_states = self.crossattention(hidden_states, cross, cross_mask, pattern, **kwargs)
        return self.output(self.intermediate(hidden_states), hidden_states)


class AlbefTextEncoder(nn.Module):
    """The stack of text layers, then fusion layers."""

    def __init__(self, config: AlbefTextConfig) -> None:
        super().__init__()
        self.num_text_layers = config.num_text_layers
        self.layer = nn.ModuleList(
            AlbefTextLayer(config, index, has_cross_attention=index >= config.num_text_layers)
            for index in range(config.num_hidden_layers)
        )
        self.share_key_value(config.images_per_text)

    def share_key_value(self, count: int) -> None:
        """Give all of each run of `count` fusion layers the first one's maps of images to keys and values."""
        for index, layer in enumerate(self.fusion_layers):
            first = self.fusion_layers[index - index % count].crossattention.self
            layer.crossattention.self.key, layer.crossattention.self.value = first.key, first.value

    @property
    def text_layers(self) -> list[AlbefTextLayer]:
        """Layers that read text alone."""
        return cast(list[AlbefTextLayer], list(self.layer[: self.num_text_layers]))

    @property
    def fusion_layers(self) -> list[AlbefTextLayer]:
        """Layers with cross-attention to the image."""
        return cast(list[AlbefTextLayer], list(self.layer[self.num_text_layers :]))


class AlbefTextModel(AlbefAttentionModel):
    """Text layers and fusion layers, which can be run apart."""

    config: AlbefTextConfig
    base_model_prefix = "text_model"
    _renamed_weights = {r"^albef\.text_model\.": "text_model."}  # of a model with a head
    main_input_name = "input_ids"
    _input_embed_layer = "word_embeddings"
    input_modalities = ["text"]
    _no_split_modules = ["AlbefTextEmbeddings", "AlbefTextLayer"]
    _can_record_outputs = {
        "hidden_states": AlbefTextLayer,
        "attentions": OutputRecorder(AlbefTextSelfAttention, index=1, layer_name=".attention."),
        "cross_attentions": OutputRecorder(AlbefTextSelfAttention, index=1, layer_name=".crossattention."),
    }
    leaves_out_padding: bool = (
        False  # on a CPU; training and evaluation set it, which never look at the states of padding
    )

    def __init__(self, config: AlbefTextConfig) -> None:
        super().__init__(config)
        self.embeddings = AlbefTextEmbeddings(config)
        self.encoder = AlbefTextEncoder(config)
        self.post_init()

    @property
    def _tied_weights_keys(self) -> dict[str, str]:  # type: ignore[override]  # a plain attribute in the library
        """Names of what fusion layers share, by the further names of it."""
        count, start = self.config.images_per_text, self.config.num_text_layers
        return {
            f"encoder.layer.{index}.crossattention.self.{part}": (
                f"encoder.layer.{index - (index - start) % count}.crossattention.self.{part}"
            )
            for index in range(start, self.config.num_hidden_layers)
            for part in ("key.weight", "key.bias", "value.weight", "value.bias")
            if (index - start) % count
        }

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Return which weights are other names of which; no setting of the configuration changes it."""
        return self._tied_weights_keys

    def project_images(self, image_hidden_states: torch.Tensor) -> list[KeyValue]:
        """Return keys and values of images for each fusion layer, to be computed once an image.

        Args:
            image_hidden_states: (I, P, width of the vision tower).

        Returns:
            A pair for each fusion layer, each tensor (I, heads, P, d); layers that share their maps share it.
        """
        count = self.config.images_per_text
        owners = self.encoder.fusion_layers[::count]
        pairs = [layer.crossattention.self.project(image_hidden_states) for layer in owners]
        return [pair for pair in pairs for _ in range(count)]

    def add_images(self, count: int) -> None:
        """Turn each fusion layer into `count` copies of itself, one for each of as many images.

        So salesforce/ALBEF `Pretrain_nlvr.py` starts the model of two images. The configuration changes with it.
        """
        layers = self.encoder.text_layers
        known = {id(self.config): self.config}  # which the modules hold
        for layer in self.encoder.fusion_layers:
            layers += [layer, *(copy.deepcopy(layer, dict(known)) for _ in range(count - 1))]
        self.encoder.layer = nn.ModuleList(layers)
        self.encoder.share_key_value(count)
        for index, layer in enumerate(self.encoder.fusion_layers, start=self.encoder.num_text_layers):
            layer.attention.self.layer_index = layer.crossattention.self.layer_index = index
        self.config.num_hidden_layers, self.config.images_per_text = len(layers), count
        self.config.num_fusion_layers *= count

    def _pick_images(self, tensors: KeyValue, image_index: torch.Tensor | None, turn: int) -> Iterable[torch.Tensor]:
        """Return the keys and values that a fusion layer sees, of all images: those whose turn it is."""
        count = self.config.images_per_text
        if image_index is not None:
            index = image_index if count == 1 else image_index[:, turn]
            return [tensor.index_select(0, index) for tensor in tensors]
        return tensors if count == 1 else [tensor.unflatten(0, (count, -1))[turn] for tensor in tensors]

    def _folds(self, images: torch.Tensor, rows: int, length: int) -> bool:
        """Return whether texts (N, L) are so few for their images (I, P, W) that these stand for keys and values."""
        config = self.config
        if config.images_per_text > 1 or config._attn_implementation != "sdpa":  # eager attention shows probabilities
            return False
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled(images.device.type):
            return False
        if not all(layer.crossattention.self.can_fold for layer in self.encoder.fusion_layers):
            return False
        count, patches, width = images.shape
        head_dim = config.hidden_size // config.num_attention_heads
        folded = rows * length * config.num_attention_heads * width * (head_dim + patches)
        projected = config.hidden_size * patches * (count * width + rows * length)
        return 2 * folded < projected

    @capture_outputs
    def forward(  # type: ignore[misc]  # position_ids is in both
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_hidden_states: torch.Tensor | None = None,
        image_hidden_states: torch.Tensor | None = None,
        image_key_values: list[KeyValue] | None = None,
        image_index: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Run the text layers, the fusion layers, or both.

        Args:
            input_ids: (N, L) token ids; runs the text layers.
            attention_mask: (N, L), 1 = token, 0 = padding, on either side; None = no padding.
            text_hidden_states: (N, L, H) states of the text layers, in place of `input_ids`.
            image_hidden_states: (I, P, width of the vision tower); runs the fusion layers.
            image_key_values: What `project_images` made of them, in place of `image_hidden_states`.
            image_index: (N,) the image of each text row. Without it the N rows are I equal runs: row i belongs to
                image i where N == I, and all rows to the image where I == 1. With several `images_per_text` K it is
                (N, K); without it the images are K equal parts: all first images, then all second ones.
            position_ids: (N, L) or (1, L); default: 0, 1 .. from the first token of each row.
            inputs_embeds: (N, L, H) embeddings of the words, in place of `input_ids`.
            kwargs: `output_hidden_states`, `output_attentions` (eager attention, to which sdpa changes for them),
                `return_dict`.

        Returns:
            `last_hidden_state` (N, L, H); the states of padding are 0 where `leaves_out_padding`.

        Raises:
            ValueError: None or several of `input_ids`, `inputs_embeds` and `text_hidden_states` are given, or a shape
                is wrong.
        """
        if [input_ids is None, inputs_embeds is None, text_hidden_states is None].count(False) != 1:
            raise ValueError(
                "Give either input_ids or text_hidden_states, the output of the text layers, or inputs_embeds."
            )
        count = self.config.images_per_text
        check_shapes(
            {"H": self.config.hidden_size, "W": self.config.encoder_hidden_size, "K": count},
            input_ids=(input_ids, "NL"),
            inputs_embeds=(inputs_embeds, "NLH"),
            text_hidden_states=(text_hidden_states, "NLH"),
            attention_mask=(attention_mask, "NL"),
            image_hidden_states=(image_hidden_states, "IPW"),
            image_index=(image_index, "N" if count == 1 else "NK"),
        )
        hidden_states = text_hidden_states
        if hidden_states is None:
            hidden_states = self.embeddings(input_ids, position_ids, attention_mask, inputs_embeds)
        mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            allow_is_bidirectional_skip=attention_mask is None or not self.training,  # to look would stall a GPU
        )
        shape, pattern = hidden_states.shape[:2], PADDED_ROWS
        options = output_options(self.config, **{name: kwargs.get(name) for name in CAPTURED})
        leaves_out = self.leaves_out_padding and not any(options.values())
        if leaves_out:
            pattern = PackedRows.from_mask(attention_mask)
        hidden_states = pattern.pack(hidden_states)
        if text_hidden_states is None:
            for layer in self.encoder.text_layers:
                hidden_states = layer(hidden_states, mask, pattern=pattern, **kwargs)
        if image_hidden_states is not None:
            if image_index is None and image_hidden_states.shape[0] % count:
                raise AlbefError(f"{image_hidden_states.shape[0]} images are not {count} a text: give `image_index`.")
            if leaves_out and self._folds(image_hidden_states, *shape):
                states = image_hidden_states if image_index is None else image_hidden_states[image_index]
                image_key_values, image_index = [(states, states)] * len(self.encoder.fusion_layers), None
            else:
                image_key_values = self.project_images(image_hidden_states)
        for index, layer in enumerate(self.encoder.fusion_layers if image_key_values else ()):
            key, value = self._pick_images(cast(Any, image_key_values)[index], image_index, index % count)
            hidden_states = layer(hidden_states, mask, key, value, pattern=pattern, **kwargs)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=pattern.pad(hidden_states))
