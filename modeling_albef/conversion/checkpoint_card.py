# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The model card of a converted checkpoint: where it comes from, how to use it, what was published about it.

Published numbers are told with how surely they are known: none of them was measured with a converted model.
"""

from dataclasses import dataclass

from ..configuration_albef import AlbefConfig
from .checkpoint_names import LAVIS, TORCHMULTIMODAL, ConvertedCheckpoint

_RECALLED = "the paper, as recalled; not checked against its text"
_CONFIRMED = "the paper, as recalled; LAVIS' dataset cards have the same"
_DOCS = "LAVIS, `docs/benchmark.rst`"
_PULL = "facebookresearch/multimodal, pull request 377, after fine-tuning from this file"
_14M = "The file does not say which pre-training it had; the numbers are those of the paper's 14-million-image model."


def _users(*threads: int) -> str:
    return "measured by users: salesforce/ALBEF, issue " + ", ".join(f"#{thread}" for thread in threads)


# File -> what it is; rows of what was measured, per cent (recalls are R@1 / R@5 / R@10), and how it is known.
_PUBLISHED: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "ALBEF.pth": (
        "Pre-trained on 14 million images, not fine-tuned.",
        [
            ("Flickr30k zero-shot at 384 pixels, text retrieval", "88.5 / 98.5 / 99.2", _users(3, 29)),
            ("Flickr30k zero-shot at 384 pixels, image retrieval", "75.92 / 93.34 / 96.66", _users(3, 29)),
        ],
    ),
    "ALBEF_4M.pth": (
        "Pre-trained on 4 million images, not fine-tuned.",
        [
            ("Flickr30k zero-shot at 384 pixels, text retrieval", "84.9 / 97.2 / 99.0", _users(74)),
            ("Flickr30k zero-shot at 384 pixels, image retrieval", "68.18 / 88.58 / 93.02", _users(74)),
            ("COCO zero-shot, text retrieval", "68.7 / 89.5 / 94.7", "later papers, as recalled"),
            ("COCO zero-shot, image retrieval", "50.1 / 76.4 / 84.5", "later papers, as recalled"),
        ],
    ),
    "mscoco.pth": (
        f"Fine-tuned for retrieval on COCO. {_14M}",
        [
            ("COCO 5k test, text retrieval", "77.6 / 94.3 / 97.2", _CONFIRMED),
            ("COCO 5k test, image retrieval", "60.7 / 84.3 / 90.5", _CONFIRMED),
            ("Flickr30k zero-shot, text retrieval", "94.1 / 99.5 / 99.7", _RECALLED),
            ("Flickr30k zero-shot, image retrieval", "82.8 / 96.3 / 98.1", _RECALLED),
        ],
    ),
    "flickr30k.pth": (
        f"Fine-tuned for retrieval on Flickr30k. {_14M}",
        [
            ("Flickr30k test, text retrieval", "95.9 / 99.8 / 100.0", _CONFIRMED),
            ("Flickr30k test, image retrieval", "85.6 / 97.5 / 98.9", _CONFIRMED),
        ],
    ),
    "vqa.pth": (
        f"Fine-tuned for VQA v2. {_14M}",
        [
            ("VQA v2 test-dev", "75.84", f"{_CONFIRMED}, and so has a public leaderboard"),
            ("VQA v2 test-std", "76.04", f"{_CONFIRMED}, and so has a public leaderboard"),
        ],
    ),
    "refcoco.pth": (
        "Fine-tuned on RefCOCO+ for grounding without boxes; here it is a retrieval model.",
        [
            ("RefCOCO+ val / testA / testB, by the matching head", "58.46 / 65.89 / 46.25", _RECALLED),
            ("RefCOCO+ val / testA / testB, by the matching head", "58.3 / 65.88 / 46.47", _users(84)),
        ],
    ),
    "pretrained_retrieval_checkpoint.pt": (
        "Pre-trained, not fine-tuned; whether on 4 or 14 million images is not stated.",
        [
            ("COCO 5k test, text retrieval", "74.62 / 93.04 / 96.76", _PULL),
            ("COCO 5k test, image retrieval", "59.41 / 83.28 / 89.96", _PULL),
        ],
    ),
    "pretrained_vqa_checkpoint.pt": (
        "Pre-trained, not fine-tuned; whether on 4 or 14 million images is not stated.",
        [("VQA v2 test-dev", "74.61", _PULL), ("VQA v2 test-std", "75.01", _PULL)],
    ),
    "albef_coco_retrieval_lavis.pt": (
        "Fine-tuned for retrieval on COCO.",
        [
            ("COCO 5k test, text retrieval", "77.6 / 94.1 / 97.2", _DOCS),
            ("COCO 5k test, image retrieval", "61.0 / 84.5 / 90.7", _DOCS),
        ],
    ),
    "albef_flickr_retrieval_lavis.pt": (
        "Fine-tuned for retrieval on Flickr30k. LAVIS' documentation repeats COCO's numbers there, so none are given.",
        [],
    ),
    "albef_vqav2_lavis.pt": (
        "Fine-tuned for VQA v2.",
        [("VQA v2 test-dev", "76.35", _DOCS), ("VQA v2 test-std", "76.54", _DOCS)],
    ),
}

_LAVIS = """
## Texts

