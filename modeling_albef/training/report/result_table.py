"""The numbers of a run in words: what was measured, how far it is from chance, and apart from it times and counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .formats import duration, percent

SPLIT_TITLES = {"train": "training", "eval": "validation", "test": "test"}
DIRECTIONS = {"txt": "Text", "img": "Image"}
BASELINES = {
    "question_only_accuracy": "Guess from the question alone",
    "text_only_accuracy": "Guess from the text alone",
    "majority_accuracy": "Always the most frequent answer",
}
_GUESSES = {
    "question_only_accuracy": "guesses from the question alone",
    "text_only_accuracy": "guesses from the text alone",
    "majority_accuracy": "the most frequent answer alone",
}
LEARNED_FROM, MAJORITY = "baselines_learned_from", "majority_answer"  # names of words on the baselines
TIMES = {
    "runtime": "Time",
    "samples_per_second": "Rows a second",
    "steps_per_second": "Steps a second",
    "epoch": "Epochs",
    "loss": "Loss, mean of all steps",
    "total_flos": "Floating-point operations",
    "txt_queries": "Images that ask for texts",
    "txt_gallery": "Texts to choose from",
    "img_queries": "Texts that ask for images",
    "img_gallery": "Images to choose from",
}
_RECALLS = {
    "txt_r_mean": "Text recall, mean of R@1, 5, 10",
    "img_r_mean": "Image recall, mean of R@1, 5, 10",
    "r_mean": "Recall, mean of both directions",
    "1k_r_mean": "Recall, mean of both directions, of five folds of 1,000 images",
}
_LABELS = {
    "accuracy": "Accuracy",
    "f1_macro": "F1, mean of the labels",
    "f1_micro": "F1, all labels counted together",
    "auroc": "AUROC",
    "pearson": "Correlation of Pearson",
    "assignment_accuracy": "Captions assigned to the right image, a third by chance",
    "mlm_accuracy": "Masked words that are filled in rightly",
}
_GROUNDING = {
    "pointing_accuracy": "Pointing game: the map is largest in the box",
    "box_accuracy": "Accuracy of boxes, overlap of at least 0.5",
    "box_iou": "Overlap of boxes, intersection by union",
}
_DETAILS: dict[str, str] = {  # after the direction
    **{f"first_stage_r{depth}": f"{{0}} R@{depth} of the first stage, by similarity alone" for depth in (1, 5, 10)},
    **{f"matching_r{depth}": f"{{0}} R@{depth} by the matching head alone" for depth in (1, 5, 10)},
    **{f"sum_r{depth}": f"{{0}} R@{depth} by similarity and matching head together" for depth in (1, 5, 10)},
    "in_k_test": "{0}s: a right one is among those that were re-ranked",
    "median_rank": "{0}s: median rank of the first right one",
    "distinct_top1": "{0}s: different ones that come first",
    "largest_hub": "{0}s: queries for which the same one comes first",
    **{f"1k_r{depth}": f"{{0}} R@{depth}, mean of five folds of 1,000 images" for depth in (1, 5, 10)},
    "1k_r_mean": "{0} recall, mean, of five folds of 1,000 images",
    "eccv_map_at_r": "{0} mAP@R on ECCV Caption",
    "eccv_r_precision": "{0} R-precision on ECCV Caption",
    "eccv_r1": "{0} R@1 on ECCV Caption",
    **{f"cxc_r{depth}": f"{{0}} R@{depth} on CxC" for depth in (1, 5, 10)},
    "auroc": "{0}s: AUROC of the matching score, right one there or not",
    "found_though_absent": "{0}s: found though absent, by the matching score",
    "missed_though_present": "{0}s: missed though present, by the matching score",
    "cosine_auroc": "{0}s: AUROC of the similarity, right one there or not",
    "cosine_found_though_absent": "{0}s: found though absent, by the similarity",
    "cosine_missed_though_present": "{0}s: missed though present, by the similarity",
}
_COUNTS_OF = {"distinct_top1": "gallery", "largest_hub": "queries"}  # what a count is a share of


@dataclass(frozen=True)
class Cell:
    """A number of a split: as it is, in words, and what else is to be known of it."""

    value: float
    text: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A quantity, its name in the files, and its value in each split."""

    name: str
    title: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Table:
    """Rows of numbers, a column a split."""

    splits: tuple[str, ...]
    rows: tuple[Row, ...]


