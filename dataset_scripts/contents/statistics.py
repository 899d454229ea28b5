"""What is in the data: sizes, lengths, vocabulary, answers, and what is there twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from processing.tokenizer import build_tokenizer

from .image_facts import FACTS, image_facts
from .near_duplicates import MIN_CONTRAST, near_identical
from .text_counts import AnswerCounts, TextCounts

ROWS_AT_ONCE = 1_000
IMAGES_AT_ONCE = 128
EXAMPLES = 10  # repeated texts that are named
TINY_SIDE = 64  # pixels of the shorter side
HUGE_PIXELS = 16_000_000
ODD_RATIO = 3.0  # of the longer side to the shorter one
ANSWER_LIST, TRAINING = "the answer list", "the training data"  # what answers are looked up in
ImageAt = tuple[str, int]  # split, and index of the image in it


@dataclass
class SplitStatistics:
    """What is in a split.

    Attributes:
        dataset: Its rows, with images that are not decoded.
        first_rows: (I,) first row of each image, by `image_id`.
        facts: (I,) of `FACTS`.
        texts: Captions or questions.
        texts_of_image: Captions or questions of an image -> images that have so many.
        answers: None where the texts are captions.
        repeated: Texts that occur several times, the most frequent first, and how often.
        shared: Earlier split -> some texts that are there, too.
    """

    dataset: datasets.Dataset
    first_rows: np.ndarray
    facts: np.ndarray
    texts: TextCounts
    texts_of_image: Counter[int]
    answers: AnswerCounts | None = None
    repeated: list[tuple[str, int]] = field(default_factory=list)
    shared: dict[str, list[str]] = field(default_factory=dict)

    def odd_images(self) -> dict[str, np.ndarray]:
        """Return the indices of images that are worth a look, by what is odd about them."""
        facts, is_read = self.facts, self.facts["is_read"]
        width, height = (facts[name].astype(np.int64) for name in ("width", "height"))
        shorter, longer = np.minimum(width, height), np.maximum(width, height)
        flat = np.ptp(facts["thumbnail"], axis=(1, 2)).max(1) < MIN_CONTRAST
        kinds = {
            "cannot be read": ~is_read,
            f"tiny: shorter side under {TINY_SIDE} pixels": is_read & (shorter < TINY_SIDE),
            f"huge: over {HUGE_PIXELS // 1_000_000} million pixels": is_read & (width * height > HUGE_PIXELS),
            f"odd shape: over {ODD_RATIO:g} times as long as wide": is_read & (longer > ODD_RATIO * shorter),
            "of one color": is_read & flat,
            "grey": is_read & facts["is_grey"] & ~flat,
        }
        return {kind: np.flatnonzero(chosen) for kind, chosen in kinds.items()}


class ImageGroups:
    """Images of all splits that are the same, by their bytes or by how they look."""

    def __init__(self, facts: Mapping[str, np.ndarray]) -> None:
        """Compare the images of all splits with each other."""
        indices = {split: np.flatnonzero(some["is_read"]).tolist() for split, some in facts.items()}
        self.owners = [(split, index) for split, some in indices.items() for index in some]
        read = np.concatenate([some[some["is_read"]] for some in facts.values()] or [np.empty(0, FACTS)])
        _, first, content = np.unique(read["digest"], axis=0, return_index=True, return_inverse=True)
        look = np.arange(len(first))  # content -> what stands for all contents that look the same
        for group in near_identical(read["thumbnail"][first]):
            look[group] = group[0]
        content = content.reshape(-1)
        self._content: dict[str, list[int]] = {split: [] for split in facts}
        self._look: dict[str, list[int]] = {split: [] for split in facts}
        for (split, _), number in zip(self.owners, content.tolist(), strict=True):
            self._content[split].append(number)
            self._look[split].append(int(look[number]))
        self._of_content, self._first, self._looks = content, first, look

    def identical(self) -> list[list[ImageAt]]:
        """Return the groups of images with the same bytes, in order of their first image."""
        groups = defaultdict(list)
        for owner, number in zip(self.owners, self._of_content.tolist(), strict=True):
            groups[number].append(owner)
        return [group for group in groups.values() if len(group) > 1]

    def alike(self) -> list[list[ImageAt]]:
        """Return the groups of images that look the same; of those with the same bytes only the first is in there."""
        groups = defaultdict(list)
        for row, look in sorted(zip(self._first.tolist(), self._looks.tolist(), strict=True)):
            groups[look].append(self.owners[row])
        return [group for group in groups.values() if len(group) > 1]

    def copies(self, split: str) -> int:
        """Return how many images have the bytes of an earlier one of the split."""
        return len(self._content[split]) - len(set(self._content[split]))

    def copies_of(self, split: str, other: str) -> int:
        """Return how many images have the bytes of one of another split."""
        known = set(self._content[other])
        return sum(number in known for number in self._content[split])

    def alikes(self, split: str) -> int:
        """Return how many images look like an earlier one of the split with other bytes."""
        return len(set(self._content[split])) - len(set(self._look[split]))

    def alikes_of(self, split: str, other: str) -> int:
        """Return how many images look like one of another split, but have no copy there."""
        contents, looks = set(self._content[other]), set(self._look[other])
        pairs = zip(self._content[split], self._look[split], strict=True)
        return sum(look in looks and content not in contents for content, look in pairs)


@dataclass
class Statistics:
    """What is in the splits of a data set.

    Attributes:
        splits: By name, the training data first.
        groups: Images that are there several times.
        tokenizer_name: What words the tokenizer has.
        has_questions: Whether the texts are questions.
    """

    splits: dict[str, SplitStatistics]
    groups: ImageGroups
    tokenizer_name: str
    has_questions: bool

    def pairs(self) -> list[tuple[str, str]]:
        """Return each two splits, the one that is compared with the other first."""
        return [(second, first) for first, second in combinations(self.splits, 2)]


def collect(
    splits: Mapping[str, datasets.Dataset],
    max_words: int = 30,
    tokenizer: Any = None,
    answer_list: Collection[tuple[str, ...]] | None = None,
) -> Statistics:
    """Read all rows and open all images.

    Args:
        splits: Rows with `image`, `image_id`, and `caption` (a list), or `question` and `answers`.
        max_words: Words of a text that are read.
        tokenizer: None makes one of the texts of the first split, as training from scratch does.
        answer_list: Spelling keys of the answers that a model chooses from.
    """
    splits = {name: rows.cast_column("image", datasets.Image(decode=False)) for name, rows in splits.items()}
    has_questions = any("question" in rows.column_names for rows in splits.values())
    name = "the given one"
    if tokenizer is None:
        first = next(iter(splits))
        tokenizer, name = build_tokenizer(_texts(splits[first])), f"one made of the words of {first}"
    found: dict[str, SplitStatistics] = {}
    lists = {} if answer_list is None else {ANSWER_LIST: answer_list}
    for split, rows in splits.items():
        first_rows, image_of_row = _images(rows)
        facts = _look_at(rows, first_rows, split)
        counts = TextCounts(max_words, has_questions)
        answers = AnswerCounts(lists) if has_questions else None
        statistics = SplitStatistics(rows, first_rows, facts, counts, Counter(), answers)
        _count_texts(statistics, split, image_of_row, tokenizer)
        _find_repeats(statistics, split, image_of_row, {name: one.texts for name, one in found.items()})
        found[split] = statistics
        if answers is not None and split == "train":
            lists = lists | {TRAINING: answers.keys()}
    return Statistics(found, ImageGroups({split: one.facts for split, one in found.items()}), name, has_questions)


def _images(rows: datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each image, and the index of each row's image."""
    ids = rows.with_format("arrow")[:]["image_id"].to_numpy() if len(rows) else np.empty(0, int)
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    rank = np.empty(len(first), int)
    rank[order := np.argsort(first)] = np.arange(len(first))
    return first[order], rank[inverse]


