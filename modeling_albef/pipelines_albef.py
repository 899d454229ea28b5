# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pipelines of the library's kind: answers to questions about images, labels of both, search in images or texts.

Shapes: B batch, C labels, E projection width, k candidates, L tokens.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, Pipeline
from transformers.utils import PROCESSOR_NAME, logging

from .answer_tree_albef import AnswerTree, describe_merged_answers, merge_equal_answers
from .configuration_albef import AlbefError, check_finite, one_line
from .hub_albef import check_head, check_model_type
from .index_albef import (
    EmbeddingIndex,
    Rows,
    Skipped,
    as_sequence,
    has_rows,
    images_below,
    is_many,
    is_stream,
    iterate,
    left_out,
    name_source,
    pair_streams,
    read_answers,
    rerank_scores,
    stored_files,
)
from .kept_images_albef import KeptImages, UnreadableError, fingerprint_of
from .losses_albef import find_problem_type
from .packed_fusion_albef import match_images
from .products_albef import inference

logger = logging.get_logger(__name__)
QUERIES = 16  # of a list, that run together
PAIRS = 64  # of texts and kept images that are matched at once
IMAGES = 8  # that are encoded together, on a CPU


class _AlbefPipeline(Pipeline):
    """What both pipelines hold: a model, and a processor with the tokenizer and the image processor."""

    _load_processor = None  # by `pipeline`, where it can; else here, once the model is known to be an ALBEF
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    model: Any
    processor: Any

    def __init__(self, model: Any, processor: Any = None, **kwargs: Any) -> None:
        """Take a model; without a `processor` load the one that is beside it.

        Raises:
            AlbefError: The model is no ALBEF, or no processor beside it can be loaded.
        """
        check_model_type(model)
        processor = _processor_beside(model) if processor is None else processor
        super().__init__(model, processor=processor, **kwargs)
        self.model.eval()  # it may come from a training

    def get_inference_context(self) -> Any:
        """Return what the library runs `_forward` in."""
        return inference


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
            image: Path, URL, Pillow image or array; many of them; or, without `question`, a row with `image` and
                `question`, or many rows. Many are a list, a column or rows of a data set, a generator, or anything
                else that can be iterated over.
            question: A text or many; a single image goes with all questions, a single question with all images.
            kwargs: `top_k` answers that are returned (5); `answer_list`, candidates or a JSON file of them; those with
                the same tokens count as one, with the spelling of the first;
                `k_test` candidates that are scored whole (128); `free_form=True` to write answers in spite of
                candidates, and then `max_new_tokens` (10); `batch_size` and `num_workers`.

        Returns:
            A list of `answer` and `score`, best first, for a question; a list of such lists for several, or, as in
            all pipelines, an iterator for a generator or a `torch` data set. The score of a candidate is its share
            among the `k_test` ones; that of a free answer its probability.

        Raises:
            AlbefError: There is no question, or none that the model can read; an answer of the list is empty or stands
                there twice; the model has no answer decoder, or its scores are not finite.
        """
        check_head(self.model, "rank_answers")
        if question is None and isinstance(image, Mapping):
            columns = image.get("image"), image.get("question")  # of rows, or one of each
            image, question = columns if any(map(is_many, columns)) else (image, None)
        if question is None:
            if is_many(image):
                return self._answer_rows(image, **kwargs)
            _check_row(image)
            return super().__call__(image, **kwargs)
        if image is None:
            raise AlbefError("There is no image: give one beside the question.")
        if not is_many(image) and not is_many(question):
            return super().__call__({"image": image, "question": question}, **kwargs)
        if any(is_many(one) and not has_rows(one) for one in (image, question)):
            return super().__call__(pair_streams(image, question), **kwargs)
        images = as_sequence(image, "images") if is_many(image) else [image] * len(question)
        questions = as_sequence(question, "questions") if is_many(question) else [question] * len(images)
        if len(images) != len(questions):
            raise AlbefError(f"{len(images)} images do not go with {len(questions)} questions: give one of them.")
        rows = Rows(range(len(images)), lambda row: {"image": images[row], "question": questions[row]})
        answers = super().__call__(rows, **kwargs)
        return answers if is_stream(image) or is_stream(question) else list(answers)

    def _answer_rows(self, rows: Any, **kwargs: Any) -> Any:
        if not has_rows(rows):
            return super().__call__(iterate(rows, "questions"), **kwargs)
        answers = super().__call__(Rows(as_sequence(rows, "questions")), **kwargs)
        return answers if is_stream(rows) else list(answers)

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        answer_list: Iterable[str] | str | Path | None = None,
        k_test: int | None = None,
        free_form: bool | None = None,
        max_new_tokens: int | None = None,
    ) -> tuple[dict, dict, dict]:
        if isinstance(answer_list, str | Path):
            answer_list = read_answers(answer_list)
        if answer_list is not None:
            answer_list = list(iterate(answer_list, "answers to choose from"))
            if odd := [answer for answer in answer_list if not isinstance(answer, str)]:
                raise AlbefError(f"The answer {odd[0]!r} of the list is no text: give strings.")
            different = {answer.strip() for answer in answer_list}
            if "" in different or len(different) != len(answer_list):
                raise AlbefError("The answer list has an empty answer, or one twice: leave it out.")
        numbers = {"top_k": top_k, "k_test": k_test, "max_new_tokens": max_new_tokens}
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise AlbefError(f"{name} is {number}, but must be at least 1.")
        forward: dict[str, Any] = {**numbers, "free_form": free_form}
        forward = {name: value for name, value in forward.items() if value is not None}
        answers = {} if answer_list is None else {"answer_list": tuple(answer_list)}
        return {}, {**forward, **answers}, answers

    def preprocess(self, input_: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Make an image and a question the model's inputs; `source` names both in messages."""
        _check_row(input_)
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
        source = f"the question {input_['question'][:60]!r} about {name_source('image', input_['image'])}"
        return {**inputs.to(self.dtype), "source": source}

    def _forward(
        self,
        input_tensors: dict[str, Any],
        top_k: int = 5,
        k_test: int = 128,
        answer_list: tuple[str, ...] | None = None,
        free_form: bool = False,
        max_new_tokens: int = 10,
    ) -> dict[str, torch.Tensor]:
        inputs = {name: input_tensors[name] for name in ("pixel_values", "input_ids", "attention_mask")}
        answers = answer_list or self._own_answers()
        if free_form or not answers:
            outputs = self._write(inputs, top_k, max_new_tokens)
        else:
            ranked = self.model.rank_answers(**inputs, candidates=self._candidates(answers)[1], k=max(k_test, top_k))
            outputs = {"ids": ranked.ids[:, :top_k], "scores": ranked.probabilities[:, :top_k]}
        sources = input_tensors["source"]
        check_finite(outputs["scores"], "scores", lambda row: sources if isinstance(sources, str) else sources[row])
        return outputs

    def _write(self, inputs: dict[str, torch.Tensor], top_k: int, max_new_tokens: int) -> dict[str, torch.Tensor]:
        """Write answers by beam search; a length penalty of 0 leaves their log-probabilities as they are."""
        written = self.model.generate(
            **inputs,
            num_beams=max(2, top_k),
            num_return_sequences=top_k,
            max_new_tokens=max_new_tokens,
            length_penalty=0.0,
            **self.processor.answer_constraints(),
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
            encoded = self.processor.encode_answers(list(merged))
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


class ImageTextClassificationPipeline(_AlbefPipeline):
    """Labels of images with texts: `pipeline("image-text-classification", model=NAME)`.

    Example:
        >>> classify = pipeline("image-text-classification", model="user/albef-snli-ve")
        >>> classify(image="photo.jpg", text="two dogs run", top_k=1)
        [{'label': 'entailment', 'score': 0.93}]
    """

    def __call__(self, image: Any = None, text: Any = None, **kwargs: Any) -> Any:
        """Give labels.

        Args:
            image: Path, URL, Pillow image or array; a list of them; or, without `text`, a row with `image` and `text`,
                or several rows. For a model of two images a list of two stands for each image; a row may have
                `image_2`.
            text: A text or a list of them; a single image goes with all texts, a single text with all images.
            kwargs: `top_k` labels that are returned (5); `batch_size` and `num_workers`.

        Returns:
            A list of `label` and `score`, best first, for a text; a list of such lists for several. The score is a
            probability; of a regression the number itself.

        Raises:
            AlbefError: There is no text, or none that the model can read; numbers of images and texts differ; the model
                has no trained classifier, or its scores are not finite.
        """
        check_head(self.model)
        if not hasattr(self.model, "classifier"):
            kind = type(self.model).__name__
            raise AlbefError(f"The model is of the type {kind}, which has no classifier: give one of this task.")
        if text is None:
            is_one = isinstance(image, Mapping) or not is_many(image)
            return super().__call__(image, **kwargs) if is_one else list(super().__call__(list(image), **kwargs))
        is_one = not is_many(image)
        if self.model.config.text_config.images_per_text > 1 and not is_one:
            image = list(image)
            is_one = not any(map(is_many, image))
        if is_one and not is_many(text):
            return super().__call__({"image": image, "text": text}, **kwargs)
        images = [image] * len(text) if is_one else list(image)
        texts = list(text) if is_many(text) else [text] * len(images)
        if len(images) != len(texts):
            raise AlbefError(f"{len(images)} images do not go with {len(texts)} texts: give one of them.")
        rows = [{"image": one, "text": other} for one, other in zip(images, texts, strict=True)]
        return list(super().__call__(rows, **kwargs))

    def _sanitize_parameters(self, top_k: int | None = None) -> tuple[dict, dict, dict]:
        if top_k is not None and top_k < 1:
            raise AlbefError(f"top_k is {top_k}, but must be at least 1.")
        return {}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, input_: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Make an image and a text the model's inputs."""
        _check_row(input_, "text")
        config, images = self.model.config.text_config, input_["image"]
        images = (
            [images, *([input_["image_2"]] if "image_2" in input_ else [])] if not is_many(images) else list(images)
        )
        if len(images) != config.images_per_text:
            wanted = "[LEFT, RIGHT]" if config.images_per_text == 2 else "one"
            raise AlbefError(
                f"A text comes with {len(images)} images, but the model reads {config.images_per_text}: give {wanted}."
            )
        limit = {"truncation": True, "max_length": config.max_position_embeddings}
        inputs = self.processor(images=images, text=[input_["text"]], return_tensors="pt", **limit)
        if len(images) > 1:
            inputs["pixel_values"] = inputs["pixel_values"][None]  # (1, K, 3, S, S)
        _check_words(self.processor, inputs, "text", input_["text"])
        return inputs.to(self.dtype)

    def _forward(self, input_tensors: dict[str, Any]) -> dict[str, torch.Tensor]:
        logits = self.model(**input_tensors).logits.float()  # (B, C)
        check_finite(logits, "scores", "text {}".format)
        return {"logits": logits}

    def postprocess(self, model_outputs: dict[str, torch.Tensor], top_k: int = 5) -> list[dict[str, Any]]:
        """Return the labels that the logits stand for."""
        logits, kind = model_outputs["logits"][0], find_problem_type(self.model.config)
        scores = {"regression": logits, "multi_label_classification": logits.sigmoid()}.get(kind, logits.softmax(0))
        order = scores.argsort(descending=True, stable=True)[:top_k].tolist()
        return [{"label": self.model.config.id2label[index], "score": float(scores[index])} for index in order]


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

    def index_images(
        self,
        images: Any,
        batch_size: int = 16,
        faiss: str | None = None,
        keep_in: str | Path | None = None,
        keep_states: bool = True,
        skip_unreadable: bool | None = None,
    ) -> None:
        """Encode images once. What was left out is listed in `index.skipped`, with the reason.

        With `keep_in`, embeddings and states are kept there by the content of the files. The next call encodes what is
        new or changed alone, also after an interruption, and forgets what is not among `images` any more.

        Args:
            images: A folder, with all that is below it; or paths, URLs, Pillow images or arrays, one or many. A column
                of a data set is read again where its images are ranked.
            batch_size: Images that are encoded together.
            faiss: Factory string of a FAISS index (needs `datasets` and FAISS); None searches exactly.
            keep_in: Folder of an index of files. It is saved there, and `load_index` reads it.
            keep_states: Whether the states of the images are kept beside the embeddings, in float16, 2 * P * H bytes an
                image (0.9 MB for a base model at 384 pixels), so that ranking opens and encodes no image.
            skip_unreadable: Whether images that cannot be read are left out, in place of an error. Default: where
                `images` is a folder.

        Raises:
            MissingFolderError: The folder does not exist or has no images.
            AlbefError: There are no images, or none that can be read; the features of one are not finite; `batch_size`
                is below 1; `keep_in` is given for images that are no files.
        """
        is_url = isinstance(images, str) and ("://" in images or images.startswith("data:image/"))
        is_folder = isinstance(images, str | Path) and not is_url and not Path(images).is_file()
        skipped = []
        if is_folder:
            skipped = [Skipped(str(path), "is of a format that is not read here") for path in left_out(Path(images))]
            images = images_below(Path(images))
        is_lenient = is_folder if skip_unreadable is None else skip_unreadable
        if keep_in is None:
            self._make_index("image", images, batch_size, faiss, is_lenient)
        else:
            fingerprint = self._fingerprint(keep_states)
            kept = KeptImages(keep_in, fingerprint, stored_files(keep_in, fingerprint))
            self._keep(kept, images, batch_size, faiss, is_lenient)
        self._need_index().skipped += skipped

    def add_images(self, images: Any, batch_size: int = 16, skip_unreadable: bool = False) -> None:
        """Add images to those that are indexed; a path that is indexed is encoded again if its file has changed.

        Args:
            images: Paths, one or many; without `keep_in` also what else `index_images` takes.
            batch_size: Images that are encoded together.
            skip_unreadable: Whether images that cannot be read are left out, in place of an error.

        Raises:
            AlbefError: As `index_images`.
        """
        index = self._need_index()
        new = [str(one) if isinstance(one, Path) else one for one in (images if is_many(images) else [images])]
        files = {one for one in new if isinstance(one, str)}
        rows = [
            row
            for row in range(len(index.names))
            if not (isinstance((name := index.names[row]), str) and name in files)
        ]
        if index.kept is not None:
            self._keep(
                index.kept, [*(index.names[row] for row in rows), *new], batch_size, index.faiss, skip_unreadable
            )
            return
        self._make_index("image", new, batch_size, None, skip_unreadable)
        added = self._need_index()
        names = [*(index.names[row] for row in rows), *added.names]
        self.index = EmbeddingIndex("image", names, torch.cat([index.embeds[rows], added.embeds]), index.faiss)
        self.index.skipped = added.skipped

    def remove_images(self, names: Any) -> None:
        """Remove indexed images.

        Args:
            names: Paths, one or many, as `index.names` has them.

        Raises:
            AlbefError: A path is not indexed, or no image would be left.
        """
        index, gone = self._need_index(), {str(name) for name in (names if is_many(names) else [names])}
        if unknown := sorted(gone - {name for name in index.names if isinstance(name, str)}):
            raise AlbefError(f"The image {unknown[0]!r} is not indexed: give paths as `index.names` has them.")
        rows = [row for row, name in enumerate(index.names) if name not in gone]
        if not rows:
            raise AlbefError("No image would be left: keep one at least.")
        if index.kept is not None:
            self._keep(index.kept, [index.names[row] for row in rows], 16, index.faiss, True)
        else:
            self.index = EmbeddingIndex("image", [index.names[row] for row in rows], index.embeds[rows], index.faiss)

    def index_texts(self, texts: str | Iterable[str], batch_size: int = 64, faiss: str | None = None) -> None:
        """Encode texts once.

        Args:
            texts: What is to be found by images; a text or many.
            batch_size: Texts that are encoded together.
            faiss: See `index_images`.

        Raises:
            AlbefError: There are no texts, one is no string or its features are not finite, or `batch_size` is below 1.
        """
        self._make_index("text", texts, batch_size, faiss)

    def save_index(self, folder: str | Path) -> None:
        """Write the index; the images stay where they are, and so do states that are kept in another folder."""
        self._need_index().save(folder)

    def load_index(self, folder: str | Path, faiss: str | None = None) -> None:
        """Read back what `save_index` or `index_images(keep_in=folder)` wrote; `faiss` as in `index_images`."""
        index = EmbeddingIndex.load(folder, self.model.config.projection_dim, faiss)
        if (stored := index.fingerprint) is not None:
            known = [self._fingerprint(keep_states) for keep_states in (True, False)]
            if stored not in known:
                raise AlbefError(f"The index in {str(folder)!r} was made by another model: index again with this one.")
            index.kept = KeptImages(folder, stored, stored_files(folder, stored))
        self.index = index

    def __call__(self, text: str | Iterable[str] | None = None, *, image: Any = None, **kwargs: Any) -> Any:
        """Search what is indexed.

        Args:
            text: Query or queries, where images are indexed.
            image: Path, URL, Pillow image or array, or many of them. Where images are indexed, those like it are found
                by their embeddings alone.
            kwargs: `batch_size` queries that run together (16 of a list, 1 of a generator); `top_k` results a query
                (5); `k` candidates that the matching head ranks (16), 0 for none; a model that says so
                (`AlbefConfig.rerank_weight`) orders by similarity, too, or by it alone;
                `threshold`, the least `probability` of a result, or `similarity` where `k` is 0; or "calibrated": the
                threshold of a model that was evaluated with `--calibrate`.

        Returns:
            For a query a list, best first, of `image` or `text`, `similarity` (cosine), and where `k` > 0 `score`, by
            which they are ordered (the published one, a logit), and `probability` of a match; a list of such lists for
            several queries, or a generator of them for a generator or a `torch` data set. Below a threshold there is no
            result, so an empty list says that nothing fits. With "calibrated" each also has a `confidence`, 0.5 at the
            threshold: the probability that a query with this best score has its answer here.

        Raises:
            AlbefError: Nothing is indexed, or what is indexed is of the query's own kind; the query has no word that
                the model can read; the model has no matching head, or its scores are not finite.
        """
        check_head(self.model, "match")
        if (text is None) == (image is None):
            raise AlbefError("Give either text or image as the query.")
        kind, query = ("text", text) if image is None else ("image", image)
        if self._need_index().kind == kind == "text":
            raise AlbefError("What is indexed is texts, the query's own kind: index images with index_images.")
        if not is_many(query):
            return super().__call__({kind: query}, **kwargs)
        if is_stream(query):
            return super().__call__(({kind: one} for one in iterate(query, "queries")), **kwargs)
        rows = Rows(as_sequence(query, "queries"), lambda one: {kind: one})
        return list(super().__call__(rows, **{"batch_size": QUERIES, **kwargs}))

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

    def preprocess(self, input_: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Make a query the model's inputs; `source` names it in messages."""
        kind, query = next(iter(input_.items()))
        inputs = self._encode_inputs(kind, [query])
        if kind == "text":
            _check_words(self.processor, inputs, "text", query)
        return {**inputs, "source": name_source(kind, query)}

    def _encode_inputs(self, kind: str, batch: list[Any]) -> dict[str, torch.Tensor]:
        if kind == "image":
            return dict(self.processor(images=batch, return_tensors="pt").to(self.dtype))
        if odd := [text for text in batch if not isinstance(text, str)]:
            raise AlbefError(f"The text {odd[0]!r} is no string: give one.")
        longest = self.model.config.text_config.max_position_embeddings
        inputs = self.processor(text=batch, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return dict(inputs)

    def _encode(self, kind: str, inputs: dict[str, torch.Tensor]) -> Any:
        features = self.model.get_image_features if kind == "image" else self.model.get_text_features
        return features(**{name: tensor.to(self.device) for name, tensor in inputs.items()})

    @inference()
    def _make_index(self, kind: str, given: Any, batch_size: int, faiss: str | None, is_lenient: bool = False) -> None:
        _check_batch_size(batch_size)
        names = as_sequence(given if is_many(given) else [given], f"{kind}s to index")
        if isinstance(names, list | tuple):
            names = [str(name) if isinstance(name, Path) else name for name in names]
        embeds: list[torch.Tensor] = []
        skipped: list[Skipped] = []
        rows: list[int] = []
        starts = range(0, len(names), batch_size)
        for start in logging.tqdm(starts, desc="Indexing", unit="batch", disable=len(starts) < 8):
            batch = {row: names[row] for row in range(len(names))[start : start + batch_size]}
            if is_lenient:
                for row, name in list(batch.items()):
                    try:
                        batch[row] = self._read(name)
                    except UnreadableError as error:
                        skipped.append(Skipped(str(name), str(error)))
                        del batch[row]
            if batch:
                embeds.append(self._encode(kind, self._encode_inputs(kind, list(batch.values()))).pooler_output.cpu())
                rows += batch
        _check_any(rows, skipped)
        names = names if len(rows) == len(names) else [names[row] for row in rows]
        self.index = EmbeddingIndex(kind, names, torch.cat(embeds), faiss)
        self.index.skipped = skipped

    @inference()
    def _keep(self, kept: KeptImages, images: Any, batch_size: int, faiss: str | None, is_lenient: bool) -> None:
        _check_batch_size(batch_size)
        names = as_sequence(images if is_many(images) else [images], "images to index")
        names = [str(name) if isinstance(name, Path) else name for name in iterate(names, "images to index")]
        if odd := [name for name in names if not isinstance(name, str) or "://" in name]:
            raise AlbefError(f"An index that is kept is one of files, not of {odd[0]!s:.60}: give paths.")

        def encode(images: list[Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
            parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
            found = [self._encode("image", self._encode_inputs("image", part)) for part in parts]
            embeds = torch.cat([one.pooler_output.cpu() for one in found])
            check_finite(embeds, "features", lambda row: name_source("image", images[row]))
            if kept.fingerprint != self._fingerprint(True):
                return embeds, None
            return embeds, torch.cat([one.last_hidden_state.to("cpu", torch.float16) for one in found])

        names, skipped = kept.update(list(dict.fromkeys(names)), self._read, encode)
        if skipped and not is_lenient:
            raise AlbefError(f"{skipped[0].name!r} {skipped[0].reason}. Leave it out, or set `skip_unreadable=True`.")
        _check_any(names, skipped)
        self.index = EmbeddingIndex("image", names, kept.embeds_of(names), faiss)
        self.index.kept, self.index.skipped = kept, skipped
        self.index.save(kept.root.parent)

    def _read(self, source: Any) -> Any:
        """Return the image of a source; raise `UnreadableError` where there is none."""
        try:
            return self.processor.image_processor.fetch_images(source)
        except (OSError, ValueError) as error:  # the second of the processor, whose classes the Hub's copy cannot name
            raise UnreadableError(one_line(error).replace(f"Image {str(source)!r} ", "").rstrip(".")) from error

    def _fingerprint(self, keep_states: bool) -> str:
        albef, settings = self.model.albef, self.processor.image_processor.to_dict()
        kept = {name: settings.get(name) for name in ("size", "resample", "image_mean", "image_std", "rescale_factor")}
        return fingerprint_of(albef.vision_model, albef.vision_proj, keep_states=keep_states, **kept)

    def _need_index(self) -> EmbeddingIndex:
        if self.index is None:
            raise AlbefError("Nothing is indexed: call index_images, index_texts or load_index first.")
        return self.index

    def _forward(self, input_tensors: dict[str, Any], top_k: int = 5, k: int = 16) -> dict[str, torch.Tensor]:
        index, sources = self._need_index(), input_tensors["source"]
        sources = [sources] if isinstance(sources, str) else sources
        kind, weight = "image" if "pixel_values" in input_tensors else "text", self.model.config.rerank_weight
        query = self._encode(kind, {name: one for name, one in input_tensors.items() if name != "source"})
        check_finite(query.pooler_output, "features", lambda row: sources[row])
        similarity, indices = index.search(query.pooler_output, max(k, top_k))  # (Q, k)
        found = {"similarity": similarity, "indices": indices}
        if k > 0 and weight != 0 and kind != index.kind:
            if kind == "text":
                logits = self._match_images(query.last_hidden_state, input_tensors["attention_mask"], indices)
            else:
                logits = self._match_texts(query.last_hidden_state, indices)
            logits, depth = logits.float().cpu(), indices.shape[1]  # (Q, k, 2)
            for one, source, chosen in zip(logits, sources, indices.tolist(), strict=True):
                names = list(map(index.describe, chosen))
                check_finite(one, f"scores with {source}", names.__getitem__)
            scores = rerank_scores(similarity, logits[..., 1], float(self.model.albef.temperature), weight)
            found |= {"score": scores, "probability": logits.softmax(dim=-1)[..., 1]}
            order = scores.argsort(dim=1, descending=True, stable=True)[:, :depth]
            found = {name: tensor.gather(1, order) for name, tensor in found.items()}
        return {name: tensor[:, :top_k] for name, tensor in found.items()}

    def _match_images(self, texts: torch.Tensor, mask: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Return `itm_logits` (Q, k, 2) of texts (Q, L, H) with the images of rows (Q, k); each is read once."""
        order, is_kept = indices.flatten().argsort(stable=True), self._need_index().kept is not None
        logits, count = torch.empty(len(order), 2), PAIRS if is_kept or self.device.type != "cpu" else IMAGES
        mask = mask.to(self.device)
        for part in order.split(count):
            rows, inverse = indices.flatten()[part].unique(return_inverse=True)
            image_index = None if len(rows) == len(part) else inverse.to(self.device)
            query = (part // indices.shape[1]).to(self.device)
            logits[part] = (
                match_images(self.model, texts, mask, self._states(rows.tolist()), query, image_index).float().cpu()
            )
        return logits.view(*indices.shape, 2)

    def _states(self, rows: list[int]) -> torch.Tensor:
        """Return the states (n, P, H) of indexed images: those kept, or else the images are encoded."""
        index = self._need_index()
        names = [index.names[row] for row in rows]
        kept = None if index.kept is None else index.kept.states_of(names)
        if kept is not None:
            return kept.to(self.device)
        return self._encode("image", self._encode_inputs("image", names)).last_hidden_state

    def _match_texts(self, images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Return `itm_logits` (Q, k, 2) of images (Q, P, H) with the texts of rows (Q, k)."""
        index, found = self._need_index(), []
        for image, rows in zip(images, indices.tolist(), strict=True):
            inputs = self._encode_inputs("text", [index.names[row] for row in rows])
            texts = self._encode("text", inputs).last_hidden_state
            found.append(self.model.match(texts, inputs["attention_mask"].to(self.device), image[None]))
        return torch.stack(found)

    def postprocess(
        self, model_outputs: dict[str, torch.Tensor], threshold: float | str | None = None, **_: Any
    ) -> list[dict[str, Any]]:
        """Return the names that the indices stand for, down to a threshold."""
        index, outputs = self._need_index(), {name: tensor[0] for name, tensor in model_outputs.items()}
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


def _processor_beside(model: Any) -> Any:
    """Return the processor of the folder, or of the repository, that a model was loaded from."""
    name = model.config._name_or_path
    remedy = "give one as `processor=`"
    if not name:
        raise AlbefError(f"The model was not loaded from anywhere, so there is no processor beside it: {remedy}.")
    options = {"trust_remote_code": True} if model.is_remote_code() else {}
    try:
        return AutoProcessor.from_pretrained(name, **options)
    except (OSError, ValueError) as error:  # ValueError: a folder with other files
        what = f"There is no processor beside the model {name!r}"
        if Path(name, PROCESSOR_NAME).is_file():
            what = f"The processor beside the model {name!r} cannot be loaded"
        raise AlbefError(f"{what} ({one_line(error).rstrip('.')}): {remedy}.") from error


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise AlbefError(f"batch_size is {batch_size}, but must be at least 1.")


def _check_any(found: list[Any], skipped: list[Skipped]) -> None:
    """Refuse an index of nothing; say how many images were left out."""
    if not found:
        raise AlbefError(f"None of {len(skipped)} images can be read ({skipped[0].name!r} {skipped[0].reason}).")
    if skipped:
        logger.warning(
            f"{len(skipped)} of {len(found) + len(skipped)} images were left out. The first is {skipped[0].name!r}: it "
            f"{skipped[0].reason}. `index.skipped` lists all."
        )


def _check_row(row: Any, kind: str = "question") -> None:
    """Refuse what is no row of an image and a question or text."""
    if not isinstance(row, Mapping):
        raise AlbefError(f"There is no {kind}: give one beside the image.")
    if missing := [name for name in ("image", kind) if row.get(name) is None]:
        raise AlbefError(f"A row has no {missing[0]!r}, only {', '.join(map(str, row))}: it needs image and {kind}.")
    if not isinstance(row[kind], str):
        raise AlbefError(f"The {kind} {row[kind]!r} is no string: give one.")


def _check_words(processor: Any, inputs: Any, kind: str, text: str) -> None:
    """Refuse a text of which the model reads no word."""
    tokenizer = processor.tokenizer
    empty = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    if empty.issuperset(inputs["input_ids"][0].tolist()):
        raise AlbefError(f"The {kind} {text[:60]!r} has no word that the model knows: give another.")


# task: its pipeline, and the Auto class that loads its model
PIPELINES: dict[str, tuple[type[Pipeline], str]] = {
    "albef-vqa": (AlbefVqaPipeline, "AutoModelForImageTextToText"),
    "image-text-classification": (ImageTextClassificationPipeline, "AutoModelForSequenceClassification"),
    "image-text-retrieval": (ImageTextRetrievalPipeline, "AutoModelForZeroShotImageClassification"),
}
