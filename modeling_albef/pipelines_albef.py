# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pipelines of the library's kind: answers to questions about images, and search in images or texts.

Shapes: B batch, E projection width, k candidates, L tokens.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from transformers import AutoProcessor, Pipeline
from transformers.utils import logging

from .answer_tree_albef import AnswerTree, describe_merged_answers, merge_equal_answers
from .configuration_albef import AlbefError
from .hub_albef import check_head, check_model_type
from .index_albef import EmbeddingIndex, MissingFolderError

logger = logging.get_logger(__name__)
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class _AlbefPipeline(Pipeline):
    """What both pipelines load: a model, and a processor that holds the tokenizer and the image processor."""

    _load_processor = None  # not looked for before the model is known to be an ALBEF
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    model: Any
    processor: Any

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        """Make a pipeline; the arguments are those of `Pipeline`.

        Raises:
            AlbefError: The model is no ALBEF, or there is no processor.
        """
        check_model_type(model)
        if kwargs.get("processor") is None:
            if name := model.config._name_or_path:  # the library has swallowed what is wrong with it: again
                is_trusted = __name__.startswith("transformers_modules.")
                AutoProcessor.from_pretrained(name, trust_remote_code=is_trusted or None)
            raise AlbefError(
                "There is no processor, or none that can be loaded: give `processor`, an object or a folder."
            )
        super().__init__(model, *args, **kwargs)


