# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Model cards: the Hub's metadata, how a model is used, what it was measured at, and how it was trained.

Names of data sets, files, models and runs are a user's: each goes through `code`, `plain` or `python_string` into the
text, and as one line into the metadata.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

LIBRARIES = ("transformers", "torch", "datasets", "tokenizers", "accelerate", "peft")  # whose versions a card has
METRICS = {  # of the evaluators: the metric's name on the Hub, and in words
    **{
        f"{side}_r{k}": ("recall", f"{word} R@{k}")
        for side, word in (("txt", "Text"), ("img", "Image"))
        for k in (1, 5, 10)
    },
    "txt_r_mean": ("recall", "Text mean recall"),
    "img_r_mean": ("recall", "Image mean recall"),
    "r_mean": ("recall", "Mean recall"),
    "accuracy": ("accuracy", "Accuracy"),
    "f1_macro": ("f1", "F1, mean of the labels"),
    "f1_micro": ("f1", "F1, all labels together"),
    "auroc": ("roc_auc", "AUROC"),
    "pearson": ("pearsonr", "Pearson correlation"),
    "mse": ("mse", "Mean squared error"),
    "mae": ("mae", "Mean absolute error"),
    "mlm_accuracy": ("accuracy", "Accuracy of masked words"),
    "vqa_accuracy": ("accuracy", "VQA accuracy"),
    "vqa_accuracy_yes_no": ("accuracy", "VQA accuracy (yes/no)"),
    "vqa_accuracy_number": ("accuracy", "VQA accuracy (number)"),
    "vqa_accuracy_other": ("accuracy", "VQA accuracy (other)"),
}


class _Task(NamedTuple):
    """What a card says of a task: the Hub's name, what the model does, Python that uses it, what it cannot do."""

    pipeline_tag: str
    about: str
    usage: str
    limits: str


_RETRIEVAL = _Task(
    "zero-shot-image-classification",
    "finds the images that a sentence describes and the sentences that describe an image",
    """\
from transformers import AutoModelForZeroShotImageClassification, AutoProcessor

model = AutoModelForZeroShotImageClassification.from_pretrained({name}, trust_remote_code=True)
processor = AutoProcessor.from_pretrained({name}, trust_remote_code=True)
captions = ["a red circle", "a blue square"]
inputs = processor(images="photo.jpg", text=captions, padding=True, return_tensors="pt")
print(model(**inputs).itm_logits.softmax(-1)[0, :, 1])  # probability of a match, one a caption
""",
    "The matching probabilities of different images are no measure of how common a thing is, and captions that "
    "differ in number, order or negation are easily confused.",
)
_ANSWERS = _Task(
    "visual-question-answering",
    "answers questions about images in a few words",
    """\
from transformers import pipeline

answer = pipeline("albef-vqa", model={name}, trust_remote_code=True)
print(answer(image="photo.jpg", question="what color is the shape?", top_k=3))
""",
    "It always answers, even where the image does not show what was asked, and prefers the frequent training answers.",
)
_LABELS = _Task(
    "text-classification",
    "gives an image with a text a label",
    """\
from transformers import pipeline

classify = pipeline("image-text-classification", model={name}, trust_remote_code=True)
print(classify(image="photo.jpg", text="there is a red circle"))
""",
    "It always gives a label, even where image and text are of another kind than the training data. Texts alone give "
    "some labels away: compare its accuracy with that of a guesser that sees no image.",
)
_REASONING = _Task(
    "text-classification",
    "says of a sentence and two images whether the sentence is true of them",
    """\
from transformers import AutoModelForSequenceClassification, AutoProcessor

model = AutoModelForSequenceClassification.from_pretrained({name}, trust_remote_code=True)
processor = AutoProcessor.from_pretrained({name}, trust_remote_code=True)
text = "there are more circles in the left image"
inputs = processor(images=["left.jpg", "right.jpg"], text=text, return_tensors="pt")
print(model.config.id2label[model(**inputs).logits.argmax(-1).item()])
""",
    "It always gives a label, even where the images have nothing to do with the sentence. Sentences alone give some "
    "labels away: compare its accuracy with that of a guesser that sees no image.",
)
_ASSIGNMENT = _Task(
    "text-classification",
    "says which of two images a sentence describes, or neither, as pre-training for visual reasoning",
    """\
from transformers import AutoModelForPreTraining, AutoProcessor

model = AutoModelForPreTraining.from_pretrained({name}, trust_remote_code=True)
processor = AutoProcessor.from_pretrained({name}, trust_remote_code=True)
inputs = processor(images=["left.jpg", "right.jpg"], text="a red circle", return_tensors="pt")
pair = inputs["input_ids"].new_tensor([[0, 1]])
print(model(**inputs, image_index=pair).logits.softmax(-1))  # the first, the second, neither
""",
    "It is made to be fine-tuned.",
)
_FEATURES = _Task(
    "feature-extraction",
    "maps images and sentences into one space, in which those that belong together are close",
    """\
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained({name}, trust_remote_code=True)
processor = AutoProcessor.from_pretrained({name}, trust_remote_code=True)
inputs = processor(images="photo.jpg", text=["a red circle", "a blue square"], padding=True, return_tensors="pt")
print(model(**inputs).logits_per_image)  # cosine similarity / temperature
""",
    "Similarities are a quick first stage; the matching head of the retrieval model ranks better.",
)
_TASKS = {
    "AlbefForImageTextRetrieval": _RETRIEVAL,
    "AlbefForPreTraining": _RETRIEVAL,
    "AlbefForQuestionAnswering": _ANSWERS,
    "AlbefForVisualReasoning": _REASONING,
    "AlbefForTextAssignment": _ASSIGNMENT,
    "AlbefForImageTextClassification": _LABELS,
}

