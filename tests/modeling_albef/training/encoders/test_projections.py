"""The closed-form start of the projections."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modeling_albef.training.encoders import projections
from modeling_albef.training.encoders.projections import fit_projections, principal_axes, ridge_maps


def pairs(noise: float, images: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images and texts that are linear in the same hidden causes; two texts an image."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(images, 5, generator=generator)
    to_image, to_text = torch.randn(5, 24, generator=generator), torch.randn(5, 16, generator=generator)
    owner = torch.arange(images).repeat(2)
    shift = torch.randn(24, generator=generator)
    image = causes @ to_image + noise * torch.randn(images, 24, generator=generator) + 3 * shift
    text = causes[owner] @ to_text + noise * torch.randn(2 * images, 16, generator=generator) + 5
    return image, text, owner


def test_principal_axes_are_those_of_the_singular_values() -> None:
    _, texts, _ = pairs(0.5)
    found = principal_axes(texts.double(), 4)
    centered = texts.double().numpy() - texts.double().numpy().mean(0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    expected = centered @ axes[:4].T
    given = found(texts.double()).numpy()
    np.testing.assert_allclose(np.abs(given), np.abs(expected), atol=1e-9)
    wide = principal_axes(texts.double(), 20)
    assert wide.weight.shape == (20, 16) and not wide.weight[16:].any()


def test_ridge_is_the_normal_equations() -> None:
    images, _, _ = pairs(0.5)
    targets = torch.randn(60, 3, generator=torch.Generator().manual_seed(1)).double()
    strengths = (0.01, 1.0)
    x = images.double().numpy() - images.double().numpy().mean(0)
    y = targets.numpy() - targets.numpy().mean(0)
    for strength, found in zip(strengths, ridge_maps(images.double(), targets, strengths), strict=True):
        penalty = strength * (x**2).mean() * len(x)
        expected = np.linalg.solve(x.T @ x + penalty * np.eye(24), x.T @ y)
        np.testing.assert_allclose(found.weight.numpy(), expected.T, atol=1e-9)
        np.testing.assert_allclose(found(images.double()).mean(0).numpy(), targets.numpy().mean(0), atol=1e-9)


def test_pairs_without_noise_are_found_and_noise_asks_for_a_stronger_ridge() -> None:
    clear = fit_projections(*pairs(0.0), width=8)
    assert clear.mean_reciprocal_rank > 0.95
    noisy = fit_projections(*pairs(2.0), width=8)
    assert noisy.strength > clear.strength and 0.1 < noisy.mean_reciprocal_rank < clear.mean_reciprocal_rank


def test_new_pairs_of_the_same_causes_are_found() -> None:
    images, texts, owner = pairs(0.1, images=120)
    known = owner < 80
    fitted = fit_projections(images[:80], texts[known], owner[known], width=8)
    image_embeds = torch.nn.functional.normalize(fitted.vision(images[80:]), dim=1)
    text_embeds = torch.nn.functional.normalize(fitted.text(texts[~known]), dim=1)
    best = (text_embeds @ image_embeds.T).argmax(dim=1) + 80
    assert (best == owner[~known]).float().mean() > 0.8
    assert fitted.vision.weight.dtype == torch.float32


def test_order_of_texts_does_not_matter() -> None:
    images, texts, owner = pairs(0.5)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(2))
    one = fit_projections(images, texts, owner, width=6)
    other = fit_projections(images, texts[order], owner[order], width=6)
    assert one.strength == other.strength
    torch.testing.assert_close(one.vision(images).abs(), other.vision(images).abs(), atol=1e-4, rtol=1e-4)


def test_several_draws_of_the_folds_choose_less_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = []
    for draws in (projections.MAX_DRAWS, 1):
        monkeypatch.setattr(projections, "MAX_DRAWS", draws)
        chosen = [fit_projections(*pairs(2.0), width=8, seed=seed).strength for seed in range(8)]
        spread.append(np.std(np.log10(chosen)))
    assert spread[0] < 0.8 * spread[1]


def test_two_images_are_enough() -> None:
    images, texts, owner = pairs(0.1, images=2)
    fitted = fit_projections(images, texts, owner, width=4)
    assert fitted.vision.weight.isfinite().all() and fitted.text.weight.isfinite().all()
