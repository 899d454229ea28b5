"""Retrieval evaluation: encode, select candidates by similarity, re-rank them by matching, measure.

The scores are the published ones (salesforce/ALBEF `Retrieval.py`): an image ranks the k_test most similar texts by the
matching logit, a text the k_test most similar images. A pair that both directions ask for is scored once. Work goes
image by image, see `packed_fusion_albef.py`: memory grows with images and texts, not with their product, and of the
images' many states only so many are kept as a budget allows; the others are computed again when they are needed.

Shapes: I images, T texts, S tokens of all texts, P image tokens, E projection width, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator

from ...modeling_albef_retrieval import AlbefForImageTextRetrieval
from ...packed_fusion_albef import Packing, finish_fusion, start_fusion
from .base import Evaluator, deal_out
from .ranking import RankedCandidates, pairs_to_score, rank_candidates, select_candidates
from .retrieval_metrics import rank_of_first_match, retrieval_metrics

MEGABYTE = 1_000_000
TEXTS_AT_ONCE = 1_000  # that become tokens between two looks at the progress bar


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
    """Texts, read as far as no image is needed; without padding.

    Attributes:
        embeds: (T, E).
        lengths: (T,) tokens of each.
        starts: (T,) place of each text's first token among the states.
        states: (S, H), on the model's device; see `start_fusion`.
    """

    embeds: torch.Tensor
    lengths: torch.Tensor
    starts: torch.Tensor
    states: torch.Tensor


@dataclass
class EncodedImages:
    """Images after the vision tower.

    Attributes:
        embeds: (I, E) of all images.
        batches: Places of the images that were encoded together.
        owners: The process that encoded each batch.
        states: Batch -> (n, P, H) of its images, as far as this process had memory for.
    """

    embeds: torch.Tensor
    batches: list[list[int]]
    owners: list[int]
    states: dict[int, torch.Tensor] = field(default_factory=dict)


class RetrievalEvaluator(Evaluator):
    """Evaluates a retrieval model on images with captions, on one process or many.

    Every process encodes all texts, which is cheap, and its share of the images; batches of images are then dealt out
    by their number of pairs, and the scores of the pairs are joined.
    """

    def __init__(
        self,
        model: AlbefForImageTextRetrieval,
        processor: Any,
        k_test: int = 256,
        batch_size: int = 64,
        max_length: int = 30,
        image_memory: int = 2000,
        num_workers: int = 0,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Prepares an evaluation.

        Args:
            model: The model, not wrapped.
            processor: An `AlbefProcessor`.
            k_test: Candidates that are re-ranked; a smaller gallery is re-ranked whole.
            batch_size: Images that are encoded together; pairs are scored in parts of 64 times as many tokens.
            max_length: Tokens of a text, `[CLS]` included; published: 30.
            image_memory: Megabytes of image states that a process keeps in main memory from encoding to re-ranking; an
                image of 384 pixels has 1.8 in float32.
            num_workers: Processes that read images.
            accelerator: Of the run; default: a new one, which finds out about other processes.
        """
        super().__init__(model, processor, batch_size, num_workers, accelerator)
        self.k_test, self.image_memory = k_test, image_memory
        self.max_length = min(max_length, model.config.text_config.max_position_embeddings)

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
        with self.inference():
            by_image, by_text = self.rank(dataset, self.encode_images(dataset), self.encode_texts(captions))
        text_ranks = rank_of_first_match(caption_image[by_image.ids] == torch.arange(len(captions_of))[:, None])
        image_ranks = rank_of_first_match(by_text.ids == caption_image[:, None])
        return RetrievalResult(retrieval_metrics(text_ranks, image_ranks), by_image, by_text, captions, caption_image)

    def rank(
        self, dataset: Any, images: EncodedImages, texts: EncodedTexts
    ) -> tuple[RankedCandidates, RankedCandidates]:
        """Selects candidates by similarity and re-ranks them by matching.

        Args:
            dataset: I rows with an `image`, for states that were not kept.
            images: All images; the states that were kept are used up.
            texts: All texts.

        Returns:
            For each image its texts, and for each text its images.
        """
        texts_of_image = select_candidates(images.embeds, texts.embeds, self.k_test)  # (I, k)
        images_of_text = select_candidates(texts.embeds, images.embeds, self.k_test)  # (T, k)
        pairs = pairs_to_score(texts_of_image, images_of_text)
        scores = self.score_pairs(dataset, pairs, images, texts)
        return rank_candidates(pairs, scores, texts_of_image, images_of_text)

    def encode_texts(self, captions: list[str]) -> EncodedTexts:
        """Runs the text layers over all captions, batched by length, and the fusion layers as far as they go alone.

        Args:
            captions: T texts.

        Returns:
            See `EncodedTexts`.
        """
        ids: list[list[int]] = []
        for start in self.progress(range(0, len(captions), TEXTS_AT_ONCE), "Reading texts"):
            some = captions[start : start + TEXTS_AT_ONCE]
            ids += self.processor(text=some, truncation=True, max_length=self.max_length)["input_ids"]
        lengths = torch.tensor([len(row) for row in ids])
        starts = lengths.cumsum(0) - lengths
        embeds = torch.zeros(len(ids), self.model.config.projection_dim)
        states: torch.Tensor | None = None
        for length in self.progress(lengths.unique().tolist(), "Encoding texts"):
            for batch in (lengths == length).nonzero()[:, 0].split(4 * self.batch_size):
                input_ids = torch.tensor([ids[text] for text in batch.tolist()], device=self.model.device)
                features = self.model.get_text_features(input_ids)
                embeds[batch] = features.pooler_output.float().cpu()
                packing = Packing.from_lengths(lengths[batch])
                read = start_fusion(self.model.albef.text_model, features.last_hidden_state.flatten(0, 1), packing)
                if states is None:
                    states = read.new_empty(int(lengths.sum()), read.shape[1])
                states[packing.tokens(starts[batch]).to(read.device)] = read
        return EncodedTexts(embeds, lengths, starts, states)

    def encode_images(self, dataset: Any) -> EncodedImages:
        """Runs the vision tower over this process's share of the images.

        Args:
            dataset: I rows with an `image`.

        Returns:
            See `EncodedImages`.
        """
        batches = [batch.tolist() for batch in torch.arange(len(dataset)).split(self.batch_size)]
        owners = [place % self.accelerator.num_processes for place in range(len(batches))]
        images = EncodedImages(torch.zeros(len(dataset), self.model.config.projection_dim), batches, owners)
        own = [place for place, owner in enumerate(owners) if owner == self.accelerator.process_index]
        loader, room = self._load_images(dataset, batches, own), self.image_memory * MEGABYTE
        for place, pixel_values in zip(own, self.progress(loader, "Encoding images"), strict=True):
            features = self.model.get_image_features(pixel_values.to(self.model.device))
            images.embeds[batches[place]] = features.pooler_output.float().cpu()
            room -= features.last_hidden_state.nbytes
            if room >= 0:
                images.states[place] = features.last_hidden_state.cpu()
        images.embeds = self.join(images.embeds)
        return images

    def score_pairs(
        self, dataset: Any, pairs: torch.Tensor, images: EncodedImages, texts: EncodedTexts
    ) -> torch.Tensor:
        """Matching logits of pairs, image by image.

        Args:
            dataset: I rows with an `image`, for states that were not kept.
            pairs: (n, 2) image and text of each pair, sorted by image.
            images: All images.
            texts: All texts.

        Returns:
            (n,) float32, the logit of a match, from all processes.
        """
        scores = torch.zeros(len(pairs))
        stops = torch.searchsorted(pairs[:, 0].contiguous(), torch.arange(len(images.embeds)), right=True).tolist()
        starts = [0, *stops[:-1]]
        loads = [sum(stops[image] - starts[image] for image in batch) for batch in images.batches]
        dealt = deal_out(loads, images.owners, self.accelerator.num_processes)
        own = [place for place, process in enumerate(dealt) if process == self.accelerator.process_index]
        own.sort(key=lambda place: place not in images.states)  # frees memory first
        lost = [place for place in own if place not in images.states]
        again = iter(self._load_images(dataset, images.batches, lost) if lost else ())  # no readers for nothing
        with self.progress(None, "Re-ranking") as bar:
            bar.reset(total=sum(loads[place] for place in own))
            for place in own:
                states = images.states.pop(place, None)
                if states is None:
                    states = self.model.get_image_features(next(again).to(self.model.device)).last_hidden_state
                for image, state in zip(images.batches[place], states, strict=True):
                    chosen = slice(starts[image], stops[image])
                    scores[chosen] = self._score_texts(state.to(self.model.device), pairs[chosen, 1], texts)
                bar.update(loads[place])
        return self.join(scores)

    def _score_texts(self, image: torch.Tensor, chosen: torch.Tensor, texts: EncodedTexts) -> torch.Tensor:
        """Matching logits (m,) of one image (P, H) with the texts `chosen` (m,)."""
        text_model, scores = self.model.albef.text_model, torch.zeros(len(chosen))
        key_values = text_model.project_images(image[None])
        by_length = texts.lengths[chosen].argsort(stable=True)
        tokens = texts.lengths[chosen[by_length]].cumsum(0)
        sizes = ((tokens - 1) // (64 * self.batch_size)).unique_consecutive(return_counts=True)[1]
        for part in by_length.split(sizes.tolist()):
            packing = Packing.from_lengths(texts.lengths[chosen[part]])
            states = texts.states[packing.tokens(texts.starts[chosen[part]]).to(texts.states.device)]
            fused = finish_fusion(text_model, states, packing, key_values)
            scores[part[packing.order]] = self.model.itm_head(fused)[:, 1].float().cpu()
        return scores

    def _load_images(self, dataset: Any, batches: list[list[int]], places: list[int]) -> Any:
        return self.load(dataset, [batches[place] for place in places], self._collate_images)

    def _collate_images(self, rows: list[dict[str, Any]]) -> torch.Tensor:
        return self.processor(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