_CARD = """\
---
{metadata}
---

# {title}

An [ALBEF](https://arxiv.org/abs/2107.07651) ({architecture}) that {about}.

## How to use

{needs} Replace the images and texts by your own.

```python
{usage}```
{labels}{order}{results}{training}
## Limits

{limits} The model knows the kind of images and sentences it was trained on, with their biases; on others it is worse.
It reads {language}. The processor makes texts lower case, removes punctuation and cuts long texts.
It resizes each image to {side} x {side} pixels, whatever its shape.

## Library versions

{versions}
"""


_WITH_CODE = """\
This needs `transformers`, `torch` and `pillow`. With `trust_remote_code=True` it runs the Python files of this
repository: read them first, and pin a `revision`. Where the package of these models is installed, write
`import modeling_albef, processing` instead and leave the flag out."""
_WITHOUT_CODE = """\
This needs the package of these models. After `pip install .` of it, write `import albef` in place of `modeling_albef`
and `processing`."""
_ENGLISH_VOCABULARY = 30522  # tokens of bert-base-uncased, which the published models have


@dataclass
class CardFacts:
    """What a card says of how a model was made.

    Attributes:
        datasets: Names of the training and evaluation data, without paths.
        dataset_ids: Their names on the Hub; a name of the form USER/NAME is one, too.
        dataset_args: Which configuration or part of them, in words.
        results: Metrics by the split that they are of.
        arguments: Those of the training.
        base_model: What training started from, USER/NAME of the Hub, or a list of them; other names stay out of the
            metadata.
        license: Its identifier on the Hub.
        tags: Beside the card's own.
        language: Code or codes, or "multilingual"; None: English where the vocabulary has the size of the published
            models', otherwise not said.
        task: The Hub's name of the task, where it is not the one of the model's class.
        has_code: Whether the Python files are beside the model. A name that is none on the Hub is a folder's, which
            the card uses by the installed package.
    """

    datasets: tuple[str, ...] = ()
    dataset_ids: tuple[str, ...] = ()
    dataset_args: str | None = None
    results: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    base_model: str | list[str] | None = None
    license: str | None = None
    tags: tuple[str, ...] = ()
    language: str | list[str] | None = None
    task: str | None = None
    has_code: bool = True


