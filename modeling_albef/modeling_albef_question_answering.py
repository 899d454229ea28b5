# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Visual question answering with ALBEF: the question looks at the image, the answer decoder looks at the question.

Shapes: B questions, I images, P image tokens, M question tokens, A answers, L answer tokens, C candidates, H width.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from transformers import GenerationMixin
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .answer_tree_albef import AnswerScorer, AnswerTree, RankedAnswers
from .attention_albef import NestedOutput, every_layer, output_options, select_layers
from .configuration_albef import AlbefConfig, AlbefError, AlbefTextConfig, AlbefTextDecoderConfig, check_shapes
from .losses_albef import answer_loss, predicted_tokens
from .modeling_albef import AlbefModel, AlbefPreTrainedModel
from .modeling_albef_decoder import AlbefTextDecoder


@dataclass
class AlbefQuestionAnsweringOutput(NestedOutput):
    """Loss and predictions of answers.

    Attributes:
        loss: Weighted answer loss.
        logits: (A, L, vocabulary) predictions of the token after each position of the answers.
        question_hidden_states: (B, M, H) states of the questions, the image looked at.
        image_hidden_states: (I, P, H of the vision tower).
        hidden_states: Where asked for: of the text tower, (B, M, H) each: the embeddings, then after each layer.
        attentions: Where asked for: of the text tower's layers, (B, heads, M, M) each.
        cross_attentions: Where asked for: of its fusion layers, to the image: (B, heads, M, P) each.
        decoder_hidden_states: Where asked for: of the answer decoder, (A, L, H) each.
        decoder_attentions: Where asked for: of the answer decoder, (A, heads, L, L) each.
        decoder_cross_attentions: Where asked for: of the answer decoder, to the question: (A, heads, L, M) each.
        text_model_output: All that the text tower gave.
        vision_model_output: All that the vision tower gave; `image_outputs` is another name of it.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    question_hidden_states: torch.Tensor | None = None
    image_hidden_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    decoder_cross_attentions: tuple[torch.Tensor, ...] | None = None
    text_model_output: ModelOutput | None = None
    vision_model_output: ModelOutput | None = None

    @property
    def image_outputs(self) -> ModelOutput | None:
        """What the vision tower gave, by the library's name."""
        return self.vision_model_output


