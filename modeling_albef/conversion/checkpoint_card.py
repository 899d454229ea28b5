# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The model card of a converted checkpoint: where it comes from, how to use it, what was published about it."""

from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2
import yaml

from ..configuration_albef import AlbefConfig
from .checkpoint_names import ConvertedCheckpoint

FOLDER = Path(__file__).parent


@dataclass
class CardFacts:
    """What a card says.

    Attributes:
        file_name: Name of the checkpoint's file.
        sha256: Of that file, hexadecimal; empty for a folder.
        model_class: Name of the class.
        repository: Where the model can be loaded from: folder or Hub name.
        notes: What was left out or started at random.
    """

    file_name: str
    sha256: str
    model_class: str
    repository: str
    notes: list[str]


def write_card(facts: CardFacts, checkpoint: ConvertedCheckpoint, config: AlbefConfig) -> str:
    """Return the card of a converted checkpoint.

    Args:
        facts: What is known of the conversion.
        checkpoint: The parts of the file.
        config: Sizes of the model.

    Returns:
        Markdown with the Hub's metadata in front.
    """
    template = jinja2.Template(
        (FOLDER / "card.md.j2").read_text(encoding="utf-8"), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    published = yaml.safe_load((FOLDER / "published.yaml").read_text(encoding="utf-8"))
    decoder = config.decoder_config
    parts = {"the momentum model": checkpoint.teacher, "the feature queue": checkpoint.queue}
    card = template.render(
        **asdict(facts),
        source=checkpoint.source,
        side=config.vision_config.image_size,
        answers=decoder is not None,
        untied=decoder is not None and not decoder.tie_word_embeddings,
        pretrained="mlm_head.dense.weight" in checkpoint.student,
        published=published.get(facts.file_name),
        held=[name for name, part in parts.items() if part],
    )
    return card.rstrip() + "\n"
