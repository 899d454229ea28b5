"""Masked words: how many of what, whole words, and that nothing but the row decides."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import WORDS
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from processing import AlbefImageProcessor, AlbefProcessor, PreTrainingCollator, ProcessingError, build_tokenizer

IMAGE = Image.new("RGB", (32, 32))


def make_processor(texts: list[str] | None = None) -> AlbefProcessor:
    return AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(texts or WORDS))


def masked(collator: PreTrainingCollator, texts: list[str], first: int = 0) -> dict[str, torch.Tensor]:
    rows = [{"image": IMAGE, "caption": text, "image_id": n, "draw_key": (n + first,)} for n, text in enumerate(texts)]
    return collator(rows)


def test_shares_of_masked_kept_and_random_tokens() -> None:
    """0.15 of 40,000 tokens, of these 0.8, 0.1 and 0.1, each within five standard deviations."""
    collator = PreTrainingCollator(make_processor(), max_length=None)
    long = " ".join(["a blue circle and a red star"] * 5)
    counts: Counter[str] = Counter()
    for start in range(0, 1200, 60):
        batch = masked(collator, [long] * 60, start)
        ids, changed, labels = (batch[name] for name in ("input_ids", "masked_input_ids", "mlm_labels"))
        chosen = labels != -100
        assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(changed[~chosen], ids[~chosen])
        counts["tokens"] += int(batch["attention_mask"].sum()) - 60
        counts["chosen"] += int(chosen.sum())
        counts["mask"] += int((changed == 4)[chosen].sum())
        counts["same"] += int((changed == ids)[chosen].sum())
    vocabulary, chosen_count = len(collator.processor.tokenizer), counts["chosen"]
    assert chosen_count == pytest.approx(0.15 * counts["tokens"], abs=5 * (0.15 * 0.85 * counts["tokens"]) ** 0.5)
    for name, share in (("mask", 0.8 + 0.1 / vocabulary), ("same", 0.1 + 0.1 / vocabulary)):
        assert counts[name] == pytest.approx(share * chosen_count, abs=5 * (share * (1 - share) * chosen_count) ** 0.5)


@pytest.mark.parametrize("whole", [False, True])
def test_special_tokens_and_padding_are_never_masked(whole: bool) -> None:
    collator = PreTrainingCollator(make_processor(), mlm_probability=1.0, whole_word_masking=whole)
    texts = ["a blue circle", "a blue \u4e2d star", "a green star above it"]
    batch = masked(collator, texts)
    special = torch.isin(batch["input_ids"], torch.tensor(collator.processor.tokenizer.all_special_ids))
    assert special.sum() > 3 + int((batch["attention_mask"] == 0).sum())  # of unknown words, too
    assert torch.equal(batch["mlm_labels"] == -100, special)
    assert torch.equal(batch["masked_input_ids"][special], batch["input_ids"][special])


def test_whole_words_are_masked_together() -> None:
    collator = PreTrainingCollator(make_processor(), mlm_probability=0.4, whole_word_masking=True, max_length=None)
    tokenizer = collator.processor.tokenizer
    text = "redblue starcircle greenred blue starblue"
    pieces = tokenizer.tokenize(text)
    assert sum(piece.startswith("##") for piece in pieces) >= 4, pieces
    words = np.cumsum([not piece.startswith("##") for piece in pieces])
    seen = set()
    for start in range(0, 300, 30):
        for row in masked(collator, [text] * 30, start)["mlm_labels"][:, 1:]:
            chosen = {word for word, label in zip(words, row.tolist(), strict=True) if label != -100}
            whole = {word for word in chosen if all((row != -100).numpy()[words == word])}
            assert whole == chosen
            seen |= chosen
    assert seen == set(words)


def test_words_of_vocabularies_that_mark_their_beginnings() -> None:
    """Of a byte-level vocabulary the marked tokens begin a word; the first word of a text has no mark."""
    tokens = ["<s>", "<pad>", "<mask>", "a", "\u0120big", "ger", "\u0120star", "s"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token="<mask>", cls_token="<s>", pad_token="<pad>"
    )
    processor: Any = SimpleNamespace(tokenizer=tokenizer)
    collator = PreTrainingCollator(processor, mlm_probability=0.5, whole_word_masking=True)
    patterns = set()
    for seed in range(60):
        _, chosen = collator._mask(np.array([0, 3, 4, 5, 6, 7]), np.random.default_rng(seed))
        patterns.add(tuple(chosen.tolist()))
    words = {(False, a, b, b, c, c) for a in (False, True) for b in (False, True) for c in (False, True)}
    assert patterns == words


def test_the_seed_and_the_row_decide() -> None:
    texts, processor = ["a green star above it"] * 8, make_processor()
    one, same, other = (PreTrainingCollator(processor, mlm_probability=0.5, seed=seed) for seed in (1, 1, 2))
    first = masked(one, texts)["mlm_labels"]
    torch.manual_seed(9)
    np.random.seed(9)
    assert torch.equal(masked(same, texts)["mlm_labels"], first)
    assert not torch.equal(masked(other, texts)["mlm_labels"], first)
    assert len({tuple(row) for row in first.tolist()}) > 3
    assert torch.equal(masked(one, texts[:3], 5)["mlm_labels"], first[5:])


def test_rows_without_a_key_follow_the_global_generator() -> None:
    collator = PreTrainingCollator(make_processor(), mlm_probability=0.5)
    rows = [{"image": IMAGE, "caption": "a green star above it", "image_id": n} for n in range(4)]
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(collator(rows)["mlm_labels"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_tokenizer_without_a_mask_token() -> None:
    processor = make_processor()
    processor.tokenizer.mask_token = None
    with pytest.raises(ProcessingError, match="has no mask token: give one"):
        PreTrainingCollator(processor)
