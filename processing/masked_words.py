"""Batches for pre-training: what retrieval trains on, and the same texts with masked words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .collators import RetrievalCollator
from .image_processing_albef import ProcessingError

DRAW_KEY = "draw_key"  # of a row: whole numbers >= 0 that its masks depend on, beside the seed
MASKED, RANDOM = 0.8, 0.1  # shares of the chosen tokens that become [MASK], and any token; the others stay
WORD_STARTS = ("\u0120", "\u2581")  # what vocabularies of other forms than BERT's begin a word with


@dataclass
class PreTrainingCollator(RetrievalCollator):
    """Batches for pre-training; B rows, the longest of them L tokens long. It has the attributes of its base, too.

    15 % of the tokens are chosen, never special ones nor padding: of these 80 % become `[MASK]`, 10 % any token of the
    vocabulary, and 10 % stay (section 3.2 of the paper). The draws of a row depend on `seed` and its `draw_key` alone.

    Attributes:
        max_length: Tokens of a caption that are read, `[CLS]` counted; published: 25.
        mlm_probability: Share of the tokens, or of the words, that are chosen, 0..1.
        whole_word_masking: Whether all tokens of a word are chosen together.
        seed: Of the draws, at least 0.
    """

    max_length: int | None = 25
    mlm_probability: float = 0.15
    whole_word_masking: bool = False
    seed: int = 0
    _continues: np.ndarray | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.processor.tokenizer.mask_token_id is None:
            raise ProcessingError("The tokenizer has no mask token: give one that has, such as that of a BERT.")

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch of rows.

        Args:
            rows: As those of `RetrievalCollator`, each with a `draw_key`, as the trainer gives them; for rows without
                one PyTorch's random numbers count.

        Returns:
            What `RetrievalCollator` does, `masked_input_ids` (B, L), and `mlm_labels` (B, L): the token at each chosen
            position, -100 elsewhere.

        Raises:
            KeyError: A row lacks image or caption.
            ProcessingError: A caption is no string, or an `image_id` is not hashable.
            UnreadableImageError: An image cannot be read.
        """
        batch = super().__call__(rows)
        masked, labels = batch["input_ids"].clone(), torch.full_like(batch["input_ids"], -100)
        for number, (row, tokens) in enumerate(zip(rows, batch["attention_mask"].bool(), strict=True)):
            key = row[DRAW_KEY] if DRAW_KEY in row else torch.randint(2**32, (2,)).tolist()
            rng = np.random.default_rng((self.seed, *key))
            ids = batch["input_ids"][number, tokens]
            changed, chosen = self._mask(ids.numpy(), rng)
            masked[number, tokens] = torch.from_numpy(changed)
            labels[number, tokens] = torch.where(torch.from_numpy(chosen), ids, -100)
        return {**batch, "masked_input_ids": masked, "mlm_labels": labels}

    def _mask(self, ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens (n,) of a text as they are masked, and which of them are chosen."""
        tokenizer, (first, second) = self.processor.tokenizer, rng.random((2, len(ids)))
        any_token = rng.integers(len(tokenizer), size=len(ids))
        is_special = np.isin(ids, tokenizer.all_special_ids)
        if self.whole_word_masking:  # the draw of a word's first token is that of all its tokens
            starts = np.where(self._continuing_tokens()[ids] & ~is_special, 0, np.arange(len(ids)))
            first = first[np.maximum.accumulate(starts)]
        chosen = (first < self.mlm_probability) & ~is_special
        changed = np.where(chosen & (second < MASKED), tokenizer.mask_token_id, ids)
        return np.where(chosen & (second >= 1 - RANDOM), any_token, changed), chosen

    def _continuing_tokens(self) -> np.ndarray:
        """Return which tokens of the vocabulary (V,) go on with the word of the token before."""
        if self._continues is None:
            tokenizer = self.processor.tokenizer
            tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
            if any(token.startswith(WORD_STARTS) for token in tokens):
                self._continues = np.array([not token.startswith(WORD_STARTS) for token in tokens])
            else:
                self._continues = np.array([token.startswith("##") for token in tokens])
        return self._continues
