"""Bootstrap intervals of means: how far a metric would move on another sample of the same size.

Whole groups are drawn, such as an image with all its captions: queries that share an image are right or wrong together,
and intervals that took them for independent would be too narrow. Shapes: G groups, n queries, M metrics, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

NUM_SAMPLES = 1_000
LEVEL = 0.95
_ENTRIES_AT_ONCE = 10_000_000  # of the counts of draws: 80 MB


def bootstrap_means(
    metrics: Sequence[tuple[torch.Tensor, torch.Tensor]], num_samples: int = NUM_SAMPLES, seed: int = 0
) -> list[torch.Tensor]:
    """Return the means of metrics over samples of groups, drawn with replacement, the same groups for all metrics.

    Args:
        metrics: Values (n, M) of queries, and the group (n,) of each query, any integers; a mean is over the queries of
            the drawn groups. Every group has a query in each of the pairs.
        num_samples: S.
        seed: Of the draws.

    Returns:
        (S, M) float64 of each pair.
    """
    found = [groups.unique(return_inverse=True) for _, groups in metrics]
    num_groups = len(found[0][0])
    parts = []
    for (values, _), (_, index) in zip(metrics, found, strict=True):
        sums = values.new_zeros(num_groups, values.shape[1], dtype=torch.float64).index_add_(0, index, values.double())
        parts.append((sums, index.bincount(minlength=num_groups).double()))
    samples: list[list[torch.Tensor]] = [[] for _ in parts]
    for counts in _draw_counts(num_groups, num_samples, seed):
        for collected, (sums, sizes) in zip(samples, parts, strict=True):
            collected.append((counts @ sums) / (counts @ sizes)[:, None])
    return [torch.cat(collected) for collected in samples]


def interval(samples: torch.Tensor, level: float = LEVEL) -> list[float]:
    """Return the two ends between which a share `level` of samples (S,) lies, as much below as above."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=samples.dtype)
    return samples.quantile(ends).tolist()


def _draw_counts(num_groups: int, num_samples: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield (some, G) float64: how often each group is drawn in each of some samples of G groups."""
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, _ENTRIES_AT_ONCE // num_groups)
    for start in range(0, num_samples, at_once):
        some = min(at_once, num_samples - start)
        drawn = torch.randint(num_groups, (some, num_groups), generator=generator)
        drawn += torch.arange(some)[:, None] * num_groups
        yield drawn.flatten().bincount(minlength=some * num_groups).view(some, num_groups).double()
