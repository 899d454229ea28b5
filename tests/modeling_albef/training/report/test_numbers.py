"""The numbers of a report in words: results with chance and intervals, ranks, hubs, confusion."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from datasets import Dataset

from modeling_albef.training import RankedCandidates, RetrievalResult, RetrievalTrainingArguments, VQAResult
from modeling_albef.training.evaluation.retrieval_metrics import chance_recall
from modeling_albef.training.evaluation.vqa_baselines import guesses_from_each_other, learn_guesses
from modeling_albef.training.report.confusion import confusion
from modeling_albef.training.report.formats import duration, percent
from modeling_albef.training.report.ranks import directions, histogram
from modeling_albef.training.report.result_table import (
    Cell,
    as_text,
    details_table,
    result_table,
    times_table,
    title_of,
    verdicts,
    without_split,
)
from modeling_albef.training.rows import Rows

METRICS = {
    "train": {"train_loss": 2.5, "train_runtime": 272.3987, "epoch": 3.0},
    "eval": {"eval_txt_r1": 14.3, "eval_mine": 3.0, "eval_runtime": 0.5},
    "test": {"test_txt_r1": 0.018, "test_r_mean": 50.0, "test_samples_per_second": 12345.678},
}
DETAILS: dict[str, dict[str, Any]] = {
    "test": {"txt_chance_r1": 0.02, "chance_r_mean": 1.0, "txt_queries": 5000},
    "eval": {
        "txt_chance_r1": 0.1,
        "txt_r1_interval": [12.2, 16.5],
        "img_queries": 5000,
        "img_gallery": 1000,
        "img_distinct_top1": 35,
        "img_largest_hub": 1605,
        "img_largest_hub_index": 3,
        "img_median_rank": 88.5,
        "txt_auroc": 71.25,
        "txt_auroc_interval": [60.0, 80.0],
        "vqa_rules": "vqa",
    },
}


def test_results_in_words() -> None:
    """As "Text R@1 14.3 % (chance 0.1 %, 95 % interval 12.2..16.5)", and what is not known is left out."""
    table = result_table(without_split(METRICS), DETAILS, ["r_mean", "txt_r1"])
    assert table.splits == ("test", "eval")  # a split without a result has no column
    assert [(row.name, row.title) for row in table.rows] == [
        ("r_mean", "Recall, mean of both directions"),
        ("txt_r1", "Text R@1"),
        ("mine", "mine"),
    ]
    mean, first, mine = table.rows
    assert first.cells == (
        Cell(0.018, "0.02 %", "chance 0.02 %"),
        Cell(14.3, "14.3 %", "chance 0.1 %, 95 % interval 12.2..16.5"),
    )
    assert mean.cells == (Cell(50.0, "50.0 %", "chance 1.0 %"), None) and mine.cells == (None, Cell(3.0, "3"))
    lines = as_text(table).splitlines()
    assert lines[0].split() == ["test", "validation"] and lines[2].startswith("Text R@1")
    assert "14.3 % (chance 0.1 %, 95 %: 12.2..16.5)" in lines[2]
    assert not result_table({"eval": {"txt_r1": 1.0}}, {}).rows[0].cells[0].note
    assert as_text(result_table({}, {})) == ""


def test_times_and_counts_stand_apart() -> None:
    table = times_table(without_split(METRICS), DETAILS)
    shown = {row.name: [cell and cell.text for cell in row.cells] for row in table.rows}
    assert table.splits == ("test", "eval", "train")
    assert shown["runtime"] == [None, "0.5 s", "4 min 32 s"] and shown["loss"] == [None, None, "2.5"]
    assert shown["samples_per_second"] == ["1.235e+04", None, None] and shown["txt_queries"] == ["5,000", None, None]
    assert not {"txt_r1", "mine"} & shown.keys()
    assert [duration(seconds) for seconds in (3.21, 59.94, 3599.6, 7500)] == [
        "3.2 s",
        "59.9 s",
        "1 h 0 min",
        "2 h 5 min",
    ]


def test_what_stands_behind_the_result() -> None:
    rows = {row.name: row for row in details_table(DETAILS).rows}
    assert rows["img_largest_hub"].cells == (None, Cell(1605, "1,605", "of 5,000, 32.1 %"))
    assert rows["img_distinct_top1"].cells[1] == Cell(35, "35", "of 1,000, 3.5 %")
    assert rows["img_median_rank"].cells[1] == Cell(88.5, "88.5")
    assert rows["txt_auroc"].cells[1] == Cell(71.25, "71.2 %", "95 % interval 60.0..80.0")
    assert "img_largest_hub_index" not in rows and rows["txt_auroc"].title.startswith("Texts: AUROC")
    assert not details_table({"eval": {}}).rows


def test_a_trained_model_is_told_from_an_untrained_one() -> None:
    metrics = {"txt_r_mean": 5.0, "img_r_mean": 9.0}
    details = {"txt_chance_r_mean": 4.7, "img_chance_r_mean": 4.7}
    details |= {"txt_r_mean_interval": [4.0, 6.0], "img_r_mean_interval": [7.0, 11.0]}
    assert verdicts(metrics, details) == [
        (False, "Text retrieval is no better than chance: 5.0 % against 4.7 %."),
        (True, "Image retrieval is better than chance: 9.0 % against 4.7 %."),
    ]
    assert verdicts(metrics, {}) == []
    metrics = {"vqa_accuracy": 40.0, "question_only_accuracy": 39.0, "majority_accuracy": 25.0}
    sentence = "better than guesses from the question alone: 40.0 % against 39.0 %."
    assert verdicts(metrics, {}) == [(True, f"The answers are {sentence}")]
    assert verdicts(metrics, {"vqa_accuracy_interval": [38.0, 42.0]}) == [(False, f"The answers are no {sentence}")]
    assert "the most frequent answer alone" in verdicts(metrics | {"majority_accuracy": 50.0}, {})[0][1]


def test_baselines_follow_the_accuracy() -> None:
    values = {"majority_accuracy": 20.0, "question_only_accuracy": 30.0, "vqa_accuracy": 40.0, "majority_answer": "no"}
    details = {"eval": {"vqa_rules": "albef", "fold_answers": True, "vqa_accuracy_interval": [1.0, 2.0]}}
    table = result_table({"eval": values | {"baselines_learned_from": "the training data"}}, details, ["vqa_accuracy"])
    assert [(row.title, row.cells[0].note) for row in table.rows] == [
        ("VQA accuracy", "rules: albef, answers folded, 95 % interval 1.0..2.0"),
        ("Guess from the question alone", "from the training data"),
        ("Always the most frequent answer", '"no", from the training data'),
    ]


def test_a_classification_has_labels_and_no_answers() -> None:
    values = {"accuracy": 40.0, "majority_accuracy": 50.0, "text_only_accuracy": 30.0, "majority_answer": "true"}
    table = result_table({"eval": values}, {}, ["accuracy"])
    assert [row.title for row in table.rows if "Always" in row.title] == ["Always the most frequent label"]
    sentence = "The labels are no better than the most frequent label alone: 40.0 % against 50.0 %."
    assert verdicts(values, {}) == [(False, sentence)]


def test_every_metric_has_words() -> None:
    for name in RetrievalTrainingArguments.METRICS:
        assert title_of(name) != name
    assert title_of("vqa_accuracy_yes_no") == "VQA accuracy: yes/no"
    assert title_of("vqa_accuracy_not_a_type") == "VQA accuracy: not a type"
    assert title_of("txt_unheard_of") == "txt_unheard_of" and title_of("img_r3") == "Image R@3"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0 %"), (100, "100.0 %"), (14.25, "14.2 %"), (0.1, "0.1 %"), (0.0951, "0.1 %"), (0.02, "0.02 %")],
)
def test_percent(value: float, text: str) -> None:
    assert percent(value) == text


# ---- ranks and hubs


def test_chance_by_counting() -> None:
    """Against all orders of six candidates, of which one, two or all are right."""
    right, orders = [1, 2, 6, 2], list(itertools.permutations(range(6)))
    for depth in range(1, 7):
        shares = [sum(min(order.index(one) for one in range(r)) < depth for order in orders) / 720 for r in right]
        assert chance_recall(torch.tensor(right), 6, (depth,)) == pytest.approx([25 * sum(shares)], abs=1e-9)
    assert chance_recall(torch.ones(3, dtype=torch.int64), 1000, (5,)) == pytest.approx([0.5], abs=1e-9)


def test_histogram_counts_every_query_once() -> None:
    ranks = torch.tensor([0, 0, 1, 4, 5, 9, 10, 49, 50, 110])
    bars = list(histogram(ranks, torch.ones_like(ranks), 111))
    assert [(bar.first, bar.last, bar.count) for bar in bars] == [
        (1, 1, 2), (2, 5, 2), (6, 10, 2), (11, 50, 2), (51, 100, 1), (101, 111, 1)
    ]  # fmt: skip
    assert sum(bar.share for bar in bars) == pytest.approx(1) == sum(bar.chance for bar in bars)
    assert [bar.chance for bar in bars] == pytest.approx([width / 111 for width in (1, 4, 5, 40, 50, 11)])
    ranks[-1] = torch.iinfo(torch.int64).max  # not among the 60 that were ranked
    bars = list(histogram(ranks, torch.ones_like(ranks), 111, ranked=60))
    assert [(bar.first, bar.last, bar.count) for bar in bars][-2:] == [(51, 60, 1), (61, None, 1)]
    assert bars[-1].chance == pytest.approx(51 / 111) and sum(bar.count for bar in bars) == 10
    assert [(bar.first, bar.last) for bar in histogram(torch.tensor([0]), torch.tensor([1]), 1)] == [(1, 1)]


def test_hubs_and_ranks_of_a_small_retrieval() -> None:
    """Three images, of which the last has no caption, and four captions; image 1 comes first for three of them."""
    owners = torch.tensor([0, 0, 1, 1])
    by_image = RankedCandidates(torch.tensor([[2, 0], [3, 1], [2, 3]]), torch.zeros(3, 2))
    by_text = RankedCandidates(torch.tensor([[1, 0], [1, 2], [1, 0], [0, 1]]), torch.zeros(4, 2))
    text, image = directions(RetrievalResult({}, by_image, by_text, ["a", "b", "c", "d"], owners))
    assert [(bar.first, bar.last, bar.count) for bar in text.bars] == [(1, 1, 1), (2, 2, 1)]
    assert (text.num_queries, text.distinct, text.hubs) == (2, 2, ())
    assert [(bar.first, bar.last, bar.count) for bar in image.bars] == [(1, 1, 1), (2, 2, 2), (3, None, 1)]
    assert (image.num_queries, image.distinct) == (4, 2)
    assert [(hub.candidate, hub.count) for hub in image.hubs] == [(1, 3)]


def test_hubs_are_the_rows_of_their_images() -> None:
    """Two images of two rows each: the second image, which comes first for both captions, is in row 2."""
    ranked = RankedCandidates(torch.tensor([[1, 0], [1, 0]]), torch.zeros(2, 2))
    result = RetrievalResult({}, ranked, ranked, ["a", "b"], torch.tensor([0, 1]), image_rows=[0, 2])
    text, image = directions(result)
    assert [(hub.candidate, hub.count) for hub in text.hubs] == [(1, 2)]  # the second caption
    assert [(hub.candidate, hub.count) for hub in image.hubs] == [(2, 2)]


# ---- answers


def test_confusion_of_the_most_frequent_answers() -> None:
    given = [["red", "red", "blue"], ["red"], ["red"], ["blue"], ["blue"], ["a dog"], []]
    answered = ["red", "blue", "cat", "red", "blue", "red", "red"]
    result = VQAResult({}, [{"question_id": n, "answer": answer} for n, answer in enumerate(answered)], None)
    found = confusion(result, Dataset.from_dict({"answers": given}), size=2)
    assert found is not None and found.answers == ("red", "blue") and found.totals == (3, 2)
    assert found.counts == ((1, 1, 1), (1, 1, 0)) and found.num_questions == 7
    for row in ({"answers": None}, {"question": "what?"}):  # a test set without answers
        assert confusion(result, Rows([row] * 7)) is None


def test_guesses_learned_from_training_data() -> None:
    guesses = learn_guesses(["a", "a", "b"], [["x", "x"], ["y"], ["z", "y", "y"]], ["b", "a", "new"])
    assert guesses == (["y", "x", "y"], "y")


def test_guesses_without_training_data_do_not_see_the_answer() -> None:
    """Against the slow way: for each question learn from all others."""
    generator = torch.Generator().manual_seed(1)
    questions = [f"q{number}" for number in torch.randint(5, (60,), generator=generator).tolist()]
    answers = [[f"a{n}" for n in row] for row in torch.randint(4, (60, 3), generator=generator).tolist()]
    guesses = guesses_from_each_other(questions, answers)
    for index, guess in enumerate(guesses.by_question):
        others = [n for n in range(60) if n != index]
        same = [n for n in others if questions[n] == questions[index]] or others
        counts = {answer: sum(answers[n].count(answer) for n in same) for answer in {"a0", "a1", "a2", "a3"}}
        assert counts[guess] == max(counts.values())
    assert guesses_from_each_other(["a", "b"], [["x"], ["y"]]).by_question == ["y", "x"]
    assert guesses_from_each_other(["a"], [["x"]]) == (["x"], "x")