def make_model_card(config: Any, architecture: str, name: str, facts: CardFacts | None = None) -> ModelCard:
    """Return the card of a model loaded by `name`; its metadata have the task, the data sets and the `model-index`."""
    facts, task = facts or CardFacts(), _TASKS.get(architecture, _FEATURES)
    title = one_line(name).rstrip("/").split("/")[-1] or architecture
    language = facts.language or language_of(config)
    is_on_hub = name.count("/") == 1 and _is_repo_id(name)
    has_code = facts.has_code and is_on_hub
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=facts.task or task.pipeline_tag,
        tags=["albef", "vision-language"],
        model_name=title,
        datasets=_dataset_ids(facts) or None,
        eval_results=_eval_results(facts, facts.task or task.pipeline_tag) or None,
        base_model=_base_models(facts),
        license=None if facts.license is None else one_line(facts.license).lower().replace(" ", "-"),
        language=language,
    )
    add_tags(data, facts.tags)
    text = _CARD.format(
        metadata=data.to_yaml(),
        title=plain(title),
        architecture=code(architecture),
        about=task.about,
        needs=_WITH_CODE if has_code else _WITHOUT_CODE + ("" if is_on_hub else _where(name)),
        usage=usage_example(config, architecture, name, has_code),
        labels=_labels(config, task),
        order=_order_of_candidates(config, architecture),
        results=_result_table(facts),
        training=_training(facts),
        limits=task.limits,
        language=_languages(language),
        side=config.vision_config.image_size,
        versions="\n".join(f"- {library} {version}" for library, version in _versions()),
    )
    return ModelCard(text)


def language_of(config: Any) -> str | None:
    """Return "en" where the vocabulary has the size of the published models', else None: it is not known."""
    return "en" if config.text_config.vocab_size == _ENGLISH_VOCABULARY else None


def usage_example(config: Any, architecture: str, name: str, has_code: bool) -> str:
    """Return Python that uses a model by its name, with its code from the Hub or with the installed package.

    It scores by similarity where the matching head is of no use, and gives candidate answers to a model without.
    """
    return _usage(config, architecture, has_code).replace("{name}", python_string(name))


def _usage(config: Any, architecture: str, has_code: bool) -> str:
    usage = _TASKS.get(architecture, _FEATURES).usage
    decoder = getattr(config, "decoder_config", None)
    if architecture == "AlbefForQuestionAnswering" and not getattr(decoder, "answer_list", None):
        usage = usage.replace("top_k=3", 'answer_list=["red", "blue", "green"]')
    if not has_code:
        usage = usage.replace(", trust_remote_code=True", "")
        usage = usage.replace("\n\n", "\n\nimport modeling_albef\nimport processing\n\n", 1)
    if architecture != "AlbefForImageTextRetrieval" or config.rerank_weight != 0:
        return usage
    *lines, _ = usage.splitlines(keepends=True)
    score = "outputs = model(**inputs, use_itm_head=False)\nprint(outputs.logits_per_image)"
    return "".join([*lines, f"{score}  # cosine similarity / temperature, one a caption\n"])


def _where(folder: str) -> str:
    """Return where Python finds a folder that is given by its name alone."""
    return f" Run it where the folder {code(folder)} is, or give the path of the folder."


def _languages(codes: str | list[str] | None) -> str:
    """Return in words which texts a model reads."""
    names = [codes] if isinstance(codes, str) else codes or []
    if names == ["en"]:
        return "English text"
    if "multilingual" in names:
        return "text in the languages of its tokenizer and its training data"
    if names:
        return f"text in the language{'s' * (len(names) > 1)} {' and '.join(map(code, names))}"
    return "text in the language of its training data"


def _labels(config: Any, task: _Task) -> str:
    """Return the labels that a classifier chooses from, the first 20 of many."""
    names = list(map(code, config.id2label.values()))
    if task not in (_LABELS, _REASONING) or getattr(config, "problem_type", None) == "regression":
        return ""
    more = f" and {len(names) - 20} more, see `config.json`" if len(names) > 20 else ""
    return f"\nLabels: {', '.join(names[:20])}{more}.\n"


def _order_of_candidates(config: Any, architecture: str) -> str:
    """Return by what a search with a retrieval model orders its candidates, see `AlbefConfig.rerank_weight`."""
    if architecture != "AlbefForImageTextRetrieval":
        return ""
    weight = config.rerank_weight
    words = "by the logit of the matching head, as published"
    if weight is not None:
        words = f"by the sum of similarity / temperature and {weight:g} times the logit of the matching head"
    if weight == 0:
        words = "by similarity alone: the matching head was not trained, or was of no use on the validation data"
    return f"\nA search orders the most similar candidates {words}.\n"


def _base_models(facts: CardFacts) -> str | list[str] | None:
    """Return the names on the Hub of what training started from, alone where it is one."""
    given = [facts.base_model] if isinstance(facts.base_model, str) else facts.base_model or []
    names = [name for name in given if _is_repo_id(name)]
    return names[0] if len(names) == 1 else names or None