LAVIS drops the token-type embeddings. Here they are zeros, so the states of a text are those that LAVIS computes from
the same token ids. LAVIS also ends its texts in `[SEP]`, which ALBEF does not; the processor of this folder does as
LAVIS (`end_texts` in `processor_config.json`). Its scores are others than here: in retrieval it adds the similarity to
the matching logit, in question answering it counts the first token once (`count_first_token_twice=False`) and smooths.
"""

_UNTIED = """
The output map of the answer decoder is a tensor of its own, as in torchmultimodal, not the word embeddings.
"""

_PRETRAINED = """
It scores images and texts as it is. Loaded as `AlbefForImageTextRetrieval` it leaves its masked-language head out;
loaded as `AlbefForQuestionAnswering` its answer decoder starts from its fusion layers and that head.
"""


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
    """Writes the card of a converted checkpoint.

    Args:
        facts: What is known of the conversion.
        checkpoint: The parts of the file.
        config: Sizes of the model.

    Returns:
        Markdown with the Hub's metadata in front.
    """
    answers, pretrained = config.decoder_config is not None, "mlm_head.dense.weight" in checkpoint.student
    task = "visual-question-answering" if answers else "zero-shot-image-classification"
    header = f"---\nlibrary_name: transformers\nlicense: bsd-3-clause\npipeline_tag: {task}\ntags:\n- albef\n---\n"
    title = f"ALBEF for {'question answering' if answers else 'image-text retrieval'}"
    title = "ALBEF, pre-trained" if pretrained else title
    digest = f" (SHA-256 `{facts.sha256}`)" if facts.sha256 else ""
    side = config.vision_config.image_size
    parts = [
        f"{header}\n# {title}\n",
        f"Converted from `{facts.file_name}`{digest}, whose names are those of {checkpoint.source}. ALBEF is by Li et "
        "al. (NeurIPS 2021, [arXiv 2107.07651](https://arxiv.org/abs/2107.07651)); the weights are of those who "
        f"trained that file. The model takes pictures of {side} x {side} pixels; `image_size=` loads it for others.\n",
        _use(facts),
        _published(facts.file_name),
    ]
    if pretrained:
        parts.append(_PRETRAINED)
    if checkpoint.source == LAVIS:
        parts.append(_LAVIS)
    if answers and not config.decoder_config.tie_word_embeddings:
        parts.append(_UNTIED)
    if checkpoint.source == TORCHMULTIMODAL:
        parts.append("\ntorchmultimodal fine-tunes without dropout; this configuration has ALBEF's, 0.1.\n")
    parts.append(_files(checkpoint))
    if facts.notes:
        parts.append("\n## Left out or started at random\n\n" + "".join(f"- {note}\n" for note in facts.notes))
    return "".join(parts)


def _use(facts: CardFacts) -> str:
    return (
        f"\n```python\nfrom modeling_albef import {facts.model_class}\nfrom processing import AlbefProcessor\n\n"
        f'model = {facts.model_class}.from_pretrained("{facts.repository}")\n'
        f'processor = AlbefProcessor.from_pretrained("{facts.repository}")\n```\n'
    )


def _published(file_name: str) -> str:
    heading = "\n## Published results\n\n"
    if file_name not in _PUBLISHED:
        return f"{heading}None are known for a file called `{file_name}`.\n"
    what, rows = _PUBLISHED[file_name]
    table = "".join(f"| {name} | {value} | {known} |\n" for name, value, known in rows)
    if table:
        table = f"\n| | % | known from |\n|---|---|---|\n{table}"
    return (
        f"{heading}{what} By the file's name these are its results; none was measured with this model. Recalls are "
        f"R@1 / R@5 / R@10.\n{table}"
    )


def _files(checkpoint: ConvertedCheckpoint) -> str:
    if not (checkpoint.teacher or checkpoint.queue):
        return "\nThe file has no momentum weights: fine-tuning starts its teacher as a copy of the model.\n"
    parts = {"the momentum model": checkpoint.teacher, "the feature queue": checkpoint.queue}
    held = [name for name, part in parts.items() if part]
    return f"\n`teacher/` holds {' and '.join(held)} of the file; fine-tuning goes on from there.\n"
