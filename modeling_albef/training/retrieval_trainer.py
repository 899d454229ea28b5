"""Fine-tuning by contrast and matching of images with texts, and for image-text retrieval."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from .arguments import ContrastiveTrainingArguments, RetrievalTrainingArguments
from .callbacks import TemperatureCallback
from .encoders.projections import start_projections
from .evaluation.abstention import abstention_metrics, calibrate
from .evaluation.results import RetrievalResult
from .evaluation.retrieval import RetrievalEvaluator
from .hardware import autocast
from .momentum import FeatureQueue
from .parameter_groups import freeze
from .rows import retrieval_collator
from .sampling import one_caption_a_row
from .trainer import AlbefTrainer

logger = logging.get_logger(__name__)


class ContrastiveTrainer(AlbefTrainer):
    """Trains an `AlbefForImageTextRetrieval` by contrast with a queue, and by matching; a task says how to evaluate."""

    ARGUMENTS: ClassVar[type[ContrastiveTrainingArguments]] = ContrastiveTrainingArguments
    EXTRA_INPUTS: ClassVar[tuple[str, ...]] = ()  # of a batch, that the model does not know
    itm_weight: float = 1.0  # of the matching loss
    args: ContrastiveTrainingArguments

    def __init__(
        self, model: PreTrainedModel | None = None, args: ContrastiveTrainingArguments | None = None, **kwargs: Any
    ) -> None:
        super().__init__(model, args, **kwargs)
        args = self.args
        if isinstance(self.train_dataset, Sized) and args.queue_size > len(self.train_dataset):
            logger.warning(
                f"queue_size is {args.queue_size}, but there are {len(self.train_dataset)} training captions: lower "
                "it, or the queue holds them several times."
            )
        # Differs from ALBEF, which clamps the temperature in pre-training only.
        temperature = self.model.albef.temperature
        self._temperature = TemperatureCallback(temperature, args.min_temperature, args.max_temperature)
        self.add_callback(self._temperature)
        self._start_queue()

    def _start_queue(self) -> None:
        width, args = self.model.config.projection_dim, self.args
        self.queue = FeatureQueue(args.queue_size, width, seed=args.seed).to(args.device)
        self.teacher_parts[1:] = [self.queue]

    def start_training_parts(self) -> None:
        """Start the queue anew, too, and clamp the new student's temperature."""
        super().start_training_parts()
        self.model.config.search_calibration = None
        self._start_queue()
        self._temperature.temperature = self.model.albef.temperature
        self._temperature.lowest, self._temperature.highest = self.args.min_temperature, self.args.max_temperature

    def start_new_parts(self) -> None:
        """Start new projections in closed form, see `init_projections`."""
        is_new = any("text_proj" in name for name in self.model.new_parameters)
        if self.args.init_projections == "ridge" or (self.args.init_projections is None and is_new):
            start_projections(self)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return the loss of a step: the teacher's features, the student's forward, then the queue."""
        alpha = self.alpha
        extra = {name: inputs.pop(name) for name in self.EXTRA_INPUTS if name in inputs}
        options = {"global_negatives": self.args.global_negatives}
        options |= {"use_itm_head": False} if self.itm_weight == 0 else {}
        if self.queue.size or (self.args.distill and self.args.alpha):
            inputs = self.share_image_states(model, inputs)
            features, targets = self._ask_teacher(inputs)
            candidates = self.queue.candidates(**features) | targets
            outputs = model(**inputs, **candidates, alpha=alpha, **options)
            self.queue.enqueue(**self.accelerator.gather(self.queue_entries(features)))
        else:  # nothing asks the teacher: the batch is contrasted with itself
            outputs = model(**inputs, **options)
        if self.itm_weight not in (0, 1):
            outputs["loss"] = outputs.itc_loss + self.itm_weight * outputs.itm_loss
        temperature = self.accelerator.unwrap_model(model).albef.temperature
        loss, further = self.add_losses(outputs, inputs, extra)
        matching = {} if self.itm_weight == 0 else {"itm_loss": outputs.itm_loss}
        parts = {"itc_loss": outputs.itc_loss, **matching, **further}
        self.record_loss_parts(**parts, alpha=alpha, temperature=temperature)
        return (loss, outputs) if return_outputs else loss

    def add_losses(
        self, outputs: Any, inputs: dict[str, Any], extra: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of a step, and the parts of it that are a task's own; `extra` has its `EXTRA_INPUTS`."""
        return outputs.loss, {}

    def teacher_targets(self, inputs: dict[str, Any], image_hidden_states: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what a task asks the teacher beside its features; the states of images (B, P, H) are the teacher's."""
        return {}

    def queue_entries(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what the queue keeps of the teacher's features of a batch."""
        return features

    def _ask_teacher(self, inputs: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the teacher's features of a batch, and its `teacher_targets`."""
        with torch.no_grad(), autocast(self.accelerator):
            network: Any = self.teacher.model
            images = {name: inputs[name] for name in ("pixel_values", "image_hidden_states") if name in inputs}
            image = network.get_image_features(**images)
            text = network.get_text_features(inputs["input_ids"], inputs.get("attention_mask")).pooler_output.float()
            features = {"image_embeds": image.pooler_output.float(), "text_embeds": text}
            targets = self.teacher_targets(inputs, image.last_hidden_state)
            return {**features, "image_ids": inputs["image_ids"]}, targets

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, see `AlbefTrainer`; a calibration of other weights is given up."""
        if self.model is not None:  # in a search each trial makes one, see `start_training_parts`
            self.model.config.search_calibration = None
        return super().train(*args, **kwargs)


class RetrievalTrainer(ContrastiveTrainer):
    """Fine-tunes an `AlbefForImageTextRetrieval` and evaluates it by recall.

    Training rows become `pixel_values input_ids attention_mask image_ids` in the collator, by default a
    `RetrievalCollator`; those with a list of `caption`s count as a row for each of them. Evaluation rows have an
    `image`, a `caption` or a list of them, and perhaps an `image_id`, the same for rows of the same image.
    """

    ARGUMENTS = RetrievalTrainingArguments
    args: RetrievalTrainingArguments
    _has_chosen = False  # an order of candidates; a `rerank_weight` of None alone does not say so

    @property
    def itm_weight(self) -> float:  # type: ignore[override]
        """Return the weight of the matching loss."""
        return self.args.itm_weight

    def prepare_model(self, model: Any) -> Any:
        """Return the student; without a matching loss what serves the matching head alone is not trained."""
        model, text = super().prepare_model(model), model.config.text_config
        if self.args.itm_weight == 0:
            layers = range(text.num_text_layers, text.num_hidden_layers)
            freeze(model, ["itm_head", *(f"text_model.encoder.layer.{layer}" for layer in layers)])
        return model

    def prepare_training_data(self, dataset: Any) -> Any:
        """Return the training data with one caption a row."""
        return one_caption_a_row(dataset)

    def make_collator(self) -> Any:
        """Return a `RetrievalCollator` for `processing_class`."""
        return None if self.processing_class is None else retrieval_collator(self.processing_class)

    def calibrate(self, result: RetrievalResult) -> None:
        """Fit the thresholds of `AlbefConfig.search_calibration` to the result of an evaluation, on validation data.

        The result's `details` get the errors that the thresholds make there.

        Raises:
            AlbefError: No threshold fits.
        """
        self.model.config.search_calibration = calibrate(result.best_scores)
        result.details |= abstention_metrics(result.best_scores, self.model.config.search_calibration)

    @property
    def rerank(self) -> str:
        """Return by what candidates are ordered: always, never or auto."""
        if self.itm_weight == 0:
            return "never"
        starts_from_encoders = bool(self.model.new_parameters) or self.model.config.rerank_weight is not None
        return self.args.rerank or ("auto" if starts_from_encoders else "always")

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; a model whose head proved nothing yet is one that orders by similarity, see `rerank`."""
        if self.model is not None and self.rerank != "always":
            never, self._has_chosen = self.rerank == "never", False
            self.model.config.rerank_weight = 0.0 if never else self.model.config.rerank_weight or 0.0
        return super().train(*args, **kwargs)

    def evaluate_dataset(self, dataset: Any) -> RetrievalResult:
        """Rank a data set's images and captions; see `RetrievalEvaluator`.

        With `rerank` auto the weight of the matching head is chosen where the split is "eval", and kept in the model's
        configuration; other splits take that one, and the similarity alone where nothing was chosen.
        """
        config, options = self.model.config, self.evaluator_options("k_test", "image_memory")
        rerank = self.rerank
        chooses = rerank == "auto" and self.evaluated_split.startswith("eval")
        known = config.rerank_weight if self._has_chosen else config.rerank_weight or 0.0
        weight = {"always": None, "never": 0.0}.get(rerank, known)
        options |= {"rerank_weight": "auto" if chooses else weight, "compare": rerank == "auto"}
        result = RetrievalEvaluator(self.model, self.processing_class, **options)(dataset)
        self._has_chosen |= chooses
        if chooses or rerank != "auto":
            config.rerank_weight = result.details["rerank_weight"] if chooses else weight
        return result