def origin(config: Any, own: str | None = None) -> str | None:
    """Return the name on the Hub that a model was loaded by; None where it was a folder, or its `own` name."""
    name = getattr(config, "_name_or_path", "")
    return name if name.count("/") == 1 and name != own and _is_repo_id(name) else None


def add_tags(data: Any, tags: Iterable[str]) -> None:
    """Add to the tags of a card's metadata those that are not there yet."""
    found = data.tags if isinstance(data.tags, list) else [] if data.tags is None else [data.tags]
    data.tags = list(dict.fromkeys([*found, *filter(None, map(one_line, tags))]))


def one_line(value: Any) -> str:
    """Return a value as one line of text that every encoding of a card can hold."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return " ".join(text.split())


def plain(value: Any) -> str:
    """Return a value as Markdown that shows its characters as they are, in a table too."""
    marks = r"[\\`*\[\]<>#|~&$]|(?<![^\W_])_|_(?![^\W_])"  # not an underscore within a word
    return re.sub(marks, r"\\\g<0>", one_line(value))


def code(value: Any) -> str:
    """Return a value as a code span of Markdown; its fence is longer than every run of backticks in it."""
    text = one_line(value)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{space}{text}{space}{fence}"


def python_string(value: str) -> str:
    """Return a string as Python writes it, in double quotes where it has none."""
    text = repr(value)
    return f'"{text[1:-1]}"' if text.startswith("'") and '"' not in text else text


def _metric(name: str) -> tuple[str, str]:
    """Return a metric's name on the Hub, where it has one, and in words."""
    return METRICS.get(name, (one_line(name), one_line(name).replace("_", " ")))


def _is_repo_id(name: str) -> bool:
    """Return whether a name can be one on the Hub, and is no path here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def _dataset_ids(facts: CardFacts) -> list[str]:
    named = [name for name in facts.datasets if name.count("/") == 1]
    return [name for name in dict.fromkeys([*facts.dataset_ids, *named]) if _is_repo_id(name)]


def _eval_results(facts: CardFacts, pipeline_tag: str) -> list[EvalResult]:
    """Return the results as the Hub reads them, which knows no values that are not finite."""
    named = one_line(", ".join(facts.datasets)) or "its data set"
    on_hub = _dataset_ids(facts)
    slug = re.sub(r"[^a-z0-9]+", "-", named.lower()).strip("-") or "data"
    return [
        EvalResult(
            task_type=pipeline_tag,
            dataset_type=on_hub[0] if len(on_hub) == 1 else slug,
            dataset_name=named,
            dataset_args={"args": one_line(facts.dataset_args)} if facts.dataset_args else None,
            dataset_split=one_line(split),
            metric_type=_metric(metric)[0],
            metric_name=_metric(metric)[1],
            metric_value=round(float(value), 4),
        )
        for split, found in facts.results.items()
        for metric, value in found.items()
        if math.isfinite(value)
    ]


def _result_table(facts: CardFacts) -> str:
    rows = [
        f"| {plain(split)} | {plain(_metric(metric)[1])} | {float(value):.2f} |\n"
        for split, found in facts.results.items()
        for metric, value in found.items()
    ]
    where = plain(", ".join(facts.datasets)) or "its data set"
    has_errors = any(metric in ("mse", "mae") for found in facts.results.values() for metric in found)
    unit = "in per cent, errors in units of the labels" if has_errors else "in per cent"
    head = f"\n## Results\n\nOn {where}, {unit}:\n\n| split | metric | value |\n|---|---|---|\n"
    return head + "".join(rows) if rows else ""


def _training(facts: CardFacts) -> str:
    given = [facts.base_model] if isinstance(facts.base_model, str) else facts.base_model or []
    start = f" from {' and '.join(map(code, given))}" if given else ""
    lines = (f"- {code(name)}: {_value(value)}\n" for name, value in facts.arguments.items())
    data = plain(", ".join(facts.datasets)) or "unnamed data"
    head = f"\n## Training\n\nTrained{start} on {data}, with these arguments:\n\n"
    return head + "".join(lines) if facts.arguments else ""


def _value(value: Any) -> str:
    """Return an argument's value in Markdown; of a choice of the library's, what a user writes for it."""
    value = value.value if isinstance(value, Enum) else value
    return str(value) if isinstance(value, bool | int | float | None) else code(value)


def _versions() -> Iterable[tuple[str, str]]:
    for library in LIBRARIES:
        try:
            yield library, metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