def _look_at(rows: datasets.Dataset, first_rows: np.ndarray, split: str) -> np.ndarray:
    """Open each image once."""
    images = rows.select_columns("image").select(first_rows)

    def opened() -> Iterator[dict[str, Any] | None]:
        for batch in images.iter(IMAGES_AT_ONCE):
            yield from batch["image"]

    facts = np.zeros(len(first_rows), FACTS)
    shown = tqdm(image_facts(opened()), f"Looking at images of {split}", len(facts), leave=False, disable=None)
    for index, one in enumerate(shown):
        facts[index] = one
    return facts


def _batches(rows: datasets.Dataset) -> Iterator[tuple[int, list[list[str]], list[list[str]]]]:
    """Yield the first row of some, their texts and their answers."""
    names = [name for name in ("caption", "question", "answers") if name in rows.column_names]
    columns = rows.select_columns(names)
    for start, batch in zip(range(0, len(rows), ROWS_AT_ONCE), columns.iter(ROWS_AT_ONCE), strict=True):
        texts = batch[names[0]]
        yield (
            start,
            [[text] if isinstance(text, str) else text or [] for text in texts],
            batch.get("answers", [[]] * len(texts)),
        )


def _texts(rows: datasets.Dataset) -> Iterator[str]:
    for _, batch, _ in _batches(rows):
        yield from (text for texts in batch for text in texts)


