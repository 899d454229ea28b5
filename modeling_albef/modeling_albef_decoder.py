# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Answer decoder of ALBEF: states of a question -> the tokens of its answer, one after the other.

Causal text layers whose cross-attention reads the states of the question. Shapes: A answer rows, L answer tokens, B
questions, M question tokens, H width.
"""

from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .attention_albef import AlbefAttentionModel
from .configuration_albef import AlbefError, AlbefTextConfig, AlbefTextDecoderConfig
from .losses_albef import next_token_loss
from .modeling_albef_text import AlbefTextEmbeddings, AlbefTextLayer, AlbefTextModel, KeyValue, token_positions


class AlbefAnswerHead(nn.Module):
    """States -> logits over the vocabulary: linear map, activation, layer norm, output map."""

    def __init__(self, config: AlbefTextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.act = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.LayerNorm(self.act(self.dense(hidden_states))))


class AlbefTextDecoder(AlbefAttentionModel, GenerationMixin):
    """Causal language model that looks at a question's states."""

    config: AlbefTextDecoderConfig
    base_model_prefix = "text_decoder"
    main_input_name = "input_ids"
    _input_embed_layer = "word_embeddings"
    input_modalities = ["text"]
    _no_split_modules = ["AlbefTextEmbeddings", "AlbefTextLayer", "AlbefAnswerHead"]
    _tied_weights_keys = {"head.decoder.weight": "embeddings.word_embeddings.weight"}
    _can_record_outputs = AlbefTextModel._can_record_outputs

    def __init__(self, config: AlbefTextDecoderConfig) -> None:
        super().__init__(config)
        self.embeddings = AlbefTextEmbeddings(config)
        self.layer = nn.ModuleList(
            AlbefTextLayer(config, index, has_cross_attention=True, is_causal=True)
            for index in range(config.num_hidden_layers)
        )
        self.head = AlbefAnswerHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """Return the output map."""
        return self.head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output map."""
        self.head.decoder = cast(nn.Linear, new_embeddings)

    def project_questions(self, question_hidden_states: torch.Tensor) -> list[KeyValue]:
        """Return keys and values of questions for each layer, to be computed once a question.

        Args:
            question_hidden_states: (B, M, H).

        Returns:
            A pair for each layer, each tensor (B, heads, M, d).
        """
        layers = cast(list[AlbefTextLayer], list(self.layer))
        return [layer.crossattention.self.project(question_hidden_states) for layer in layers]

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of the next call of `forward`; called by the library's `generate`.

        Questions that are given as `encoder_key_values` are not repeated for the beams of a search, whose rows are
        equal runs; so their mask isn't either.
        """
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        key_values, mask = inputs.get("encoder_key_values"), inputs.get("encoder_attention_mask")
        if key_values is not None and mask is not None:
            inputs["encoder_attention_mask"] = mask[:: max(1, len(mask) // len(key_values[0][0]))]
        return inputs

    @capture_outputs
    def forward(  # type: ignore[misc]  # position_ids is in both
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        encoder_key_values: list[KeyValue] | None = None,
        encoder_index: torch.Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        past_key_values: Cache | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithCrossAttentions:
        """Predict the token after each position.

        Args:
            input_ids: (A, L) `[CLS] a1 ..`.
            attention_mask: (A, past + L), 1 = token; padding may be on either side. None = no padding.
            encoder_hidden_states: (B, M, H) states of the questions.
            encoder_attention_mask: (B, M), 1 = token; None = no padding.
            encoder_key_values: What `project_questions` made of the states, in their place.
            encoder_index: (A,) the question of each row; without it the rows are B equal runs.
            cache: Keys and values of the tokens before, for generation.
            use_cache: Whether to return them; default: what the configuration says, but not in training.
            past_key_values: The name of `cache` up to transformers 5.23.
            position_ids: (A, L) or (1, L); default: 0, 1 .. from the first token of each row.
            inputs_embeds: (A, L, H) embeddings of the tokens, in place of `input_ids`.
            labels: (A, L) the tokens themselves, -100 where they do not count; gives `loss`, the mean over the tokens
                that count, each predicted at the position before it.
            kwargs: `output_hidden_states`, `output_attentions` (eager attention, to which sdpa changes for them),
                `return_dict`.

        Returns:
            `logits` (A, L, vocabulary), `loss` and the cache.

        Raises:
            ValueError: Tokens or questions are not given, or there are too many tokens.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        if encoder_key_values is None:
            if encoder_hidden_states is None:
                raise ValueError("Give encoder_hidden_states or encoder_key_values.")
            encoder_key_values = self.project_questions(encoder_hidden_states)
        cache = past_key_values if cache is None else cache
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        words = cast(torch.Tensor, input_ids if inputs_embeds is None else inputs_embeds)
        past = 0 if cache is None else cache.get_seq_length()
        length, limit = past + words.shape[1], self.config.max_position_embeddings
        if length > limit:
            raise AlbefError(f"The answer has {length} tokens, but the decoder reads at most {limit}: truncate it.")
        if position_ids is None:
            position_ids = token_positions(torch.arange(past, length, device=words.device), attention_mask)
        hidden_states = self.embeddings(input_ids, position_ids, None, inputs_embeds)
        # whether a mask is needed: to look would stall a GPU; attention maps are made without sdpa's own causal mask
        look = (not self.training or attention_mask is None) and not kwargs.get("output_attentions")
        # by position: the name of the fourth changed in transformers 5.24, as did that of the output's third
        mask = create_causal_mask(self.config, hidden_states, attention_mask, cache, allow_is_causal_skip=look)
        cross_mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()[:, None, None]
        if encoder_index is not None and cross_mask is not None:
            cross_mask = cross_mask[encoder_index]  # (A, 1, 1, M); without an index (B, 1, 1, M)
        for layer, key_value in zip(self.layer, encoder_key_values, strict=True):
            key, value = (
                key_value if encoder_index is None else (tensor.index_select(0, encoder_index) for tensor in key_value)
            )
            hidden_states = layer(hidden_states, mask, key, value, cross_mask, cache=cache, **kwargs)
        logits = self.head(hidden_states)
        loss = None if labels is None else next_token_loss(logits, labels)
        return CausalLMOutputWithCrossAttentions(loss, logits, cache)
