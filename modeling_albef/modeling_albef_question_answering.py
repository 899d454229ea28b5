# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Visual question answering with ALBEF: the question looks at the image, the answer decoder looks at the question.

Shapes: B questions, I images, P image tokens, M question tokens, A answers, L answer tokens, C candidates, H width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationMixin
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .answer_tree_albef import AnswerScorer, AnswerTree, RankedAnswers
from .configuration_albef import AlbefConfig, AlbefError, AlbefTextConfig, AlbefTextDecoderConfig, check_shapes
from .losses_albef import answer_loss
from .modeling_albef import AlbefModel, AlbefPreTrainedModel
from .modeling_albef_decoder import AlbefTextDecoder


@dataclass
class AlbefQuestionAnsweringOutput(ModelOutput):
    """Loss and predictions of answers.

    Attributes:
        loss: Weighted answer loss.
        logits: (A, L, vocabulary) predictions of the token after each position of the answers.
        question_hidden_states: (B, M, H) states of the questions, the image looked at.
        image_hidden_states: (I, P, H of the vision tower).
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    question_hidden_states: torch.Tensor | None = None
    image_hidden_states: torch.Tensor | None = None


class AlbefForQuestionAnswering(AlbefPreTrainedModel, GenerationMixin):  # type: ignore[misc]  # as its base
    """ALBEF with an answer decoder: a question looks at the image, the decoder looks at the question."""

    auto_classes = ("AutoModelForImageTextToText", "AutoModelForVisualQuestionAnswering")
    _head = ("text_decoder.", "answer decoder")
    _renamed_weights = {r"^mlm_head\.": "text_decoder.head."}  # where the masked-language head of pre-training goes

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        if config.decoder_config is None:
            config.decoder_config = _decoder_like(config)
        self.albef = AlbefModel(config, add_projections=False)
        self.text_decoder = AlbefTextDecoder._from_config(config.decoder_config)
        self.post_init()

    def _start_tower(self, name: str) -> bool:
        """Start the answer decoder from the pre-trained weights, as published."""
        if name != "text_decoder":
            return super()._start_tower(name)
        self.initialize_decoder()
        return True

    def initialize_decoder(self) -> None:
        """Copy the fusion layers and the embeddings of the text tower into the decoder.

        The maps of image states to keys and values are copied where the widths of the towers agree. The head keeps
        what it has.

        Raises:
            AlbefError: The decoder has more layers than there are fusion layers, or other sizes.
        """
        text_model, decoder = self.albef.text_model, self.text_decoder
        sources = list(text_model.encoder.fusion_layers)[: len(decoder.layer)]
        names = ("hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings", "type_vocab_size")
        pairs = {name: (getattr(decoder.config, name), getattr(text_model.config, name)) for name in names}
        pairs["num_hidden_layers"] = (len(decoder.layer), len(sources))
        if differing := {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}:
            sizes = ", ".join(f"{name} {ours} for {theirs}" for name, (ours, theirs) in differing.items())
            raise AlbefError(
                f"The model {self.config._name_or_path!r} has no answer decoder, and one with other sizes ({sizes}) "
                "cannot start from its fusion layers: leave decoder_config out."
            )
        decoder.embeddings.load_state_dict(text_model.embeddings.state_dict())
        for layer, source in zip(decoder.layer, sources, strict=True):
            own = layer.state_dict()
            fitting = {key: value for key, value in source.state_dict().items() if value.shape == own[key].shape}
            layer.load_state_dict({**own, **fitting})

    def encode_questions(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the vision tower once an image, and all text layers on the questions.

        Args:
            pixel_values: (I, 3, S, S).
            input_ids: (B, M) `[CLS] w1 .. wn`.
            attention_mask: (B, M), 1 = token; None = no padding.
            image_index: (B,) the image of each question; see `AlbefTextModel.forward`.

        Returns:
            (B, M, H) states of the questions, and (I, P, H) states of the images.
        """
        image = self.albef.vision_model(pixel_values).last_hidden_state
        question = self.albef.text_model(
            input_ids, attention_mask, image_hidden_states=image, image_index=image_index
        ).last_hidden_state
        return question, image

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        answer_input_ids: torch.Tensor | None = None,
        answer_attention_mask: torch.Tensor | None = None,
        answer_weights: torch.Tensor | None = None,
        answers_per_question: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        alpha: float | torch.Tensor = 0.0,
    ) -> AlbefQuestionAnsweringOutput:
        """Encode questions and, given answers, predict their tokens and compute the loss.

        Args:
            pixel_values: (I, 3, S, S).
            input_ids: (B, M) questions.
            attention_mask: (B, M), 1 = token.
            answer_input_ids: (A, L) `[CLS] a1 .. an [SEP]`, the answers of a question in a row.
            answer_attention_mask: (A, L), 1 = token.
            answer_weights: (A,); default: 1 for each.
            answers_per_question: (B,), sums to A; default: as many answers for each question.
            image_index: (B,) the image of each question.
            teacher_logits: (A, L, vocabulary) of the momentum teacher.
            alpha: Weight of the teacher in the targets, 0..1.

        Returns:
            See `AlbefQuestionAnsweringOutput`.

        Raises:
            ValueError: A shape is wrong, or the answers cannot be dealt out to the questions.
        """
        question, image = self.encode_questions(pixel_values, input_ids, attention_mask, image_index)
        if answer_input_ids is None:
            return AlbefQuestionAnsweringOutput(question_hidden_states=question, image_hidden_states=image)
        check_shapes(
            {"B": question.shape[0], "V": self.text_decoder.head.decoder.out_features},
            answer_input_ids=(answer_input_ids, "AL"),
            answer_attention_mask=(answer_attention_mask, "AL"),
            answer_weights=(answer_weights, "A"),
            answers_per_question=(answers_per_question, "B"),
            teacher_logits=(teacher_logits, "ALV"),
        )
        if answers_per_question is None and answer_input_ids.shape[0] % question.shape[0]:
            raise ValueError(
                f"answer_input_ids has the shape {tuple(answer_input_ids.shape)}, whose rows cannot be dealt out to "
                f"{question.shape[0]} questions: give answers_per_question."
            )
        encoder_index = None
        if answers_per_question is not None:
            encoder_index = torch.repeat_interleave(answers_per_question, output_size=len(answer_input_ids))
        if answer_attention_mask is None:
            answer_attention_mask = torch.ones_like(answer_input_ids)
        if answer_weights is None:
            answer_weights = torch.ones(len(answer_input_ids), device=question.device)
        logits = self.text_decoder(
            answer_input_ids,
            answer_attention_mask,
            encoder_hidden_states=question,
            encoder_attention_mask=attention_mask,
            encoder_index=encoder_index,
        ).logits
        loss = answer_loss(
            logits,
            answer_input_ids,
            answer_attention_mask,
            answer_weights,
            num_questions=len(input_ids),
            teacher_logits=teacher_logits,
            alpha=alpha,
        )
        return AlbefQuestionAnsweringOutput(loss, logits, question, image)

    @torch.no_grad()
    def rank_answers(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        candidates: AnswerTree | Mapping[str, torch.Tensor],
        k: int = 128,
        count_first_token_twice: bool = True,
        best_only: bool = False,
        image_index: torch.Tensor | None = None,
    ) -> RankedAnswers:
        """Rank a list of candidate answers, as published (salesforce/ALBEF `models/model_vqa.py`).

        The k candidates whose first token is the likeliest are scored by their whole log-probability.

        Args:
            pixel_values: (I, 3, S, S).
            input_ids: (B, M) questions.
            attention_mask: (B, M), 1 = token; None = no padding.
            candidates: `AnswerTree.from_tokens(...)`, to be built once a list, or what the processor's
                `encode_answers` gives: `input_ids` (C, L) `[CLS] a1 .. an [SEP]` and `attention_mask` (C, L).
            k: Candidates a question that are scored whole; clipped to C.
            count_first_token_twice: Adds the log-probability of the first token once more, as the published score does.
            best_only: Finds the same best candidate without scoring those that cannot win; no probabilities.
            image_index: (B,) the image of each question.

        Returns:
            See `RankedAnswers`.

        Raises:
            ValueError: A shape is wrong, a candidate is empty or too long, or `k` is below 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}, but at least one candidate must be scored.")
        if isinstance(candidates, Mapping):  # an AnswerTree may be of another copy of its file
            candidates = AnswerTree.from_tokens(candidates["input_ids"], candidates["attention_mask"])
        question, _ = self.encode_questions(pixel_values, input_ids, attention_mask, image_index)
        scorer = AnswerScorer(self.text_decoder, candidates, question, attention_mask)
        return scorer.rank(k, count_first_token_twice, best_only)

    @torch.no_grad()
    def generate(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        **generate_kwargs: Any,
    ) -> torch.Tensor:
        """Write free-form answers with the library's generation.

        Args:
            pixel_values: (I, 3, S, S).
            input_ids: (B, M) questions.
            attention_mask: (B, M), 1 = token; None = no padding.
            image_index: (B,) the image of each question.
            generate_kwargs: `max_new_tokens`, `num_beams` .. of `GenerationMixin.generate`.

        Returns:
            (B, L) `[CLS] a1 .. an [SEP]` with padding after it.
        """
        question, _ = self.encode_questions(pixel_values, input_ids, attention_mask, image_index)
        config = self.config.decoder_config
        if config.bos_token_id is None or config.eos_token_id is None:
            raise ValueError("Set config.decoder_config.bos_token_id and eos_token_id to the ids of [CLS] and [SEP].")
        start = torch.full((len(question), 1), config.bos_token_id, device=question.device)
        return self.text_decoder.generate(
            start,
            encoder_hidden_states=question,
            encoder_attention_mask=torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            **{"eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id, **generate_kwargs},
        )


def _decoder_like(config: AlbefConfig) -> AlbefTextDecoderConfig:
    """Return a decoder with the sizes of the text tower and as many layers as it has fusion layers."""
    text = config.text_config
    fields = {name: getattr(text, name) for name in AlbefTextConfig.__annotations__}
    fields |= {"encoder_hidden_size": text.hidden_size, "num_hidden_layers": text.num_fusion_layers}
    return AlbefTextDecoderConfig(**fields, tie_word_embeddings=config.tie_word_embeddings)
