"""Encoders of the library's own classes with random weights, in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, BertTokenizer, ViTConfig, ViTModel

from processing import build_tokenizer

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def cased_tokenizer(texts: list[str]) -> BertTokenizer:
    """A tokenizer in the form of multilingual BERT, which keeps case and accents: words and letters."""
    words = sorted({word for text in texts for word in text.split()})
    letters = sorted({letter for word in words for letter in word})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{letter}" for letter in letters)]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return BertTokenizer(vocab=vocab, do_lower_case=False, strip_accents=False)


def save_encoders(folder: Path, texts: list[str], tokenizer: Any = None) -> dict[str, Any]:
    """Settings of a run: a ViT and a BERT with random weights in folders of the library's form."""
    torch.manual_seed(0)
    ViTModel(ViTConfig(**SIZES, image_size=32, patch_size=8)).save_pretrained(folder / "vit")
    images = {"image_mean": [0.2, 0.3, 0.4], "image_std": [0.5, 0.6, 0.7]}
    (folder / "vit" / "preprocessor_config.json").write_text(json.dumps(images))
    tokenizer = tokenizer or build_tokenizer(texts)
    bert = BertModel(BertConfig(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=64))
    bert.save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    encoders = {"vision_encoder": str(folder / "vit"), "text_encoder": str(folder / "bert")}
    return {**encoders, "model_config": {"projection_dim": 16}, "image_state_dir": str(folder / "states")}