Metrics = Mapping[str, Mapping[str, Any]]  # split -> name without the split -> value


def without_split(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return metrics as `all_results.json` has them by their names alone; the test first, as phones show it."""
    return {
        split: {name.removeprefix(f"{split}_"): value for name, value in metrics[split].items()}
        for split in test_first(metrics)
    }


def test_first(splits: Iterable[str]) -> list[str]:
    """Return splits with the last ones first; several data sets of one, as in `test_NAME`, keep their order."""
    groups: dict[str, list[str]] = {}
    for split in splits:
        groups.setdefault(split.partition("_")[0], []).append(split)
    return [split for group in reversed(groups.values()) for split in group]


def split_title(split: str) -> str:
    """Return what a split is called in words; that of one of several data sets, as in `eval_NAME`, has its name."""
    first, _, name = split.partition("_")
    return f"{SPLIT_TITLES[first]}: {name}" if name and first in SPLIT_TITLES else SPLIT_TITLES.get(split, split)


def title_of(name: str) -> str:
    """Return what a metric is called in words; its own name where it is not known."""
    if name in (fixed := {**_RECALLS, **_LABELS, **BASELINES, **TIMES}):
        return fixed[name]
    direction, _, rest = name.partition("_")
    if direction in DIRECTIONS and rest in _DETAILS:
        return _DETAILS[rest].format(DIRECTIONS[direction])
    if found := re.fullmatch(rf"({'|'.join(_GROUNDING)})(?:_(\w+))?", name):
        return f"{_GROUNDING[found[1]]}, {found[2]}" if found[2] else _GROUNDING[found[1]]
    if found := re.fullmatch(r"(txt|img)_r(\d+)", name):
        return f"{DIRECTIONS[found[1]]} R@{found[2]}"
    if found := re.fullmatch(r"vqa_accuracy(?:_(\w+))?", name):
        words = {"yes_no": "yes/no"}.get(found[1], (found[1] or "").replace("_", " "))
        return f"VQA accuracy: {words}" if words else "VQA accuracy"
    return name


def result_table(metrics: Metrics, details: Metrics, first: Sequence[str] = ()) -> Table:
    """Return what was measured, with chance and interval where they are known.

    Args:
        metrics: See `without_split`.
        details: Of the evaluations, by the same splits.
        first: Names that come first, in this order.
    """
    splits = [split for split in metrics if any(not _is_time(name) for name in metrics[split])]
    found = {name for split in splits for name in metrics[split] if not _is_time(name)}
    names = [name for name in first if name in found]
    names += sorted((name for name in BASELINES if name in found), key=list(BASELINES).index)
    names += [name for split in splits for name in metrics[split] if name in found]

    def cell(split: str, name: str, value: Any) -> Cell:
        words = percent(value) if title_of(name) != name else f"{value:.4g}"  # of a user's own metric
        return Cell(value, words, _note(name, details.get(split, {}), metrics[split]))

    return _table(splits, names, metrics, cell)


def details_table(details: Metrics) -> Table:
    """Return what stands behind the metrics: the first stage, ranks, hubs."""
    shown = [f"{direction}_{name}" for direction in DIRECTIONS for name in _DETAILS]

    def cell(split: str, name: str, value: Any) -> Cell:
        direction, _, rest = name.partition("_")
        interval = _interval(name, details[split])
        if rest == "median_rank":
            return Cell(value, f"{value:g}")
        if rest in _COUNTS_OF:
            total = details[split].get(f"{direction}_{_COUNTS_OF[rest]}")
            return Cell(value, f"{value:,}", f"of {total:,}, {percent(100 * value / total)}" if total else "")
        return Cell(value, percent(value), interval)

    return _table(list(details), [*shown, "1k_r_mean"], details, cell)


def times_table(metrics: Metrics, details: Metrics) -> Table:
    """Return times, speeds and counts."""
    merged = {split: {**metrics[split], **details.get(split, {})} for split in metrics}
    names = [*TIMES, *(name for values in metrics.values() for name in values if _is_time(name))]
    return _table(list(merged), names, merged, lambda split, name, value: Cell(value, _time_or_count(name, value)))


def _table(
    splits: Sequence[str], names: Sequence[str], values: Metrics, cell: Callable[[str, str, Any], Cell]
) -> Table:
    rows = []
    for name in dict.fromkeys(names):
        cells = [
            cell(split, name, value) if isinstance(value := values[split].get(name), int | float) else None
            for split in splits
        ]
        if any(cells):
            rows.append(Row(name, title_of(name), tuple(cells)))
    return Table(tuple(splits), tuple(rows))


def _is_time(name: str) -> bool:
    return name in TIMES or name.endswith(("_per_second", "_runtime"))


def _note(name: str, details: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    if name in BASELINES:
        words = f'"{metrics[MAJORITY]}", ' if name == "majority_accuracy" and MAJORITY in metrics else ""
        return f"{words}from {metrics[LEARNED_FROM]}" if LEARNED_FROM in metrics else ""
    chance = details.get(chance_name(name))
    parts = [] if chance is None else [f"chance {percent(chance)}"]
    start = details.get(f"{name}_at_start")
    parts += [] if start is None else [f"before training {percent(start)}"]
    if name == "vqa_accuracy" and "vqa_rules" in details:
        parts.append(f"rules: {details['vqa_rules']}{', answers folded' if details.get('fold_answers') else ''}")
    return ", ".join(filter(None, [*parts, _interval(name, details)]))


def _interval(name: str, details: Mapping[str, Any]) -> str:
    interval = details.get(f"{name}_interval")
    if not interval:
        return ""
    low, high = (percent(bound).removesuffix(" %") for bound in interval)
    return f"95 % interval {low}..{high}"


def chance_name(name: str) -> str:
    """Return the name of the recall of a random order that belongs to a recall."""
    direction, _, rest = name.partition("_")
    return f"{direction}_chance_{rest}" if direction in DIRECTIONS else f"chance_{name}"


def verdicts(metrics: Mapping[str, Any], details: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """Return whether each ability of a model is more than chance or a guess, and a sentence that says so."""
    compared = []
    for direction, word in DIRECTIONS.items():
        name = f"{direction}_r_mean"
        chance, interval = details.get(chance_name(name)), details.get(f"{name}_interval")
        if chance is not None and interval and name in metrics:
            compared.append((f"{word} retrieval is", "chance", interval[0], metrics[name], chance))
    chance, interval = details.get("chance_pointing_accuracy"), details.get("pointing_accuracy_interval")
    if chance is not None and interval and "pointing_accuracy" in metrics:
        compared.append(("The maps' peaks are", "chance", interval[0], metrics["pointing_accuracy"], chance))
    guesses = {name: metrics[name] for name in BASELINES if name in metrics}
    for measured, subject in (("vqa_accuracy", "The answers are"), ("accuracy", "The labels are")):
        if guesses and measured in metrics:
            accuracy, name = metrics[measured], max(guesses, key=guesses.__getitem__)
            low = (details.get(f"{measured}_interval") or [accuracy])[0]
            compared.append((subject, _GUESSES[name], low, accuracy, guesses[name]))
    return [
        (
            low > other,
            f"{subject} {'' if low > other else 'no '}better than {than}: {percent(value)} against {percent(other)}.",
        )
        for subject, than, low, value, other in compared
    ]


def _time_or_count(name: str, value: float) -> str:
    if name.endswith("runtime"):
        return duration(value)
    if name in ("loss", "epoch") or name.endswith("_per_second"):
        return f"{value:,.4g}"
    return f"{value:.3g}" if abs(value) >= 1e7 else f"{value:,}"


def as_text(table: Table) -> str:
    """Return a table for a terminal, with the notes of each number beside it; empty without rows."""
    if not table.rows:
        return ""
    heads = ["", *map(split_title, table.splits)]
    with_notes = len(table.splits) <= len(SPLIT_TITLES)  # not of several data sets, whose lines would be too long
    lines = [[row.title, *(_cell_text(cell, with_notes) for cell in row.cells)] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in [heads, *lines]
    )


def _cell_text(cell: Cell | None, with_note: bool) -> str:
    if cell is None:
        return ""
    return cell.text + (f" ({cell.note.replace('95 % interval', '95 %:')})" if cell.note and with_note else "")
