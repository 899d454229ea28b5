# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A retrieval model as a multimodal `CrossEncoder` of sentence-transformers (>= 5.4): scores of texts with images.

Its towers need nothing of this file: `SentenceTransformer(FOLDER)` encodes texts and images, once `modeling_albef` and
`processing` are imported. Shapes: N pairs.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule

from ..configuration_albef import AlbefError
from ..hub_albef import load_model
from ..index_albef import rerank_scores
from ..modeling_albef_retrieval import AlbefForImageTextRetrieval
from ..packed_fusion_albef import match_images
from ..pipelines_albef import ImageTextRetrievalPipeline

_MODULES = [{"idx": 0, "name": "0", "path": "", "type": f"{__name__}.AlbefPairScorer"}]
_CONFIG = {"model_type": "CrossEncoder", "prompts": {}, "activation_fn": "torch.nn.modules.linear.Identity"}


def add_cross_encoder_files(folder: str | Path) -> None:
    """Write what sentence-transformers reads beside a saved model and its processor.

    `CrossEncoder(folder, trust_remote_code=True)` then loads the model with its matching head, and
    `SentenceTransformer(folder)` its towers. The option is asked for by sentence-transformers, since the class of the
    module is this package's.

    Raises:
        AlbefError: The folder has no model.
    """
    if not (Path(folder) / "config.json").is_file():
        raise AlbefError(f"The folder {str(folder)!r} has no model: save a retrieval model and its processor there.")
    for name, content in (("modules.json", _MODULES), ("config_sentence_transformers.json", _CONFIG)):
        (Path(folder) / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class AlbefPairScorer(InputModule):
    """The module of the `CrossEncoder`: pairs of a text and an image, in either order, to the pipeline's `score`.

    An image is a path, URL, Pillow image or array; where both of a pair are strings, the second is the image.
    """

    def __init__(self, model: AlbefForImageTextRetrieval, processor: Any = None) -> None:
        """Take a retrieval model; without a `processor` load the one that is beside it."""
        super().__init__()
        self.pipeline = ImageTextRetrievalPipeline(model, processor=processor)
        self.model, self.processor = model, self.pipeline.processor

    @classmethod
    def load(cls, model_name_or_path: str, *_: Any, **__: Any) -> "AlbefPairScorer":
        """Load the module from a folder or the Hub."""
        return cls(load_model(AlbefForImageTextRetrieval, model_name_or_path))

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Save model and processor."""
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)

    @property
    def modalities(self) -> list[Any]:
        """Return what an input may be."""
        return ["text", "image", ("image", "text")]

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]  # an attribute there
        """Return the tokenizer."""
        return self.processor.tokenizer

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Return the model's inputs for N pairs; a text or an image of several pairs is encoded once.

        Raises:
            AlbefError: An input is no pair of a text and an image.
        """
        texts: dict[str, int] = {}
        images: dict[Any, tuple[int, Any]] = {}
        text_index, image_index = [], []
        for pair in inputs:
            text, image = _split(pair)
            text_index.append(texts.setdefault(f"{prompt or ''}{text}", len(texts)))
            key = image if isinstance(image, str) else id(image)
            image_index.append(images.setdefault(key, (len(images), image))[0])
        encoded = self.processor(
            images=[image for _, image in images.values()],
            text=list(texts),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        return {**encoded, "text_index": torch.tensor(text_index), "image_index": torch.tensor(image_index)}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add `scores` (N, 1) to the features."""
        image = self.model.get_image_features(features["pixel_values"].to(self.model.dtype))
        text = self.model.get_text_features(features["input_ids"], features["attention_mask"])
        texts, images = features["text_index"], features["image_index"]
        states = text["last_hidden_state"], features["attention_mask"], image["last_hidden_state"]
        logits = match_images(self.model, *states, texts, images)
        similarity = (text["pooler_output"][texts] * image["pooler_output"][images]).sum(dim=1).float()
        temperature, weight = float(self.model.albef.temperature), self.model.config.rerank_weight
        features["scores"] = rerank_scores(similarity, logits[:, 1].float(), temperature, weight)[:, None]
        return features


def _split(pair: Any) -> tuple[str, Any]:
    """Return text and image of a pair."""
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not any(isinstance(one, str) for one in pair):
        raise AlbefError(f"A pair is a text and an image, not {pair!r:.80}: give both.")
    first, second = (one["image"] if isinstance(one, dict) and set(one) == {"image"} else one for one in pair)
    return (first, second) if isinstance(first, str) else (second, first)