def _with_images(
    found: SplitStatistics, split: str, image_of_row: np.ndarray
) -> Iterator[tuple[int, list[tuple[str, Any]], list[list[str]], list[list[str]]]]:
    """Yield the first row of some, their texts with what the image of each goes by, the texts by row, the answers."""
    digests: list[Any] = [None] * len(found.facts)
    if found.texts.has_questions:  # captions are compared without their image
        digests = [tuple(one["digest"].tolist()) for one in found.facts]
        unread = set(np.flatnonzero(~found.facts["is_read"]).tolist())
        digests = [(split, index) if index in unread else digest for index, digest in enumerate(digests)]
    for start, batch, answers in _batches(found.dataset):
        images = [digests[image] for image in image_of_row[start : start + len(batch)]]
        pairs = [(text, image) for texts, image in zip(batch, images, strict=True) for text in texts]
        yield start, pairs, batch, answers


def _count_texts(found: SplitStatistics, split: str, image_of_row: np.ndarray, tokenizer: Any) -> None:
    """Count texts and answers."""
    texts_of_image = np.zeros(len(found.facts), int)
    parts = _with_images(found, split, image_of_row)
    for start, pairs, batch, answers in tqdm(parts, f"Counting words of {split}", leave=False, disable=None):
        found.texts.add([text for text, _ in pairs], [image for _, image in pairs], tokenizer)
        np.add.at(texts_of_image, image_of_row[start : start + len(batch)], [len(texts) for texts in batch])
        if found.answers is not None:
            for some in answers:
                found.answers.add(some or [])
    found.texts_of_image.update(texts_of_image.tolist())


def _find_repeats(
    found: SplitStatistics, split: str, image_of_row: np.ndarray, earlier: Mapping[str, TextCounts]
) -> None:
    """Look up the texts that are repeated most, and some that earlier splits have."""
    repeats = found.texts.repeats
    repeated = [(key, count) for key, count in repeats.most_common(EXAMPLES) if count > 1]
    shared = {
        name: list(islice((key for key in repeats if key in counts.repeats), EXAMPLES))
        for name, counts in earlier.items()
    }
    wanted, spelled = {key for key, _ in repeated}.union(*shared.values()), dict[int, str]()
    for _, pairs, _, _ in _with_images(found, split, image_of_row) if wanted else ():
        for text, image in pairs:
            if (key := found.texts.key(text, image)) in wanted:
                spelled.setdefault(key, text)
    found.repeated = [(spelled[key], count) for key, count in repeated]
    found.shared = {name: [spelled[key] for key in keys] for name, keys in shared.items() if keys}
