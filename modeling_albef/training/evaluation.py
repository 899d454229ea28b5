"""Retrieval evaluation: encode, select candidates by similarity, re-rank them by matching, measure.

The scores are the published ones (salesforce/ALBEF `Retrieval.py`): an image ranks the k_test most similar texts by the
matching logit, a text the k_test most similar images. A pair that both directions ask for is scored once, image by
image, so that an image's keys and values are computed once. Shapes: I images, T texts, E projection width, H width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..modeling_albef import AlbefForImageTextRetrieval
from .metrics import rank_of_first_match, retrieval_metrics


@dataclass
class RankedCandidates:
    """Candidates of each query, best first.

    Attributes:
        ids: (Q, K) int64 places in the other modality's list.
        scores: (Q, K) float32 matching logits, falling.
    """

    ids: torch.Tensor
    scores: torch.Tensor


@dataclass
class RetrievalResult:
    """Outcome of an evaluation.

    Attributes:
        metrics: See `retrieval_metrics`.
        image_to_text: For each image its texts.
        text_to_image: For each text its images.
        captions: The texts, those of an image in a row.
        caption_image: (T,) the image of each text.
    """

    metrics: dict[str, float]
    image_to_text: RankedCandidates
    text_to_image: RankedCandidates
    captions: list[str]
    caption_image: torch.Tensor

    def top_predictions(self, image_names: Sequence[str], depth: int = 10) -> dict[str, list[dict[str, Any]]]:
        """The best candidates of every query, ready for JSON.

        Args:
            image_names: A name for each image.
            depth: Candidates a query.

        Returns:
            `image_to_text` and `text_to_image`: a list of queries with their candidates, scores, and which are right.
        """
        image_of = self.caption_image.tolist()
        queries: dict[str, list[dict[str, Any]]] = {"image_to_text": [], "text_to_image": []}
        for image, name in enumerate(image_names):
            best = _rows(self.image_to_text, image, depth)
            texts = [{"caption": self.captions[t], "score": s, "correct": image_of[t] == image} for t, s in best]
            queries["image_to_text"].append({"image": name, "texts": texts})
        for text, caption in enumerate(self.captions):
            best = _rows(self.text_to_image, text, depth)
            images = [{"image": image_names[i], "score": s, "correct": image_of[text] == i} for i, s in best]
            queries["text_to_image"].append({"caption": caption, "images": images})
        return queries


def _rows(ranked: RankedCandidates, query: int, depth: int) -> list[tuple[int, float]]:
    return list(zip(ranked.ids[query, :depth].tolist(), ranked.scores[query, :depth].tolist(), strict=True))


@dataclass
class EncodedTexts:
    """Texts after the text layers, kept without padding.

    Attributes:
        embeds: (T, E).
        lengths: (T,) tokens of each.
        slots: (T,) place of each among the texts of its length.
        states: For each length L the states (n, L, H).
    """

    embeds: torch.Tensor
    lengths: torch.Tensor
    slots: torch.Tensor
    states: dict[int, torch.Tensor]


def select_candidates(queries: torch.Tensor, gallery: torch.Tensor, k: int, block_size: int = 1024) -> torch.Tensor:
    """The k most similar gallery rows of each query, computed in blocks.

    Args:
        queries: (Q, E) unit length.
        gallery: (G, E) unit length.
        k: Candidates; clipped to G.
        block_size: Queries at a time.

    Returns:
        (Q, min(k, G)) int64, the most similar first.
    """
    k = min(k, len(gallery))
    return torch.cat([(block @ gallery.T).topk(k, dim=1).indices for block in queries.split(block_size)])


class RetrievalEvaluator:
    """Evaluates a retrieval model on images with captions, on one process or many.

    Every process encodes all texts, which is cheap, and its share of the images; it scores the pairs of its images, and
    the results are summed. What is computed together does not depend on the number of processes.
    """

    def __init__(
        self,
        model: AlbefForImageTextRetrieval,
        processor: Callable[..., Any],
        k_test: int = 256,
        batch_size: int = 64,
        max_length: int = 30,
        num_workers: int = 0,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Prepares an evaluation.

        Args:
            model: The model, not wrapped.
            processor: An `AlbefProcessor`.
            k_test: Candidates that are re-ranked; a smaller gallery is re-ranked whole.
            batch_size: Images that are encoded together; texts and pairs come four times as many.
            max_length: Tokens of a text, `[CLS]` included; published: 30.
            num_workers: Processes that read images.
            accelerator: Of the run; default: a new one, which finds out about other processes.
        """
        self.model, self.processor = model, processor
        self.k_test, self.batch_size = k_test, batch_size
        self.max_length = min(max_length, model.config.text_config.max_position_embeddings)
        self.num_workers = num_workers
        self.accelerator = Accelerator() if accelerator is None else accelerator

    def __call__(self, dataset: Any) -> RetrievalResult:
        """Evaluates.

        Args:
            dataset: Rows with an `image` and its `caption`s, a list of strings or one.

        Returns:
            Metrics and rankings, the same on every process.
        """
        captions_of = [[row] if isinstance(row, str) else list(row) for row in dataset["caption"]]
        captions = [caption for row in captions_of for caption in row]
        caption_image = torch.tensor([image for image, row in enumerate(captions_of) for _ in row])
        if not captions:
            raise ValueError("The data set has no caption: there is nothing to evaluate.")
        with self._inference():
            texts = self.encode_texts(captions)
            image_embeds, image_states = self.encode_images(dataset)
            texts_of_image = select_candidates(image_embeds, texts.embeds, self.k_test)  # (I, k)
            images_of_text = select_candidates(texts.embeds, image_embeds, self.k_test)  # (T, k)
            pairs = _pairs_to_score(texts_of_image, images_of_text)
            scores = self.score_pairs(pairs, image_states, texts)
        by_image, by_text = _rank(pairs, scores, texts_of_image, images_of_text)
        text_ranks = rank_of_first_match(caption_image[by_image.ids] == torch.arange(len(captions_of))[:, None])
        image_ranks = rank_of_first_match(by_text.ids == caption_image[:, None])
        return RetrievalResult(retrieval_metrics(text_ranks, image_ranks), by_image, by_text, captions, caption_image)

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()
        with torch.inference_mode(), self.accelerator.autocast():
            yield
        self.model.train(was_training)

    def encode_texts(self, captions: list[str]) -> EncodedTexts:
        """Runs the text layers over all captions, batched by length.

        Args:
            captions: T texts.

        Returns:
            Their states on the model's device.
        """
        ids = self.processor(text=captions, truncation=True, max_length=self.max_length)["input_ids"]
        lengths = torch.tensor([len(row) for row in ids])
        embeds: list[tuple[torch.Tensor, torch.Tensor]] = []
        slots, states = torch.zeros_like(lengths), {}
        for length in self._progress(lengths.unique().tolist(), "Encoding texts"):
            chosen = (lengths == length).nonzero()[:, 0]
            slots[chosen] = torch.arange(len(chosen))
            kept = []
            for batch in chosen.split(4 * self.batch_size):
                input_ids = torch.tensor([ids[text] for text in batch.tolist()], device=self.model.device)
                features = self.model.get_text_features(input_ids)
                embeds.append((batch, features.pooler_output.float().cpu()))
                kept.append(features.last_hidden_state)
            states[length] = torch.cat(kept)
        order, rows = (torch.cat(parts) for parts in zip(*embeds, strict=True))
        return EncodedTexts(rows[order.argsort()], lengths, slots, states)

    def encode_images(self, dataset: Any) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """Runs the vision tower over this process's share of the images.

        Args:
            dataset: I rows with an `image`.

        Returns:
            (I, E) embeddings of all images, and (P, H) states of this process's images by their place.
        """
        batches = torch.arange(len(dataset)).split(self.batch_size)
        own = batches[self.accelerator.process_index :: self.accelerator.num_processes]
        loader = DataLoader(
            dataset,
            batch_sampler=[batch.tolist() for batch in own],
            collate_fn=self._collate_images,
            num_workers=self.num_workers,
        )
        embeds = torch.zeros(len(dataset), self.model.config.projection_dim)
        states: dict[int, torch.Tensor] = {}
        for batch, pixel_values in zip(own, self._progress(loader, "Encoding images"), strict=True):
            features = self.model.get_image_features(pixel_values.to(self.model.device))
            embeds[batch] = features.pooler_output.float().cpu()
            states.update(zip(batch.tolist(), features.last_hidden_state.cpu(), strict=True))
        return self._sum(embeds), states

    def score_pairs(
        self, pairs: torch.Tensor, image_states: dict[int, torch.Tensor], texts: EncodedTexts
    ) -> torch.Tensor:
        """Matching logits of pairs, image by image.

        Args:
            pairs: (n, 2) image and text of each pair, sorted by image.
            image_states: (P, H) of this process's images.
            texts: All texts.

        Returns:
            (n,) float32, the logit of a match, of all processes' images.
        """
        scores = torch.zeros(len(pairs))
        images = pairs[:, 0].contiguous()
        for image in self._progress(image_states, "Re-ranking"):
            first, last = torch.searchsorted(images, torch.tensor([image, image + 1])).tolist()
            states = image_states[image][None].to(self.model.device)
            key_values = self.model.albef.text_model.project_images(states)
            chosen = pairs[first:last, 1]
            for length in texts.lengths[chosen].unique().tolist():
                places = (texts.lengths[chosen] == length).nonzero()[:, 0]
                for batch in places.split(4 * self.batch_size):
                    rows = texts.states[length][texts.slots[chosen[batch]].to(self.model.device)]
                    logits = self.model.match(rows, image_key_values=key_values)
                    scores[first + batch] = logits[:, 1].float().cpu()
        return self._sum(scores)

    def _collate_images(self, rows: list[dict[str, Any]]) -> torch.Tensor:
        return self.processor(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]

    def _sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the processes; each entry is zero on all but one."""
        if self.accelerator.num_processes == 1:
            return tensor
        return self.accelerator.reduce(tensor.to(self.accelerator.device), "sum").cpu()

    def _progress(self, items: Any, description: str) -> Any:
        return tqdm(items, description, leave=False, disable=None if self.accelerator.is_main_process else True)


def _pairs_to_score(texts_of_image: torch.Tensor, images_of_text: torch.Tensor) -> torch.Tensor:
    """(n, 2) image and text of every pair that either direction asks for, once, sorted by image, then text."""
    num_images, num_texts = len(texts_of_image), len(images_of_text)
    keys = torch.cat(
        [
            (torch.arange(num_images)[:, None] * num_texts + texts_of_image).flatten(),
            (images_of_text * num_texts + torch.arange(num_texts)[:, None]).flatten(),
        ]
    ).unique()
    return torch.stack([keys // num_texts, keys % num_texts], dim=1)


def _rank(
    pairs: torch.Tensor, scores: torch.Tensor, texts_of_image: torch.Tensor, images_of_text: torch.Tensor
) -> tuple[RankedCandidates, RankedCandidates]:
    """Sorts the candidates of every image and of every text by score; equal scores keep the order of similarity."""
    num_images, num_texts = len(texts_of_image), len(images_of_text)
    keys = pairs[:, 0] * num_texts + pairs[:, 1]
    image_keys = torch.arange(num_images)[:, None] * num_texts + texts_of_image
    text_keys = images_of_text * num_texts + torch.arange(num_texts)[:, None]
    ranked = []
    for candidates, wanted in ((texts_of_image, image_keys), (images_of_text, text_keys)):
        found = scores[torch.searchsorted(keys, wanted)]
        order = found.argsort(dim=1, descending=True, stable=True)
        ranked.append(RankedCandidates(candidates.gather(1, order), found.gather(1, order)))
    return ranked[0], ranked[1]