class AlbefVqaPipeline(_AlbefPipeline):
    """Answers to questions about images: `pipeline("albef-vqa", model=NAME)`.

    Candidate answers are ranked as published; the candidates are those that the model was trained with, kept in its
    configuration, or an `answer_list`. Without candidates the answer is written freely.

    Example:
        >>> answer = pipeline("albef-vqa", model="user/albef-vqa")
        >>> answer(image="photo.jpg", question="what is on the table?", top_k=2)
        [{'answer': 'apple', 'score': 0.71}, {'answer': 'pear', 'score': 0.13}]
    """

    _kept: tuple[tuple[str, ...], list[str], AnswerTree] | None = None

    def __call__(self, image: Any = None, question: Any = None, **kwargs: Any) -> Any:
        """Answer questions.

        Args:
            image: Path, URL or Pillow image; a list of them; or, without `question`, a mapping with `image` and
                `question`, a list, data set or generator of such mappings.
            question: A text or a list; a single image goes with all questions, a single question with all images.
            kwargs: `top_k` answers that are returned (5); `answer_list`, candidates or a JSON file of them, of which
                those that the tokenizer cannot tell apart are one, spelled as the first;
                `k_test` candidates that are scored whole (128); `free_form=True` to write answers in spite of
                candidates, and then `max_new_tokens` (10); `batch_size` and `num_workers`.

        Returns:
            A list of `answer` and `score`, best first, for a question; a list of such lists for several. The score
            of a candidate is its share among the `k_test` ones; that of a free answer its probability.

        Raises:
            AlbefError: There is no question, or none that the model can read; an answer of the list is empty or stands
                there twice; the model has no answer decoder.
        """
        check_head(self.model, "rank_answers")
        if question is None:
            if isinstance(image, str | Path | Image):
                raise AlbefError("There is no question: give one beside the image.")
            return super().__call__(image, **kwargs)
        if isinstance(image, list) or isinstance(question, list):
            images = image if isinstance(image, list) else [image] * len(question)
            questions = question if isinstance(question, list) else [question] * len(images)
            if len(images) != len(questions):
                raise AlbefError(f"{len(images)} images do not go with {len(questions)} questions: give one of them.")
            pairs = zip(images, questions, strict=True)
            return super().__call__([{"image": one, "question": text} for one, text in pairs], **kwargs)
        return super().__call__({"image": image, "question": question}, **kwargs)

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        answer_list: list[str] | str | Path | None = None,
        k_test: int | None = None,
        free_form: bool | None = None,
        max_new_tokens: int | None = None,
    ) -> tuple[dict, dict, dict]:
        if isinstance(answer_list, str | Path):
            if not Path(answer_list).is_file():
                raise AlbefError(f"answer_list is {str(answer_list)!r}, but must be a list, or a JSON file of one.")
            try:
                answer_list = list(json.loads(Path(answer_list).read_text(encoding="utf-8")))
            except json.JSONDecodeError as error:
                raise AlbefError(f"answer_list {str(answer_list)!r} is no JSON file ({error}): mend it.") from error
        if answer_list is not None:
            if not answer_list:
                raise AlbefError("The answer list is empty: there is nothing to choose from.")
            different = {answer.strip() for answer in answer_list}
            if "" in different or len(different) != len(answer_list):
                raise AlbefError("The answer list has an empty answer, or one twice: leave it out.")
        if top_k is not None and top_k < 1:
            raise AlbefError(f"top_k is {top_k}, but must be at least 1.")
        forward = {"top_k": top_k, "k_test": k_test, "free_form": free_form, "max_new_tokens": max_new_tokens}
        forward = {name: value for name, value in forward.items() if value is not None}
        answers = {} if answer_list is None else {"answer_list": tuple(answer_list)}
        return {}, {**forward, **answers}, answers

    def preprocess(self, input_: dict[str, Any], **_: Any) -> dict[str, torch.Tensor]:
        """Make an image and a question the model's inputs."""
        inputs = self.processor(
            images=[input_["image"]],
            text=[input_["question"]],
            text_type="question",
            max_words=50,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        _check_words(self.processor, inputs, "question", input_["question"])
        return inputs.to(self.dtype)

    def _forward(
        self,
        input_tensors: dict[str, torch.Tensor],
        top_k: int = 5,
        k_test: int = 128,
        answer_list: tuple[str, ...] | None = None,
        free_form: bool = False,
        max_new_tokens: int = 10,
    ) -> dict[str, torch.Tensor]:
        inputs = {name: input_tensors[name] for name in ("pixel_values", "input_ids", "attention_mask")}
        answers = answer_list or self._own_answers()
        if free_form or not answers:
            return self._write(inputs, top_k, max_new_tokens)
        ranked = self.model.rank_answers(**inputs, candidates=self._candidates(answers)[1], k=max(k_test, top_k))
        return {"ids": ranked.ids[:, :top_k], "scores": ranked.probabilities[:, :top_k]}

    def _write(self, inputs: dict[str, torch.Tensor], top_k: int, max_new_tokens: int) -> dict[str, torch.Tensor]:
        """Write answers by beam search; a length penalty of 0 leaves their log-probabilities as they are."""
        written = self.model.generate(
            **inputs,
            num_beams=max(2, top_k),
            num_return_sequences=top_k,
            max_new_tokens=max_new_tokens,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        shape = (len(inputs["input_ids"]), top_k)
        return {"tokens": written.sequences.unflatten(0, shape), "scores": written.sequences_scores.exp().view(shape)}

    def _candidates(self, answers: tuple[str, ...]) -> tuple[list[str], AnswerTree]:
        """Return the candidates that the tokenizer can tell apart, and as the model takes them, made once a list."""
        if self._kept is None or self._kept[0] != answers:
            ids = self.processor.encode_answers(list(answers), padding=False, return_tensors=None)["input_ids"]
            merged = merge_equal_answers(answers, ids)
            if (sentence := describe_merged_answers(merged)) is not None:
                logger.warning(sentence)
            encoded = self.processor.encode_answers(list(merged)).to(self.device)
            tree = AnswerTree.from_tokens(encoded["input_ids"], encoded["attention_mask"])
            self._kept = (answers, list(merged), tree)
        return self._kept[1:]

    def _own_answers(self) -> tuple[str, ...]:
        return tuple(self.model.config.decoder_config.answer_list or ())

    def postprocess(
        self, model_outputs: dict[str, torch.Tensor], answer_list: tuple[str, ...] | None = None
    ) -> list[dict[str, Any]]:
        """Return the answers that the indices or tokens stand for."""
        if "tokens" in model_outputs:
            answers = self.processor.batch_decode(model_outputs["tokens"][0], skip_special_tokens=True)
        else:
            names, _ = self._candidates(answer_list or self._own_answers())
            answers = [names[index] for index in model_outputs["ids"][0].tolist()]
        scores = model_outputs["scores"][0].tolist()
        return [{"answer": answer, "score": score} for answer, score in zip(answers, scores, strict=True)]


class ImageTextRetrievalPipeline(_AlbefPipeline):
    """Search of images by a text, or of texts by an image: `pipeline("image-text-retrieval", model=NAME)`.

    In two stages, as published: the index gives the `k` closest by cosine similarity, the matching head ranks them.

    Example:
        >>> search = pipeline("image-text-retrieval", model="user/albef-retrieval")
        >>> search.index_images("photos")
        >>> search("a dog on a beach", top_k=1)
        [{'image': 'photos/7.jpg', 'score': 3.1, 'probability': 0.98, 'similarity': 0.41}]
    """

    index: EmbeddingIndex | None = None

    def index_images(self, images: str | Path | Iterable[Any], batch_size: int = 16, faiss: str | None = None) -> None:
        """Encode images once; an image's file is read again only where it is ranked.

        Args:
            images: A folder, with all that is below it; or paths, URLs or Pillow images.
            batch_size: Images that are encoded together.
            faiss: Factory string of a FAISS index (needs `datasets` and FAISS); None searches exactly.

        Raises:
            MissingFolderError: The folder does not exist or has no images.
        """
        if isinstance(images, str | Path):
            images = _images_below(Path(images))
        names = [str(image) if isinstance(image, Path) else image for image in images]
        self._make_index("image", names, batch_size, faiss)

    def index_texts(self, texts: str | Iterable[str], batch_size: int = 64, faiss: str | None = None) -> None:
        """Encode texts once.

        Args:
            texts: What is to be found by images; a text or many.
            batch_size: Texts that are encoded together.
            faiss: See `index_images`.
        """
        self._make_index("text", [texts] if isinstance(texts, str) else list(texts), batch_size, faiss)

    def save_index(self, folder: str | Path) -> None:
        """Write the index; the images stay where they are."""
        self._need_index().save(folder)

    def load_index(self, folder: str | Path, faiss: str | None = None) -> None:
        """Read back what `save_index` wrote; `faiss` as in `index_images`."""
        self.index = EmbeddingIndex.load(folder, self.model.config.projection_dim, faiss)

    def __call__(self, text: str | list[str] | None = None, *, image: Any = None, **kwargs: Any) -> Any:
        """Search what is indexed.

        Args:
            text: Query or queries, where images are indexed.
            image: Path, URL or Pillow image, or a list of them, where texts are indexed.
            kwargs: `top_k` results a query (5); `k` candidates that the matching head ranks (16), 0 for none;
                `threshold`, the least `probability` of a result, or `similarity` where `k` is 0; or "calibrated": the
                threshold of a model that was evaluated with `--calibrate`.

        Returns:
            For a query a list, best first, of `image` or `text`, `similarity` (cosine), and where `k` > 0 `score` (the
            published one, a logit) and `probability` of a match; a list of such lists for several queries. Below a
            threshold there is no result, so an empty list says that nothing fits. With "calibrated" each also has a
            `confidence`, 0.5 at the threshold: the probability that a query with this best score has its answer here.

        Raises:
            AlbefError: Nothing is indexed, or what is indexed is of the query's own kind; the query has no word that
                the model can read; the model has no matching head.
        """
        check_head(self.model, "match")
        if (text is None) == (image is None):
            raise AlbefError("Give either text or image as the query.")
        kind, query = ("text", text) if image is None else ("image", image)
        if self._need_index().kind == kind:
            other = "texts" if kind == "image" else "images"
            raise AlbefError(f"What is indexed is {kind}s, the query's own kind: index {other} with index_{other}.")
        if isinstance(query, list):
            return [super(ImageTextRetrievalPipeline, self).__call__({kind: one}, **kwargs) for one in query]
        return super().__call__({kind: query}, **kwargs)

    def _sanitize_parameters(
        self, top_k: int | None = None, k: int | None = None, threshold: float | str | None = None
    ) -> tuple[dict, dict, dict]:
        forward = {name: value for name, value in {"top_k": top_k, "k": k}.items() if value is not None}
        if forward.get("top_k", 1) < 1 or forward.get("k", 0) < 0:
            raise AlbefError(f"top_k is {top_k} and k is {k}, but they must be at least 1 and 0.")
        if threshold is None:
            return {}, forward, {}
        is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not (is_number or threshold == "calibrated"):
            raise AlbefError(f'threshold is {threshold!r:.60}, but must be a number or "calibrated".')
        if threshold == "calibrated" and self.model.config.search_calibration is None:
            raise AlbefError("The model is not calibrated: give a number, or evaluate it with --calibrate first.")
        return {}, forward, {"threshold": threshold}

    def preprocess(self, input_: dict[str, Any], **_: Any) -> dict[str, torch.Tensor]:
        """Make a query the model's inputs."""
        kind, query = next(iter(input_.items()))
        inputs = self._encode_inputs(kind, [query])
        if kind == "text":
            _check_words(self.processor, inputs, "text", query)
        return inputs

    def _encode_inputs(self, kind: str, batch: list[Any]) -> dict[str, torch.Tensor]:
        if kind == "image":
            return dict(self.processor(images=batch, return_tensors="pt").to(self.dtype))
        longest = self.model.config.text_config.max_position_embeddings
        inputs = self.processor(text=batch, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return dict(inputs)

    def _encode(self, kind: str, inputs: dict[str, torch.Tensor]) -> Any:
        features = self.model.get_image_features if kind == "image" else self.model.get_text_features
        return features(**{name: tensor.to(self.device) for name, tensor in inputs.items()})

    @torch.no_grad()
    def _make_index(self, kind: str, names: list[Any], batch_size: int, faiss: str | None) -> None:
        if not names:
            raise AlbefError(f"There are no {kind}s to index.")
        batches = [names[start : start + batch_size] for start in range(0, len(names), batch_size)]
        embeds = [self._encode(kind, self._encode_inputs(kind, batch)).pooler_output.cpu() for batch in batches]
        self.index = EmbeddingIndex(kind, names, torch.cat(embeds), faiss)

    def _need_index(self) -> EmbeddingIndex:
        if self.index is None:
            raise AlbefError("Nothing is indexed: call index_images, index_texts or load_index first.")
        return self.index

    def _forward(self, input_tensors: dict[str, torch.Tensor], top_k: int = 5, k: int = 16) -> dict[str, torch.Tensor]:
        index = self._need_index()
        kind = "image" if "pixel_values" in input_tensors else "text"
        query = self._encode(kind, input_tensors)
        similarity, indices = index.search(query.pooler_output, max(k, top_k))  # (1, k)
        found = {"similarity": similarity[0], "indices": indices[0]}
        if k > 0:
            inputs = self._encode_inputs(index.kind, [index.names[row] for row in indices[0].tolist()])
            candidates = self._encode(index.kind, inputs).last_hidden_state
            rows = len(candidates)
            if index.kind == "image":
                text, images = query.last_hidden_state.expand(rows, -1, -1), candidates
                mask = input_tensors["attention_mask"].expand(rows, -1)
            else:
                text, images, mask = candidates, query.last_hidden_state, inputs["attention_mask"].to(self.device)
            logits = self.model.match(text, mask, images).float().cpu()  # (k, 2)
            order = logits[:, 1].argsort(descending=True, stable=True)
            found = {name: tensor[order] for name, tensor in found.items()}
            found |= {"score": logits[order, 1], "probability": logits[order].softmax(dim=-1)[:, 1]}
        return {name: tensor[:top_k] for name, tensor in found.items()}

    def postprocess(
        self, model_outputs: dict[str, torch.Tensor], threshold: float | str | None = None, **_: Any
    ) -> list[dict[str, Any]]:
        """Return the names that the indices stand for, down to a threshold."""
        index, outputs = self._need_index(), dict(model_outputs)
        if threshold is not None:
            outputs = self._above(outputs, threshold)
        lists = {name: tensor.tolist() for name, tensor in outputs.items()}
        names = [{index.kind: index.names[row]} for row in lists.pop("indices")]
        columns = [name for name in ("score", "probability", "similarity", "confidence") if name in lists]
        return [{**name, **{column: lists[column][row] for column in columns}} for row, name in enumerate(names)]

    def _above(self, outputs: dict[str, torch.Tensor], threshold: float | str) -> dict[str, torch.Tensor]:
        """Return the results that reach a threshold."""
        stage, column = ("", "score") if "score" in outputs else ("cosine_", "similarity")
        if isinstance(threshold, str):
            fitted = self.model.config.search_calibration
            above = (outputs[column] - fitted[f"{stage}threshold"]) / fitted[f"{stage}temperature"]
            outputs["confidence"], kept = above.sigmoid(), above >= 0
        else:
            kept = outputs.get("probability", outputs["similarity"]) >= threshold
        return {name: tensor[kept] for name, tensor in outputs.items()}


def _check_words(processor: Any, inputs: Any, kind: str, text: str) -> None:
    """Refuse a text of which the model reads no word."""
    tokenizer = processor.tokenizer
    empty = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    if empty.issuperset(inputs["input_ids"][0].tolist()):
        raise AlbefError(f"The {kind} {text[:60]!r} has no word that the model knows: give another.")


def _images_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MissingFolderError(f"There is no folder {str(folder)!r}: give one, or a list of images.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise MissingFolderError(f"The folder {str(folder)!r} has no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return found


# task: its pipeline, and the Auto class that loads its model
PIPELINES: dict[str, tuple[type[Pipeline], str]] = {
    "albef-vqa": (AlbefVqaPipeline, "AutoModelForImageTextToText"),
    "image-text-retrieval": (ImageTextRetrievalPipeline, "AutoModelForZeroShotImageClassification"),
}
