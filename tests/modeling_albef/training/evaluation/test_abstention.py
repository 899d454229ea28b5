"""When nothing fits: thresholds, areas and rates of error in closed form, or counted one by one."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from modeling_albef import AlbefConfig, AlbefError
from modeling_albef.training.evaluation.abstention import (
    BestScores,
    abstention_metrics,
    auroc,
    calibrate,
    fit_threshold,
)


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def test_two_scores_in_closed_form() -> None:
    """With two scores the fit meets the share of present queries at each, with the targets that Platt gives."""
    present, absent = torch.tensor([1.0] * 30 + [4.0] * 70), torch.tensor([1.0] * 80 + [4.0] * 20)
    high, low = 101 / 102, 1 / 102
    at_one, at_four = (30 * high + 80 * low) / 110, (70 * high + 20 * low) / 90
    temperature, threshold = fit_threshold(present, absent)
    assert temperature == pytest.approx(3 / (logit(at_four) - logit(at_one)))
    assert threshold == pytest.approx(1 - temperature * logit(at_one))
    assert 1 / (1 + math.exp(-(4 - threshold) / temperature)) == pytest.approx(at_four)


def test_two_normal_distributions_in_closed_form() -> None:
    """Of normal scores with means 1 and 3 and deviation 1.5 the log odds are (score - 2) * 2 / 1.5 ** 2."""
    quantiles = torch.special.ndtri((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    temperature, threshold = fit_threshold(3 + 1.5 * quantiles, 1 + 1.5 * quantiles)
    assert threshold == pytest.approx(2, abs=1e-3) and temperature == pytest.approx(1.5**2 / 2, rel=5e-3)
    expected = 100 * torch.special.ndtr(torch.tensor(2 / 1.5 / 2**0.5, dtype=torch.float64)).item()
    assert auroc(3 + 1.5 * quantiles, 1 + 1.5 * quantiles) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("factor", "shift"), [(1e-4, 0.0), (7.0, -3.0), (1e3, 1e5)])
def test_another_scale_of_the_scores_gives_the_same_probabilities(factor: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    present, absent = torch.randn(200, generator=generator).double() + 1, torch.randn(150, generator=generator).double()
    temperature, threshold = fit_threshold(present, absent)
    scaled = fit_threshold(factor * present + shift, factor * absent + shift)
    assert scaled == (
        pytest.approx(factor * temperature, rel=1e-6),
        pytest.approx(factor * threshold + shift, rel=1e-6),
    )


def test_scores_that_do_not_overlap_still_have_a_temperature() -> None:
    temperature, threshold = fit_threshold(torch.tensor([2.0, 2.5, 3.0]), torch.tensor([-3.0, -2.5, -2.0]))
    assert temperature > 0 and threshold == pytest.approx(0, abs=1e-9)
    assert fit_threshold(torch.tensor([1.0]), torch.tensor([-1.0]))[1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("present", "absent", "message"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "do not rise where the answer is there"),
        ([1.0], [1.0], "do not rise"),
        ([1.0], [2.0], "do not rise"),
        ([1.0], [], "at least two images with captions"),
    ],
)
def test_what_cannot_be_calibrated(present: list[float], absent: list[float], message: str) -> None:
    with pytest.raises(AlbefError, match=message):
        fit_threshold(torch.tensor(present), torch.tensor(absent))


@pytest.mark.parametrize(
    ("present", "absent", "area"),
    [([2, 3], [0, 1], 100), ([0, 1], [2, 3], 0), ([1, 1], [1, 1], 50), ([1, 3], [2, 2], 50), ([1, 2, 3], [2], 50),
     ([5, 1, 3], [3, 0], 100 * (1 + 1 + 0.5 + 0 + 1 + 1) / 6)],
)  # fmt: skip
def test_area_in_closed_form(present: list[float], absent: list[float], area: float) -> None:
    assert auroc(torch.tensor(present).float(), torch.tensor(absent).float()) == pytest.approx(area)


def made_scores(count: int = 400, seed: int = 0) -> BestScores:
    """Scores that rise where the answer is there; two queries an image; rounded, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    absent, cosine = (torch.randn(count, generator=generator).mul(4).round().div(4) for _ in range(2))
    gain = torch.rand(count, generator=generator).mul(8).round().div(4)
    return BestScores(absent + gain, absent, cosine + 0.1, cosine, torch.arange(count) // 2)


def test_rates_are_counted() -> None:
    scores = made_scores()
    found = abstention_metrics(
        {"txt": scores, "img": made_scores(seed=1)}, {"threshold": 0.75, "cosine_threshold": 0.0}
    )
    assert found["txt_found_though_absent"] == pytest.approx(100 * np.mean([s >= 0.75 for s in scores.absent.tolist()]))
    assert found["txt_missed_though_present"] == pytest.approx(
        100 * np.mean([s < 0.75 for s in scores.present.tolist()])
    )
    pairs = [(p > a) + (p == a) / 2 for p in scores.cosine_present.tolist() for a in scores.cosine_absent.tolist()]
    assert found["txt_cosine_auroc"] == pytest.approx(100 * np.mean(pairs))
    names = [f"{p}_{s}{n}{i}" for p in ("txt", "img") for s in ("", "cosine_")
             for n in ("auroc", "found_though_absent", "missed_though_present") for i in ("", "_interval")]  # fmt: skip
    assert list(found) == names


def test_intervals_are_those_of_the_plain_bootstrap() -> None:
    """Images are drawn with their two queries, and the area is computed anew each time."""
    scores = made_scores()
    found: dict[str, Any] = abstention_metrics({"txt": scores}, {"threshold": 0.75, "cosine_threshold": 0.0})
    rng, areas, rates = np.random.default_rng(0), [], []
    for _ in range(1_500):
        rows = (2 * torch.from_numpy(rng.integers(200, size=200))[:, None] + torch.arange(2)).flatten()
        areas.append(auroc(scores.present[rows], scores.absent[rows]))
        rates.append(100 * (scores.absent[rows] >= 0.75).double().mean().item())
    for values, name in ((areas, "txt_auroc"), (rates, "txt_found_though_absent")):
        low, high = np.quantile(values, [0.025, 0.975])
        expected = pytest.approx([low, high], abs=0.12 * (high - low))
        assert found[f"{name}_interval"] == expected
        assert found[f"{name}_interval"][0] < found[name] < found[f"{name}_interval"][1]


def test_one_threshold_for_both_directions() -> None:
    txt, img = made_scores(), made_scores(100, seed=1)
    fitted = calibrate({"txt": txt, "img": img})
    both = (torch.cat([getattr(one, name) for one in (txt, img)]) for name in ("present", "absent"))
    assert (fitted["temperature"], fitted["threshold"]) == fit_threshold(*both)
    both = (torch.cat([getattr(one, name) for one in (txt, img)]) for name in ("cosine_present", "cosine_absent"))
    assert (fitted["cosine_temperature"], fitted["cosine_threshold"]) == fit_threshold(*both)


def test_a_query_whose_candidates_are_all_right_does_not_count() -> None:
    far = torch.tensor([0.5, -torch.inf, 1.0])
    scores = BestScores(torch.tensor([1.0, 2.0, 3.0]), far, torch.ones(3), torch.zeros(3), torch.arange(3))
    assert scores.present.tolist() == [1, 3] and scores.groups.tolist() == [0, 2]


def test_a_configuration_keeps_a_whole_calibration() -> None:
    fitted = calibrate({"txt": made_scores()})
    config = AlbefConfig(search_calibration=fitted)
    assert AlbefConfig.from_dict(json.loads(config.to_json_string())).search_calibration == fitted
    for wrong in ({"temperature": 1.0, "threshold": 0.0}, fitted | {"temperature": 0.0}, fitted | {"more": 1.0}):
        with pytest.raises(AlbefError, match=r"search_calibration is .* must have temperature, threshold"):
            AlbefConfig(search_calibration=wrong)
