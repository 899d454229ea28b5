"""Closed-form start of the projections: principal axes of the texts, and a ridge regression of the images onto them.

Shapes: I images, N texts, H width of a tower, E projection width, S strengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from accelerate.utils import broadcast
from torch.nn import functional as F  # noqa: N812, the field's own name
from torch.utils.data import DataLoader, Subset
from transformers.utils import logging

from ...modeling_albef_text import first_token

logger = logging.get_logger(__name__)

IMAGES = ("pixel_values", "image_hidden_states")
MAX_PAIRS = 20_000  # training pairs that the projections are fitted to
FOLDS = 5
MAX_DRAWS = 10  # of the folds, where images are few and one draw would choose by chance
STRENGTHS = tuple(10 ** (step / 4) for step in range(-12, 9))  # of the ridge, in mean squares of the states
MAX_HELD_OUT = 1000  # images of a fold that are ranked


@dataclass(frozen=True)
class Affine:
    """A map x -> x W^T + b.

    Attributes:
        weight: (E, H).
        bias: (E,).
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Return (n, E) of states (n, H)."""
        return states @ self.weight.T + self.bias


@dataclass(frozen=True)
class Projections:
    """Starts of `vision_proj` and `text_proj`.

    Attributes:
        vision: Of the states of class tokens.
        text: Of the states of `[CLS]`.
        strength: Of the ridge, in mean squares of the image states, as cross-validation chose it.
        mean_reciprocal_rank: Of held-out pairs at this strength, 0..1, both directions together.
    """

    vision: Affine
    text: Affine
    strength: float
    mean_reciprocal_rank: float


def fit_projections(
    images: torch.Tensor, texts: torch.Tensor, image_of_text: torch.Tensor, width: int, seed: int = 0
) -> Projections:
    """Fit both projections to pairs, without a step of training.

    The texts' principal axes are their projection. Onto an image go the mean of its texts there, by ridge regression,
    whose strength is chosen by 5-fold cross-validation over images: by the mean reciprocal rank of held-out pairs. Of
    at most 500 images folds are drawn several times.

    Args:
        images: (I, H of the vision tower), I >= 2.
        texts: (N, H of the text tower).
        image_of_text: (N,) which image each text belongs to; each image has a text.
        width: E.
        seed: Of the folds.

    Returns:
        The projections, in float32.
    """
    images, texts = images.double(), texts.double()
    generator, ranks = torch.Generator().manual_seed(seed), []
    for _ in range(max(1, min(MAX_DRAWS, MAX_HELD_OUT // len(images)))):
        fold_of = torch.randperm(len(images), generator=generator) % min(FOLDS, len(images))
        for fold in range(int(fold_of.max()) + 1):
            kept, held_out = (fold_of != fold).nonzero()[:, 0], (fold_of == fold).nonzero()[:MAX_HELD_OUT, 0]
            known = _Pairs.chosen(images, texts, image_of_text, kept)
            unknown = _Pairs.chosen(images, texts, image_of_text, held_out)
            text_map = principal_axes(known.texts, width)
            embeds = F.normalize(text_map(unknown.texts), dim=1)
            maps = ridge_maps(known.images, known.mean_texts(text_map), STRENGTHS)
            ranks.append(torch.stack([unknown.reciprocal_rank(one(unknown.images), embeds) for one in maps]))
    means = torch.stack(ranks).mean(dim=0)  # (S,)
    best = int(means.argmax())
    text_map = principal_axes(texts, width)
    pairs = _Pairs(images, texts, image_of_text)
    (vision_map,) = ridge_maps(images, pairs.mean_texts(text_map), STRENGTHS[best : best + 1])
    vision, text = (Affine(one.weight.float(), one.bias.float()) for one in (vision_map, text_map))
    return Projections(vision, text, STRENGTHS[best], float(means[best]))


def principal_axes(states: torch.Tensor, width: int) -> Affine:
    """Return the map of states (n, H) to their E first principal components; beyond H there are zeros."""
    mean = states.mean(dim=0)
    axes = torch.linalg.eigh(torch.cov(states.T, correction=0)).eigenvectors.flip(1).T[:width]  # (min(E, H), H)
    weight = F.pad(axes, (0, 0, 0, width - len(axes)))
    return Affine(weight, -weight @ mean)


def ridge_maps(states: torch.Tensor, targets: torch.Tensor, strengths: Any) -> list[Affine]:
    """Return for each strength the map of states (n, H) to targets (n, E) of least squares with a ridge.

    The ridge is `strength * n * m`, where m is the mean square of the centered states.
    """
    mean, target_mean = states.mean(dim=0), targets.mean(dim=0)
    centered = states - mean
    values, vectors = torch.linalg.eigh(centered.T @ centered)  # (H,), (H, H)
    rotated = vectors.T @ (centered.T @ (targets - target_mean))  # (H, E)
    scale = centered.square().mean() * len(states)
    maps = []
    for strength in strengths:
        weight = (vectors @ (rotated / (values.clamp(min=0) + strength * scale)[:, None])).T  # (E, H)
        maps.append(Affine(weight, target_mean - weight @ mean))
    return maps


@dataclass(frozen=True)
class _Pairs:
    images: torch.Tensor  # (I, H)
    texts: torch.Tensor  # (N, H)
    image_of_text: torch.Tensor  # (N,)

    @classmethod
    def chosen(cls, images: torch.Tensor, texts: torch.Tensor, owner: torch.Tensor, chosen: torch.Tensor) -> _Pairs:
        """Return some images with their texts."""
        place = torch.full((len(images),), -1)
        place[chosen] = torch.arange(len(chosen))
        kept = place[owner] >= 0
        return cls(images[chosen], texts[kept], place[owner[kept]])

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the three tensors."""
        return self.images, self.texts, self.image_of_text

    def mean_texts(self, text_map: Affine) -> torch.Tensor:
        """Return (I, E) the mean of each image's projected texts."""
        sums = torch.zeros(len(self.images), len(text_map.bias), dtype=self.texts.dtype)
        sums.index_add_(0, self.image_of_text, text_map(self.texts))
        return sums / torch.bincount(self.image_of_text, minlength=len(self.images))[:, None]

    def reciprocal_rank(self, image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
        """Return the mean over texts of 1 / rank of their image, and over images of 1 / rank of their best text."""
        similarity = F.normalize(image_embeds, dim=1) @ text_embeds.T  # (I, N)
        own = similarity[self.image_of_text, torch.arange(len(self.texts))]
        of_text = 1 / (1 + (similarity > own).sum(dim=0))
        best = torch.full((len(self.images),), -2.0, dtype=own.dtype)
        best = best.scatter_reduce(0, self.image_of_text, own, "amax")
        of_image = 1 / (1 + (similarity > best[:, None]).sum(dim=1))
        return (of_text.mean() + of_image.mean()) / 2


@torch.no_grad()
def encode_pairs(model: Any, batches: Iterable[Mapping[str, torch.Tensor]]) -> _Pairs:
    """Return the states of class tokens and of `[CLS]` of training batches; of an image with several texts once.

    Args:
        model: A model with both towers, which is in evaluation mode.
        batches: With `image_ids`, `pixel_values` or `image_hidden_states`, `input_ids` and `attention_mask`.
    """
    place: dict[int, int] = {}
    images, texts, owner = [], [], []
    for batch in batches:
        ids = batch["image_ids"].tolist()
        new = [row for row, image in enumerate(ids) if image not in place and image not in ids[:row]]
        place |= {ids[row]: len(place) + count for count, row in enumerate(new)}
        if new:
            given = {name: batch[name][new].to(model.device) for name in IMAGES if name in batch}
            images.append(model.base_model.encode_images(**{IMAGES[0]: None, **given}).last_hidden_state[:, 0].cpu())
        mask = batch["attention_mask"].to(model.device)
        states = model.base_model.text_model(batch["input_ids"].to(model.device), mask).last_hidden_state
        texts.append(first_token(states, mask).cpu())
        owner += [place[image] for image in ids]
    return _Pairs(torch.cat(images), torch.cat(texts), torch.tensor(owner))


def start_projections(trainer: Any) -> None:
    """Start the projections of a trainer's student and teacher in closed form, of its training data.

    Up to 20,000 pairs are encoded, on the first process; all processes get what it found.
    """
    albef, accelerator = trainer.model.base_model, trainer.accelerator
    parts = (albef.vision_proj.weight, albef.vision_proj.bias, albef.text_proj.weight, albef.text_proj.bias)
    if accelerator.is_main_process:
        with torch.random.fork_rng(devices=[]):  # the training draws as without this
            fitted = _fit_to_training_data(trainer)
        found = (
            () if fitted is None else (fitted.vision.weight, fitted.vision.bias, fitted.text.weight, fitted.text.bias)
        )
        for part, value in zip(parts, found, strict=False):
            part.data.copy_(value)
    for part in parts:
        part.data.copy_(broadcast(part.data))
    teacher = trainer.teacher.model.base_model
    teacher.vision_proj.load_state_dict(albef.vision_proj.state_dict())
    teacher.text_proj.load_state_dict(albef.text_proj.state_dict())


def _fit_to_training_data(trainer: Any) -> Projections | None:
    model, args = trainer.model, trainer.args
    options = {"collate_fn": trainer.data_collator, "num_workers": args.dataloader_num_workers}
    batches: Any = DataLoader(_some_pairs(trainer.train_dataset, args.seed), args.train_batch_size, **options)
    is_training = model.training
    pairs = encode_pairs(model.eval(), logging.tqdm(batches, desc="Encoding pairs for the projections"))
    model.train(is_training)
    if len(pairs.images) < FOLDS:
        logger.warning(f"{len(pairs.images)} training images are too few to fit the projections: they start random.")
        return None
    fitted = fit_projections(*pairs.tensors(), width=model.config.projection_dim, seed=args.seed)
    logger.warning(
        f"The projections start in closed form from {len(pairs.texts)} pairs of {len(pairs.images)} images: ridge "
        f"{fitted.strength:.3g}, mean reciprocal rank of held-out pairs {fitted.mean_reciprocal_rank:.3f}."
    )
    return fitted


def _some_pairs(dataset: Any, seed: int) -> Any:
    """Return a data set of at most 20,000 rows of another, in its order."""
    if not hasattr(dataset, "__len__"):
        return list(islice(dataset, MAX_PAIRS // 10))  # in memory
    if len(dataset) <= MAX_PAIRS:
        return dataset
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:MAX_PAIRS]
    return Subset(dataset, chosen.sort().values.tolist())
