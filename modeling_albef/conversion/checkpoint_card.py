# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The model card of a converted checkpoint: where it comes from, how to use it, what was published about it."""

from pathlib import Path
from typing import Any

import jinja2
import yaml

from ..configuration_albef import AlbefConfig
from ..model_card_albef import code, language_of, plain, python_string, usage_example
from .checkpoint_names import ConvertedCheckpoint

FOLDER = Path(__file__).parent


def write_card(checkpoint: ConvertedCheckpoint, config: AlbefConfig, **facts: Any) -> str:
    """Return the card, Markdown with the Hub's metadata in front.

    `facts` are `file_name` and `sha256` (empty for a folder) of the checkpoint, `model_class`, `repository` (folder or
    Hub name that the model is loaded by), `has_code` (whether the Python files are beside it) and `notes` (what was
    left out or started at random).
    """
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"code": code, "plain": plain, "python_string": python_string}
    template = environment.from_string((FOLDER / "card.md.j2").read_text(encoding="utf-8"))
    published = yaml.safe_load((FOLDER / "published.yaml").read_text(encoding="utf-8"))
    decoder = config.decoder_config
    parts = {"the momentum model": checkpoint.teacher, "the feature queue": checkpoint.queue}
    card = template.render(
        **facts,
        language=language_of(config),
        usage=usage_example(config, facts["model_class"], str(facts["repository"]), facts["has_code"]),
        source=checkpoint.source,
        side=config.vision_config.image_size,
        answers=decoder is not None,
        images=config.text_config.images_per_text,
        labels="classifier.0.weight" in checkpoint.student,
        untied=decoder is not None and not decoder.tie_word_embeddings,
        pretrained="mlm_head.dense.weight" in checkpoint.student,
        published=published.get(facts["file_name"]),
        held=[name for name, part in parts.items() if part],
    )
    return card.rstrip() + "\n"