class Answers(NamedTuple):
    """Answers of a batch."""

    input_ids: torch.Tensor  # (A, L) what the decoder reads
    attention_mask: torch.Tensor  # (A, L)
    targets: torch.Tensor  # (A, L) what it is to write
    counted: torch.Tensor  # (A, L) which of these have a part in the loss


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

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> torch.nn.Embedding:
        """Resize the word embeddings of the text tower and of the decoder, and the decoder's output map.

        Args:
            new_num_tokens: New size of the vocabulary; None leaves it as it is.
            pad_to_multiple_of: Rounds the size up.
            mean_resizing: Whether new embeddings are drawn about the mean of the old ones.

        Returns:
            The embeddings of the text tower.
        """
        self.text_decoder.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)

    def encode_questions(
        self,
        pixel_values: torch.Tensor | None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the vision tower once an image, and all text layers on the questions.

        Args:
            pixel_values: (I, 3, S, S).
            input_ids: (B, M) `[CLS] w1 .. wn`.
            attention_mask: (B, M), 1 = token; padding may be on either side. None = no padding.
            image_index: (B,) the image of each question; see `AlbefTextModel.forward`.
            kwargs: `position_ids`, `inputs_embeds`, `interpolate_pos_encoding`, `image_hidden_states` of `forward`.

        Returns:
            (B, M, H) states of the questions, and (I, P, H) states of the images.
        """
        question, image = self._encode(pixel_values, input_ids, attention_mask, image_index, **kwargs)
        return question.last_hidden_state, image.last_hidden_state

    def _encode(
        self,
        pixel_values: torch.Tensor | None,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        image_index: torch.Tensor | None,
        interpolate_pos_encoding: bool = False,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        image_hidden_states: torch.Tensor | None = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Return what the text tower and the vision tower give."""
        image = self.albef.encode_images(pixel_values, interpolate_pos_encoding, image_hidden_states, **options)
        question = self.albef.text_model(
            input_ids,
            attention_mask,
            image_hidden_states=image.last_hidden_state,
            image_index=image_index,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **options,
        )
        return question, image

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        answer_input_ids: torch.Tensor | None = None,
        answer_attention_mask: torch.Tensor | None = None,
        answer_weights: torch.Tensor | None = None,
        answers_per_question: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        alpha: float | torch.Tensor = 0.0,
        labels: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        image_hidden_states: torch.Tensor | None = None,
    ) -> AlbefQuestionAnsweringOutput:
        """Encode questions and, given answers, predict their tokens and compute the loss.

        Args:
            pixel_values: (I, 3, S, S).
            input_ids: (B, M) questions.
            attention_mask: (B, M), 1 = token; padding may be on either side.
            answer_input_ids: (A, L) `[CLS] a1 .. an [SEP]`, the answers of a question in a row.
            answer_attention_mask: (A, L), 1 = token.
            answer_weights: (A,); default: 1 for each.
            answers_per_question: (B,), sums to A; default: as many answers for each question.
            image_index: (B,) the image of each question.
            teacher_logits: (A, L, vocabulary) of the momentum teacher.
            alpha: Weight of the teacher in the targets, 0..1.
            labels: `answer_input_ids` by the name that the library's `Trainer` looks for; tokens that are -100, padding
                for example, are neither read nor counted. Beside `answer_input_ids` they say what is counted.
            position_ids: (B, M) of the questions; default: 0, 1 .. from `[CLS]`.
            inputs_embeds: (B, M, H) embeddings of the words of the questions, in place of `input_ids`.
            interpolate_pos_encoding: Whether images may have other sides; see `AlbefVisionModel.forward`.
            output_attentions: Whether the attention maps of towers and decoder are returned; default: as the
                configuration says.
            output_hidden_states: Whether the states after each layer are returned; likewise.
            image_hidden_states: (I, P, H) in place of `pixel_values`; see `AlbefModel.encode_images`.

        Returns:
            See `AlbefQuestionAnsweringOutput`.

        Raises:
            ValueError: A shape is wrong, or the answers cannot be dealt out to the questions.
        """
        options = output_options(
            self.config, output_attentions=output_attentions, output_hidden_states=output_hidden_states
        )
        towers = (pixel_values, input_ids, attention_mask, image_index)
        every, wanted = every_layer(options), options.get("output_hidden_states")
        states = (position_ids, inputs_embeds, image_hidden_states)
        question, image = self._encode(*towers, interpolate_pos_encoding, *states, **every)
        fields = {
            "question_hidden_states": question.last_hidden_state,
            "image_hidden_states": image.last_hidden_state,
            "hidden_states": select_layers(question.hidden_states, wanted),
            "attentions": question.attentions,
            "cross_attentions": question.cross_attentions,
            "text_model_output": question,
            "vision_model_output": image,
        }
        if answer_input_ids is None and labels is None:
            return AlbefQuestionAnsweringOutput(**fields)
        answers = self._answers(answer_input_ids, answer_attention_mask, labels)
        check_shapes(
            {"B": question.last_hidden_state.shape[0], "V": self.text_decoder.head.decoder.out_features},
            answer_input_ids=(answers.input_ids, "AL"),
            answer_weights=(answer_weights, "A"),
            answers_per_question=(answers_per_question, "B"),
            teacher_logits=(teacher_logits, "ALV"),
        )
        count = answers.input_ids.shape[0]
        if answers_per_question is None and count % question.last_hidden_state.shape[0]:
            raise ValueError(
                f"answer_input_ids has the shape {tuple(answers.input_ids.shape)}, whose rows cannot be dealt out to "
                f"{question.last_hidden_state.shape[0]} questions: give answers_per_question."
            )
        encoder_index = None
        if answers_per_question is not None:
            encoder_index = torch.repeat_interleave(answers_per_question, output_size=count)
        if answer_weights is None:
            answer_weights = torch.ones(count, device=question.last_hidden_state.device)
        decoded = self.text_decoder(
            answers.input_ids,
            answers.attention_mask,
            encoder_hidden_states=question.last_hidden_state,
            encoder_attention_mask=attention_mask,
            encoder_index=encoder_index,
            use_cache=False,
            **every,
        )
        loss = answer_loss(
            decoded.logits,
            answers.targets,
            answers.counted,
            answer_weights,
            num_questions=question.last_hidden_state.shape[0],
            teacher_logits=teacher_logits,
            alpha=alpha,
        )
        return AlbefQuestionAnsweringOutput(
            loss=loss,
            logits=decoded.logits,
            decoder_hidden_states=select_layers(decoded.hidden_states, wanted),
            decoder_attentions=decoded.attentions,
            decoder_cross_attentions=decoded.cross_attentions,
            **fields,
        )

    def _answers(
        self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, labels: torch.Tensor | None
    ) -> Answers:
        """Return the answers that are read, and what of them is counted; ids or labels are given."""
        known = None
        if labels is None:
            targets = cast(torch.Tensor, input_ids)
        else:
            known = labels != -100
            targets = labels.masked_fill(~known, self.text_decoder.config.pad_token_id or 0)
            if input_ids is None:
                attention_mask = known if attention_mask is None else attention_mask * known
        read = targets if input_ids is None else input_ids
        mask = torch.ones_like(read) if attention_mask is None else attention_mask
        check_shapes(answer_input_ids=(read, "AL"), answer_attention_mask=(mask, "AL"), labels=(labels, "AL"))
        counted = predicted_tokens(mask)
        return Answers(read, mask, targets, counted if known is None else counted * known)

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
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **generate_kwargs: Any,
    ) -> Any:
        """Write free-form answers with the library's generation.

        Args:
            pixel_values: (I, 3, S, S).
            input_ids: (B, M) questions.
            attention_mask: (B, M), 1 = token; padding may be on either side. None = no padding.
            image_index: (B,) the image of each question.
            position_ids: (B, M) of the questions; default: 0, 1 .. from `[CLS]`.
            inputs_embeds: (B, M, H) embeddings of the words of the questions, in place of `input_ids`.
            interpolate_pos_encoding: Whether images may have other sides; see `AlbefVisionModel.forward`.
            generate_kwargs: `max_new_tokens`, `num_beams` .. of `GenerationMixin.generate`; what is not given is as in
                `generation_config`.

        Returns:
            (B, L) `[CLS] a1 .. an [SEP]` with padding after it; or what `return_dict_in_generate` asks for.
        """
        config = self.config.decoder_config
        if config.bos_token_id is None or config.eos_token_id is None:
            raise ValueError("Set config.decoder_config.bos_token_id and eos_token_id to the ids of [CLS] and [SEP].")
        towers = (pixel_values, input_ids, attention_mask, image_index)
        question = self._encode(*towers, interpolate_pos_encoding, position_ids, inputs_embeds)[0].last_hidden_state
        if attention_mask is None:
            attention_mask = torch.ones(question.shape[:2], dtype=torch.long, device=question.device)
        settings = copy.deepcopy(generate_kwargs.pop("generation_config", None) or self.generation_config)
        for name in ("eos_token_id", "pad_token_id"):
            if getattr(settings, name) is None:
                setattr(settings, name, getattr(config, name))
        others = settings.update(**generate_kwargs)
        return self.text_decoder.generate(
            torch.full((question.shape[0], 1), config.bos_token_id, device=question.device),
            generation_config=settings,
            encoder_key_values=self.text_decoder.project_questions(question),
            encoder_attention_mask=attention_mask,
            **others,
        )


def _decoder_like(config: AlbefConfig) -> AlbefTextDecoderConfig:
    """Return a decoder with the sizes of the text tower and as many layers as it has fusion layers."""
    text = config.text_config
    if not text.num_fusion_layers:
        raise AlbefError(
            "text_config.num_fusion_layers is 0, and a new answer decoder has as many layers: give at least 1, or a "
            "decoder_config."
        )
    fields = {name: getattr(text, name) for name in AlbefTextConfig.__annotations__}
    fields |= {"encoder_hidden_size": text.hidden_size, "num_hidden_layers": text.num_fusion_layers}
    return AlbefTextDecoderConfig(**fields, tie_word_embeddings=config.tie_word_embeddings)
