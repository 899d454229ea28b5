# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Model cards: what a model does, how to use it, how it was made and measured, and where its limits are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData


@dataclass
class TaskCard:
    """What a card says of a task.

    Attributes:
        pipeline_tag: The Hub's name of the task.
        about: What the model does, a sentence.
        usage: Python that uses the model; NAME stands for its name.
        limits: What it cannot do.
    """

    pipeline_tag: str
    about: str
    usage: str
    limits: str


_RETRIEVAL = TaskCard(
    pipeline_tag="zero-shot-image-classification",
    about="finds the pictures that a sentence describes and the sentences that describe a picture",
    usage="""\
from transformers import AutoModelForZeroShotImageClassification, AutoProcessor

model = AutoModelForZeroShotImageClassification.from_pretrained("NAME", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("NAME", trust_remote_code=True)
captions = ["a red circle", "a blue square"]
inputs = processor(images="photo.jpg", text=captions, padding=True, return_tensors="pt")
print(model(**inputs).itm_logits.softmax(-1)[0, :, 1])  # probability of a match, one a caption
""",
    limits=(
        "The matching probabilities of different pictures are no measure of how common a thing is, and captions that "
        "differ in number, order or negation are easily confused."
    ),
)
_ANSWERS = TaskCard(
    pipeline_tag="visual-question-answering",
    about="answers questions about pictures in a few words",
    usage="""\
from transformers import pipeline

answer = pipeline("albef-vqa", model="NAME", trust_remote_code=True)
print(answer(image="photo.jpg", question="what colour is the shape?", top_k=3))
""",
    limits=(
        "It always answers, also where the picture does not tell; answers follow those that were frequent in training."
    ),
)
_FEATURES = TaskCard(
    pipeline_tag="feature-extraction",
    about="maps pictures and sentences into one space, where what belongs together is close",
    usage="""\
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("NAME", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("NAME", trust_remote_code=True)
inputs = processor(images="photo.jpg", text=["a red circle", "a blue square"], padding=True, return_tensors="pt")
print(model(**inputs).logits_per_image)  # cosine similarity / temperature
""",
    limits="Similarities are a quick first stage; the matching head of the retrieval model ranks better.",
)
TASK_CARDS = {
    "AlbefForImageTextRetrieval": _RETRIEVAL,
    "AlbefForPreTraining": _RETRIEVAL,
    "AlbefForQuestionAnswering": _ANSWERS,
    "AlbefModel": _FEATURES,
}

_TEXT = """\
# {title}

An [ALBEF](https://arxiv.org/abs/2107.07651) (`{architecture}`) that {about}.

## How to use

Where the package of these models is installed, import `modeling_albef` and `processing`, and leave the flag
`trust_remote_code` out. Elsewhere it runs the Python files of this repository: read them, and pin a `revision`.

```python
{usage}```
{results}{training}
## Limits

{limits} The model knows the kind of pictures and sentences it was trained on, with their biases; on others it is worse.
It reads English text, cleaned up and cut as the original does, and squares of {side} x {side} pixels.
"""


@dataclass
class RunFacts:
    """What a card says of how a model was made.

    Attributes:
        datasets: Names of the training and evaluation data, without paths.
        results: Metrics by the split that they were measured on.
        arguments: Training arguments.
        base_model: Name on the Hub of the model that training started from.
        license: Its identifier on the Hub, where the author chose one.
    """

    datasets: tuple[str, ...] = ()
    results: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    license: str | None = None


def make_model_card(config: Any, architecture: str, name: str, facts: RunFacts | None = None) -> ModelCard:
    """Writes a card.

    Args:
        config: Configuration of the model.
        architecture: Name of its class.
        name: What it is loaded by, `user/model`.
        facts: How it was made, where that is known.

    Returns:
        The card; its metadata have the task, the data sets and the results as `model-index`.
    """
    facts, task = facts or RunFacts(), TASK_CARDS.get(architecture, _FEATURES)
    dataset = ", ".join(facts.datasets) or "its data set"
    results = [
        EvalResult(
            task_type=task.pipeline_tag,
            dataset_type=dataset.lower().replace(", ", "-").replace(" ", "-"),
            dataset_name=dataset,
            dataset_split=split,
            metric_type=metric,
            metric_value=round(float(value), 4),
        )
        for split, metrics in facts.results.items()
        for metric, value in metrics.items()
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task.pipeline_tag,
        tags=["albef", "vision-language"],
        model_name=name.split("/")[-1],
        eval_results=results or None,
        base_model=facts.base_model,
        license=facts.license,
        language="en",
    )
    text = _TEXT.format(
        title=name.split("/")[-1],
        architecture=architecture,
        about=task.about,
        usage=task.usage.replace("NAME", name),
        results=_section("Results", _results_table(facts.results, dataset)),
        training=_section("Training", _training_lines(facts)),
        limits=task.limits,
        side=config.vision_config.image_size,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _section(title: str, lines: Iterable[str]) -> str:
    body = "\n".join(lines)
    return f"\n## {title}\n\n{body}\n" if body else ""


def _results_table(results: Mapping[str, Mapping[str, float]], dataset: str) -> list[str]:
    rows = [
        f"| {split} | {metric} | {value:.2f} |"
        for split, metrics in results.items()
        for metric, value in metrics.items()
    ]
    return [f"On {dataset}, in per cent:\n", "| split | metric | value |", "|---|---|---|", *rows] if rows else []


def _training_lines(facts: RunFacts) -> list[str]:
    if not facts.arguments:
        return []
    start = f"from `{facts.base_model}`" if facts.base_model else "from weights that have no name on the Hub"
    said = f"Trained {start} on {', '.join(facts.datasets) or 'data that are not named'}, with these arguments:\n"
    return [said, *(f"- `{name}`: {value}" for name, value in facts.arguments.items())]
