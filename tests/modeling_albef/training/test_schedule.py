"""The published learning rates, read off the public configurations' own schedule."""

from __future__ import annotations

import pytest
import torch

from modeling_albef.training import PublishedSchedule

COCO_LATER = [9.141e-6, 6.891e-6, 4.109e-6, 1.859e-6]
FLICKR_LATER = [9.780e-6, 9.141e-6, 8.145e-6, 6.891e-6, 5.5e-6, 4.109e-6, 2.855e-6, 1.859e-6, 1.220e-6]
VQA_LATER = [1.928e-5, 1.722e-5, 1.414e-5, 1.050e-5, 6.865e-6, 3.782e-6, 1.723e-6]


@pytest.mark.parametrize(
    ("peak", "warmup_steps", "epochs", "later"),
    [(1e-5, 100, 5, COCO_LATER), (1e-5, 100, 10, FLICKR_LATER), (2e-5, 400, 8, VQA_LATER)],
)
def test_later_epochs(peak: float, warmup_steps: int, epochs: int, later: list[float]) -> None:
    schedule = PublishedSchedule(peak, 1e-6, 1e-5, warmup_steps, steps_per_epoch=1000, num_epochs=epochs)
    for epoch, expected in enumerate(later, start=1):
        first, last = schedule(1000 * epoch), schedule(1000 * epoch + 999)
        assert first == last == pytest.approx(expected, rel=5e-4)  # four digits are known


def test_warm_up_climbs_after_every_hundredth_step() -> None:
    schedule = PublishedSchedule(2e-5, 1e-6, 1e-5, 400, steps_per_epoch=1000, num_epochs=8)
    rates = [schedule(step) for step in range(1000)]
    for step, expected in [(0, 1e-5), (100, 1e-5), (101, 1.25e-5), (200, 1.25e-5), (201, 1.5e-5), (301, 1.75e-5)]:
        assert rates[step] == pytest.approx(expected)
    assert rates[400] == pytest.approx(1.75e-5)
    assert all(rate == pytest.approx(2e-5) for rate in rates[401:])


def test_every_step_equals_the_published_loop() -> None:
    """The public training loop, played with its own rule: set the rate after steps 0, 100, .. and at each epoch."""
    warmup, epochs, length = 2, 3, 150
    schedule = PublishedSchedule(1e-4, 1e-5, 1e-6, 100 * warmup, steps_per_epoch=length, num_epochs=epochs)
    rate, played = schedule._at(0, warmup), []
    for epoch in range(epochs):
        if epoch:
            rate = schedule._at(epoch + warmup, warmup)
        for step in range(length):
            played.append(rate)
            if epoch == 0 and step % 100 == 0 and step <= 100 * warmup:
                rate = schedule._at(step // 100, warmup)
    assert [schedule(step) for step in range(epochs * length)] == played


def test_no_warm_up_starts_at_the_peak() -> None:
    assert PublishedSchedule(1e-3, 1e-4, 1e-5, 0, steps_per_epoch=10, num_epochs=2)(0) == 1e-3


def test_broken_warm_up_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warmup_steps is 50, .* multiple"):
        PublishedSchedule(1e-5, 1e-6, 1e-5, 50, 10, 5)


def test_restarts_are_those_of_torch() -> None:
    """TorchMultimodal's loop, played with torch's own scheduler: VQA's sizes, where the cosine starts again."""
    epochs, levels, length = 8, 4, 450
    schedule = PublishedSchedule(2e-5, 1e-6, 1e-5, 100 * levels, length, epochs, restarts=True)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=epochs, eta_min=1e-6)
    played = []
    for epoch in range(epochs):
        if epoch:
            theirs.step(epoch + levels)
        for step in range(length):
            played.append(optimizer.param_groups[0]["lr"])
            if epoch == 0 and step % 100 == 0 and step <= 100 * levels:
                theirs.step(step // 100)
    assert [schedule(step) for step in range(epochs * length)] == pytest.approx(played, rel=1e-12)
    assert played[0] == played[4 * length] == 2e-5 and played[3 * length] < 2e-6  # it starts again in the fifth epoch
