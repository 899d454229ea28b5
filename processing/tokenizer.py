"""Tokenizers for models from scratch and for converted ones: built from texts, or loaded from wherever they are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from .image_processing_albef import ProcessingError, one_line
from .processing_albef import clean_caption

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_tokenizer(texts: Iterable[str], min_count: int = 1) -> BertTokenizer:
    """Build a tokenizer with the words of texts; their order does not matter.

    Args:
        texts: Captions, questions or answers; they get the clean-up of captions.
        min_count: How often a word must occur to become a token of its own.

    Returns:
        An uncased BERT tokenizer: special tokens, then characters, `##` characters, and words by falling frequency and
        alphabet. Characters are those of the texts and of ASCII, so any ASCII word of up to 100 letters has ids.
    """
    backend = BertTokenizer().backend_tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        normal = backend.normalizer.normalize_str(clean_caption(text, max_words=len(text) + 1))
        counts.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal))
    ascii_characters = {chr(code).lower() for code in range(33, 127)}
    characters = sorted(ascii_characters.union(*counts))
    words = sorted((-count, word) for word, count in counts.items() if count >= min_count and len(word) > 1)
    pieces = [f"##{character}" for character in characters]
    tokens = [*SPECIAL_TOKENS, *characters, *pieces, *(word for _, word in words)]
    return BertTokenizer(vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))})


def load_tokenizer(name_or_path: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, from a file, or from the Hub.

    Args:
        name_or_path: Folder that `save_pretrained` wrote, folder with only a `vocab.txt` (one token a line, as Google
            published BERT), such a file itself, or a name on the Hub.

    Returns:
        The tokenizer.

    Raises:
        ProcessingError: There is no tokenizer, its files are damaged, the Hub does not give it, or its vocabulary lacks
            a special token of BERT.
    """
    path = Path(name_or_path)
    if path.is_file():
        return _read_vocabulary(path)
    if path.is_dir() and not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        if not (path / "vocab.txt").is_file():
            raise ProcessingError(f"The folder {str(path)!r} holds no tokenizer: put a vocab.txt into it.")
        return _read_vocabulary(path / "vocab.txt")
    if not path.is_dir() and (path.is_absolute() or str(name_or_path).startswith(".") or len(path.parts) > 2):
        raise ProcessingError(f"There is no tokenizer at {str(name_or_path)!r}: give a folder or a name on the Hub.")
    try:
        return AutoTokenizer.from_pretrained(str(name_or_path))
    except Exception as error:  # the library raises nearly anything on damaged files
        what = "cannot be loaded" if path.is_dir() else "is no folder here, and the Hub does not give it"
        raise ProcessingError(
            f"The tokenizer {str(name_or_path)!r} {what}: {one_line(error)}. "
            "Give a folder with the vocab.txt of a BERT."
        ) from error


def _read_vocabulary(path: Path) -> BertTokenizer:
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProcessingError(
            f"The vocabulary {str(path)!r} cannot be read: {one_line(error)}. Give the vocab.txt of a BERT."
        ) from error
    tokens = [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
    if missing := [token for token in SPECIAL_TOKENS if token not in tokens]:
        raise ProcessingError(f"The vocabulary {str(path)!r} lacks {', '.join(missing)}: give the one of a BERT model.")
    # transformers 5 ignores `vocab_file=` without a warning, and every word becomes [UNK].
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})
