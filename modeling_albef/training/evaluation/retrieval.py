"""Retrieval evaluation: encode, select candidates by similarity, re-rank them by matching, measure.

The scores are the published ones (salesforce/ALBEF `Retrieval.py`): an image ranks the k_test most similar texts by the
matching logit, a text the k_test most similar images. A pair that both directions ask for is scored once. Work goes
image by image, see `packed_fusion_albef.py`: memory grows with images and texts, not with their product. States of
images are kept up to a budget of memory; the others are computed again when they are needed.

Shapes: I images, T texts, S tokens of all texts, P image tokens, E projection width, H width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils.data import Subset

from ...configuration_albef import AlbefError, check_finite
from ...index_albef import rerank_scores
from ...packed_fusion_albef import Packing, start_fusion
from ..hardware import ImageRoom, exact_products
from ..rows import as_rows, column, image_names, rows_by_image, texts_of
from .base import Evaluator, balance_load, progress, to_device
from .eccv import NUM_IMAGES as COCO_IMAGES
from .eccv import coco_image_ids
from .ranking import RankedCandidates, pair_similarity, pairs_to_score, rank_candidates, select_candidates
from .results import RetrievalResult
from .retrieval_details import add_details
from .retrieval_metrics import rank_of_first_match, retrieval_metrics

MEGABYTE = 1_000_000
RERANK_WEIGHTS: tuple[float | None, ...] = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, None)  # what "auto" tries
TEXTS_AT_ONCE = 1_000  # that become tokens between two updates of the progress bar


@dataclass
class EncodedTexts:
    """Texts as far as they are encoded without an image; without padding."""

    embeds: torch.Tensor  # (T, E)
    lengths: torch.Tensor  # (T,) tokens of each
    starts: torch.Tensor  # (T,) index of each text's first token among the states, which are sorted by length
    states: torch.Tensor  # (S, H) on the model's device; see `start_fusion`


@dataclass
class EncodedImages:
    """Images after the vision tower."""

    embeds: torch.Tensor  # (I, E) of all images
    batches: list[list[int]]  # rows of the images that were encoded together
    owners: list[int]  # the process that encoded each batch
    states: dict[int, torch.Tensor] = field(default_factory=dict)  # batch -> (n, P, H), as far as memory allowed


@dataclass
class _Part:
    """Texts that are matched with one image together."""

    packing: Packing
    tokens: torch.Tensor  # (S,) their rows among the states of all texts
    rows: torch.Tensor  # (N,) indices of their scores, in packed order


@dataclass(eq=False)
class RetrievalEvaluator(Evaluator):
    """Evaluates an `AlbefForImageTextRetrieval` on images with captions, on one process or many.

    Every process encodes its share of the texts, whose states all of them get, and of the images, and selects the
    candidates of its share of the queries; batches of images are then shared by their number of pairs, and the scores
    of the pairs are summed.

    Attributes:
        k_test: Candidates that are re-ranked; a smaller gallery is re-ranked whole.
        batch_size: Images that are encoded together; pairs are scored in parts of 64 times as many tokens.
        max_length: Tokens of a text, `[CLS]` included; published: 30.
        rerank_weight: `AlbefConfig.rerank_weight`; or "auto" for the one with the highest `r_mean` here, which the
            result's `details` have as `rerank_weight`, and all that were tried as `rerank_weights`.
        compare: Whether the `details` have the recalls by the matching head alone and by the best sum, too, whatever
            orders the candidates: `txt_matching_r1`, `txt_sum_r1` ..; those by similarity are always there.
        image_memory: Megabytes of image states that a process keeps in main memory from encoding to re-ranking; an
            image of 384 pixels has 1.8 in float32. A GPU keeps those that fit in half of what it has left.
    """

    _: KW_ONLY
    k_test: int = 256
    max_length: int = 30
    image_memory: float = 2000
    rerank_weight: float | str | None = None
    compare: bool = False

    def __post_init__(self) -> None:
        self.max_length = min(self.max_length, self.model.config.text_config.max_position_embeddings)

    def __call__(self, dataset: Any) -> RetrievalResult:
        """Evaluate.

        Args:
            dataset: Rows with an `image`, its `caption`s, a list of strings or one, and perhaps an `image_id`, anything
                hashable: the rows of an image are grouped, whatever their order. Without an `image_id` those of the
                same file, or the same content, are grouped, with a warning.

        Returns:
            Metrics and rankings, the same on every process. An image without captions is a candidate, but no query.

        Raises:
            AlbefError: There is no caption.
        """
        rows = as_rows(dataset)
        rows_of = rows_by_image(rows)
        texts_of_row = [texts_of(captions) for captions in column(rows, "caption")]
        captions_of = [[text for row in image for text in texts_of_row[row]] for image in rows_of]
        captions = [caption for image in captions_of for caption in image]
        caption_image = torch.tensor([image for image, texts in enumerate(captions_of) for _ in texts])
        if not captions:
            raise AlbefError("The data set has no caption: there is nothing to evaluate.")
        image_rows = [image[0] for image in rows_of]
        images = rows if len(image_rows) == len(rows) else Subset(rows, image_rows)
        images = images if self.image_store is None else self.image_store(images)
        with self.inference():
            encoded_images, texts = self.encode_images(images), self.encode_texts(captions)
            rankings = self.rankings(images, encoded_images, texts)
        is_query = torch.tensor([bool(own) for own in captions_of])
        measured = {weight: _measure(*ranked, caption_image, is_query) for weight, ranked in rankings.items()}
        chosen: Any = _best(measured) if self.rerank_weight == "auto" else self.rerank_weight
        metrics, (by_image, by_text) = measured[chosen], rankings[chosen]
        result = RetrievalResult(metrics, by_image, by_text, captions, caption_image, image_rows)
        if self.rerank_weight is not None or self.compare:
            tried = {_weight_name(weight): metrics["r_mean"] for weight, metrics in measured.items()}
            result.details |= {"rerank_weight": chosen, "rerank_weights": tried}
        if self.compare:
            sums = {weight: one for weight, one in measured.items() if weight}
            result.details |= _stage_recalls("matching", measured[None])
            result.details |= _stage_recalls("sum", sums[_best(sums)]) if sums else {}
        coco_ids = coco_image_ids(image_names(rows, image_rows)) if len(image_rows) == COCO_IMAGES else None
        embeds = encoded_images.embeds.to(self.model.device), texts.embeds.to(self.model.device)
        with exact_products(self.model.device):
            add_details(result, *embeds, coco_ids, self.model.config.search_calibration)
        return result

    def rank(
        self, dataset: Any, images: EncodedImages, texts: EncodedTexts
    ) -> tuple[RankedCandidates, RankedCandidates]:
        """Return the first of `rankings`."""
        return next(iter(self.rankings(dataset, images, texts).values()))

    def rankings(
        self, dataset: Any, images: EncodedImages, texts: EncodedTexts
    ) -> dict[float | None, tuple[RankedCandidates, RankedCandidates]]:
        """Select candidates by similarity and re-rank them; the kept image states are consumed.

        Returns the texts of the images and the images of the texts, by the weight of the matching logit.
        """
        check_finite(images.embeds, "features", "image {}".format)
        check_finite(texts.embeds, "features", "caption {}".format)
        embeds = images.embeds.to(self.model.device), texts.embeds.to(self.model.device)
        with exact_products(self.model.device):
            by_image, by_text = (
                select_candidates(queries, gallery, self.k_test, share=self.share)
                for queries, gallery in (embeds, embeds[::-1])
            )
        texts_of_image, images_of_text = self.sum_over_processes(by_image), self.sum_over_processes(by_text)
        pairs = pairs_to_score(texts_of_image, images_of_text)
        similarity = logits = torch.empty(0)  # which the matching head alone does not ask for
        if self.rerank_weight is not None or self.compare:
            similarity = logits = pair_similarity(pairs, images.embeds, texts.embeds)
        if self.rerank_weight != 0 or self.compare:
            logits = self.score_pairs(dataset, pairs, images, texts)
            check_finite(logits, "scores", lambda row: "image {} with caption {}".format(*pairs[row].tolist()))
        weights: Any = RERANK_WEIGHTS if self.rerank_weight == "auto" else (self.rerank_weight,)
        weights = dict.fromkeys((*weights, None)) if self.compare else weights
        rankings = {}
        for weight in weights:
            scores = rerank_scores(similarity, logits, float(self.model.albef.temperature), weight)
            rankings[weight] = rank_candidates(pairs, scores, texts_of_image, images_of_text)
        return rankings

    def encode_texts(self, captions: list[str]) -> EncodedTexts:
        """Run the text layers over all captions, batched by length, and of the fusion layers what needs no image."""
        ids: list[list[int]] = []
        for start in progress(range(0, len(captions), TEXTS_AT_ONCE), "Reading texts"):
            some = captions[start : start + TEXTS_AT_ONCE]
            ids += self.processor(text=some, truncation=True, max_length=self.max_length)["input_ids"]
        device, lengths = self.model.device, torch.tensor([len(row) for row in ids])
        order = lengths.argsort(stable=True)
        (tokens,) = to_device([torch.tensor([token for text in order.tolist() for token in ids[text]])], device)
        embeds = torch.zeros(len(ids), self.model.config.projection_dim, device=device)
        states: Any = None
        text_model, first_text, first_token = self.model.albef.text_model, 0, 0
        parts = [(n, length) for length in lengths.unique().tolist() for n in self._parts(lengths == length)]
        for turn, (count, length) in enumerate(progress(parts, "Encoding texts")):
            texts, rows = slice(first_text, first_text + count), slice(first_token, first_token + count * length)
            first_text, first_token = texts.stop, rows.stop
            if turn % self.share[1] != self.share[0] and states is not None:
                continue
            features = self.model.get_text_features(tokens[rows].view(count, length))
            packing = Packing.from_lengths(torch.full((count,), length))
            read = start_fusion(text_model, features.last_hidden_state.flatten(0, 1), packing)
            if states is None:
                states = read.new_zeros(len(tokens), read.shape[1])
            if turn % self.share[1] == self.share[0]:  # each process needs one part for the type of the states
                states[rows], embeds[texts] = read, features.pooler_output.float()
        self.fill_from_processes(states)
        self.fill_from_processes(embeds)
        starts = torch.zeros_like(lengths).scatter(0, order, lengths[order].cumsum(0) - lengths[order])
        return EncodedTexts(embeds.cpu()[order.argsort()], lengths, starts, states)

    def _parts(self, chosen: torch.Tensor) -> list[int]:
        """Return how many of the chosen texts are encoded together, part by part."""
        return [len(part) for part in chosen.nonzero().split(4 * self.batch_size)]

    def encode_images(self, dataset: Any) -> EncodedImages:
        """Run the vision tower over this process's share of the images, I rows with an `image`."""
        batches = [batch.tolist() for batch in torch.arange(len(dataset)).split(self.batch_size)]
        owners = [index % self.accelerator.num_processes for index in range(len(batches))]
        embeds = torch.zeros(len(dataset), self.model.config.projection_dim, device=self.model.device)
        images = EncodedImages(embeds, batches, owners)
        own = [index for index, owner in enumerate(owners) if owner == self.accelerator.process_index]
        collate, room = partial(_collate_images, self.processor), ImageRoom(self.image_memory * MEGABYTE)
        loader = self.load(dataset, [batches[index] for index in own], collate, kept_as="images")
        for index, given in zip(own, progress(loader, "Encoding images"), strict=True):
            features = self._image_features(given)
            embeds[batches[index][0] : batches[index][-1] + 1] = features.pooler_output.float()
            if (kept := room.keep(features.last_hidden_state)) is not None:
                images.states[index] = kept
        images.embeds = self.sum_over_processes(embeds)
        return images

    def score_pairs(
        self, dataset: Any, pairs: torch.Tensor, images: EncodedImages, texts: EncodedTexts
    ) -> torch.Tensor:
        """Return (n,) matching logits of pairs (n, 2), which are sorted by image, from all processes."""
        device = self.model.device
        scores = torch.zeros(len(pairs), device=device)
        stops = torch.searchsorted(pairs[:, 0].contiguous(), torch.arange(len(images.embeds)), right=True).tolist()
        starts = [0, *stops[:-1]]
        loads = [sum(stops[image] - starts[image] for image in batch) for batch in images.batches]
        assigned = balance_load(loads, images.owners, self.accelerator.num_processes)
        own = [index for index, process in enumerate(assigned) if process == self.accelerator.process_index]
        own.sort(key=lambda index: index not in images.states)  # frees memory first
        lost = [index for index in own if index not in images.states]
        collate, again = partial(_collate_images, self.processor), iter(())
        if lost:  # no readers for nothing
            again = iter(self.load(dataset, [images.batches[index] for index in lost], collate))
        with progress(None, "Re-ranking") as bar:
            bar.reset(total=sum(loads[index] for index in own))
            for index in own:
                parts = self._plan([range(starts[n], stops[n]) for n in images.batches[index]], pairs, texts)
                if (states := images.states.pop(index, None)) is None:
                    states = self._image_features(next(again)).last_hidden_state
                for state, own_parts in zip(states.to(device, non_blocking=True), parts, strict=True):
                    key_values = self.model.albef.text_model.project_images(state[None])
                    for part in own_parts:
                        read = texts.states.index_select(0, part.tokens)
                        logits = self.model.match_packed(read, part.packing, key_values)
                        scores.index_copy_(0, part.rows, logits[:, 1].float())
                bar.update(loads[index])
        return self.sum_over_processes(scores)

    def _plan(self, pairs_of_image: list[range], pairs: torch.Tensor, texts: EncodedTexts) -> list[list[_Part]]:
        """Return the parts of texts that are matched with each image, whose pairs are rows of `pairs` (n, 2)."""
        planned: list[list[_Part]] = []
        for rows in pairs_of_image:
            chosen = pairs[rows.start : rows.stop, 1]
            by_length = texts.lengths[chosen].argsort(stable=True)
            tokens = texts.lengths[chosen[by_length]].cumsum(0)
            sizes = ((tokens - 1) // (64 * self.batch_size)).unique_consecutive(return_counts=True)[1].tolist()
            parts = []
            for part in by_length.split(sizes) if sizes else ():
                packing = Packing.from_lengths(texts.lengths[chosen[part]])
                index = packing.tokens(texts.starts[chosen[part]])
                parts.append(_Part(packing, index, rows.start + part[packing.order]))
            planned.append(parts)
        every = [part for parts in planned for part in parts]
        tensors = [(part.tokens, part.rows, part.packing.first, part.packing.slots) for part in every]
        moved = iter(to_device([one for group in tensors for one in group], self.model.device))
        for part in every:
            part.tokens, part.rows = next(moved), next(moved)
            part.packing = part.packing.moved(next(moved), next(moved))
        return planned

    def _image_features(self, given: dict[str, torch.Tensor]) -> Any:
        device = self.model.device
        on_device = {name: value.to(device, non_blocking=True) for name, value in given.items()}
        return self.model.get_image_features(**on_device)


def _measure(
    by_image: RankedCandidates, by_text: RankedCandidates, caption_image: torch.Tensor, is_query: torch.Tensor
) -> dict[str, float]:
    """Return the metrics of both directions; `is_query` says which images have captions."""
    right = caption_image[by_image.ids] == torch.arange(len(by_image.ids))[:, None]
    return retrieval_metrics(
        rank_of_first_match(right)[is_query], rank_of_first_match(by_text.ids == caption_image[:, None])
    )


def _best(measured: Mapping[Any, dict[str, float]]) -> Any:
    """Return the weight with the highest `r_mean`, of equal ones the first."""
    return max(measured, key=lambda weight: measured[weight]["r_mean"])


def _stage_recalls(stage: str, metrics: dict[str, float]) -> dict[str, float]:
    """Return recalls under the names of a stage: `txt_r1` as `txt_matching_r1`."""
    recalls = {name: value for name, value in metrics.items() if name[-1].isdigit()}
    return {name.replace("_r", f"_{stage}_r"): value for name, value in recalls.items()}


def _weight_name(weight: float | None) -> str:
    return "matching" if weight is None else "similarity" if weight == 0 else f"{weight:g}"


def _collate_images(processor: Any, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    if "image_hidden_states" in rows[0]:
        return {"image_hidden_states": torch.stack([row["image_hidden_states"] for row in rows])}
    return {"pixel_values": processor(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]}
