"""Boxes from maps: the published ranking against recorded numbers, and rules of our own against closed forms."""

from __future__ import annotations

import pytest
import torch
from golden_cases import GOLDEN, INDEX
from safetensors.torch import load_file

from modeling_albef.explain.text_maps import box_round_peak, peak, resize_map
from modeling_albef.training.grounding.boxes import best_box, box_iou, box_scores, points_at

RANKING = INDEX["grounding"]["ranking"]
CASE = load_file(GOLDEN / "grounding.io.safetensors")


def test_maps_are_resized_as_recorded() -> None:
    resized = resize_map(CASE["rank_maps"][0], *RANKING["sizes_height_width"][0])
    torch.testing.assert_close(resized, CASE["rank_first_map_resized"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("row", range(5))
def test_ranking_is_the_recorded_one(row: int) -> None:
    heat = resize_map(CASE["rank_maps"][row], *RANKING["sizes_height_width"][row])
    boxes = RANKING["boxes_xywh"][row]
    scores, expected = box_scores(heat, boxes), CASE["rank_scores"][row]
    torch.testing.assert_close(scores, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    chosen = best_box(scores)
    assert chosen == RANKING["chosen"][row] and boxes[chosen] == RANKING["chosen_xywh"][row]
    iou = box_iou(boxes[chosen], RANKING["reference_xywh"][row])
    assert iou == pytest.approx(RANKING["iou"][row], abs=1e-6) and (iou >= 0.5) == RANKING["hit"][row]


@pytest.mark.parametrize("case", INDEX["grounding"]["iou_cases"])
def test_overlaps_are_the_recorded_ones(case: dict) -> None:
    for pair in ("first_xywh", "second_xywh"), ("second_xywh", "first_xywh"):
        assert box_iou(*(case[name] for name in pair)) == pytest.approx(case["iou"], abs=1e-6)


def test_scores_in_closed_form() -> None:
    heat = torch.ones(10, 20)
    boxes = [[0, 0, 20, 10], [2.9, 1.2, 4.0, 9.0], [-5, -5, 10, 10], [25, 3, 4, 4], [0, 0, 0.5, 0.5]]
    assert box_scores(heat, boxes).tolist() == pytest.approx([200**0.5, 4 * 9 / 6, 25 / 10, 0, 0])
    assert box_scores(heat, boxes[:2], area_exponent=1).tolist() == pytest.approx([1, 1])
    assert box_scores(heat, boxes[:2], area_exponent=0).tolist() == pytest.approx([200, 36])
    assert box_scores(heat, [[1, 1, 0, 3], [1, 1, 3, 0]]).tolist() == [0, 0]
    assert box_iou([1, 1, 0, 0], [1, 1, 0, 0]) == 0


def test_the_first_of_equal_scores_wins_and_none_below_zero() -> None:
    assert best_box(torch.tensor([0.5, 2.0, 2.0])) == 1
    for scores in ([-1.0, 0.0], [], [float("nan")]):
        assert best_box(torch.tensor(scores)) is None


def test_the_peak_and_where_it_points() -> None:
    heat = torch.zeros(4, 6)
    heat[2, 5] = heat[3, 0] = 1
    assert peak(heat) == (5.5, 2.5)
    assert peak(torch.zeros(4, 6)) is None and not points_at(None, [0, 0, 9, 9])
    assert points_at((5.5, 2.5), [5, 2, 1, 1]) and points_at((5.5, 2.5), [5.5, 0, 3, 3])
    assert not points_at((5.5, 2.5), [0, 0, 5, 4]) and not points_at((5.5, 2.5), [5, 2.6, 1, 1])


def test_a_box_round_the_part_with_the_peak() -> None:
    """Two hills: the higher one alone is boxed, an L of cells whole, and nothing where the map is empty."""
    heat = torch.zeros(12, 16)
    heat[2:5, 3:6] = 1.0
    heat[5, 5:9] = 0.9  # touches the square below its right column
    heat[9:11, 12:15] = 0.95  # apart
    assert box_round_peak(heat, 12, 16) == (3, 2, 6, 4)
    heat[9:11, 12:15] = 1.1
    assert box_round_peak(heat, 12, 16) == (12, 9, 3, 2)
    assert box_round_peak(torch.zeros(3, 3), 30, 30) is None


def test_a_box_of_a_large_image_is_in_its_pixels() -> None:
    heat = torch.zeros(8, 8)
    heat[4:6, 2:4] = 1.0
    x, y, width, height = box_round_peak(heat, 800, 1600) or (0,) * 4
    assert box_iou((x, y, width, height), (400, 400, 400, 200)) > 0.8
    assert (x + width / 2, y + height / 2) == pytest.approx((600, 500), abs=20)


def spiral(side: int) -> torch.Tensor:
    """A path that turns inwards: it is found whole, however often it turns."""
    grid, row, column, (down, right) = torch.zeros(side, side), 0, 0, (0, 1)
    grid[0, 0] = 1
    for _ in range(side * side):
        ahead, further = (row + down, column + right), (row + 2 * down, column + 2 * right)
        inside = all(0 <= value < side for value in ahead)
        blocked = not inside or (all(0 <= value < side for value in further) and grid[further] > 0)
        if blocked:
            down, right = right, -down
            if grid[min(max(row + down, 0), side - 1), min(max(column + right, 0), side - 1)]:
                break
            continue
        row, column = ahead
        grid[row, column] = 1
    grid[row, column] = 1.01  # the end of the path is the peak
    return grid


def test_a_part_is_followed_round_corners() -> None:
    assert box_round_peak(spiral(15), 15, 15) == (0, 0, 15, 15)
