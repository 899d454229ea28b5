# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Finding a model, saving it with its code, and pushing both to the Hub with a card, so that others can load them."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

from huggingface_hub import CommitInfo, EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import CONFIG_NAME, cached_file

from .configuration_albef import AlbefConfig, AlbefError, is_from_library, one_line


def check_model_name(name: str | None) -> None:
    """Make sure that there is a model (folder or Hub name), before its parts are asked for one by one.

    The Hub is asked for USER/NAME alone, where no folder is called so. None, of a run that starts from scratch, passes.
    """
    if name is None:
        return
    path = Path(name)
    if path.is_dir():
        if not (path / CONFIG_NAME).is_file():  # the library would take the published sizes
            raise AlbefError(f"The folder {name} has no {CONFIG_NAME}: give a folder that a model was saved to.")
        return
    found = f"There is no model at {name!r}: there is no such folder here ({path.absolute()})"
    remedy = "Give a folder that a model was saved to (`make demo` makes one, docs/checkpoints.md converts one)"
    if path.is_absolute() or name.startswith(".") or len(path.parts) != 2:
        raise AlbefError(f"{found}. {remedy}, or USER/NAME of the Hub.")
    try:
        cached_file(name, CONFIG_NAME)
    except OSError as error:
        reason = one_line(error).rstrip(".")
        raise AlbefError(f"{found}, and the Hub does not give it ({reason}). {remedy}, or another name.") from error


@contextmanager
def named_model_errors(name: Any, *further: type[Exception]) -> Iterator[None]:
    """Raise the library's errors on damaged or foreign files, and `further` ones, as one that names the model."""
    try:
        yield
    except Exception as error:  # the library raises nearly anything on damaged files
        passes = isinstance(error, OSError | ImportError) or not (is_from_library(error) or "allocat" in str(error))
        if passes and not isinstance(error, (SafetensorError, StrictDataclassError, UnpicklingError, *further)):
            raise
        raise AlbefError(f"The model in {name} cannot be used: {one_line(error)}") from error


def load_model(model_class: Any, name: str) -> Any:
    """Return the model `name` (folder or Hub name) with its head, which the library would start at random."""
    check_model_name(name)
    with named_model_errors(name, OSError, ImportError):  # a file or a package is missing
        kind = AlbefConfig.get_config_dict(name)[0].get("model_type")
        if kind != "albef":
            raise AlbefError(f"The model {name!r} is of the type {kind!r}, not 'albef': give another.")
        model = model_class.from_pretrained(name)
    model.check_head()
    return model


class AlbefHubMixin:
    """Gives `save_pretrained` the choice of writing the model's code, and `push_to_hub` a model card.

    Attributes:
        auto_class: The library's Auto class of the task, beside `AutoModel`; None where there is none.
    """

    auto_class: ClassVar[str | None] = None
    config: Any

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, save_code: bool | None = None, **kwargs: Any
    ) -> None:
        """Save the model.

        Args:
            save_directory: Folder; made where it does not exist.
            args: Those of `PreTrainedModel.save_pretrained`.
            save_code: Whether the Python files go beside the weights, and the configuration says which class is in
                which; `trust_remote_code=True` then loads the model where this package is not installed. Default:
                only where the model itself was loaded that way.
            kwargs: Those of `PreTrainedModel.save_pretrained`.
        """
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if save_code is None:
            save_code = self.is_remote_code()  # type: ignore[attr-defined]
        config_file = Path(save_directory) / "config.json"
        if not config_file.is_file():  # an adapter alone
            return
        fields = json.loads(config_file.read_text(encoding="utf-8"))
        for name in ("auto_map", "custom_pipelines"):  # of the folder that the model came from
            fields.pop(name, None)
        if save_code:
            custom_object_save(type(self), save_directory)
            fields |= self._code_references()
        config_file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _code_references(self) -> dict[str, Any]:
        """Return which file has which class, in the library's fields of a configuration."""
        from .pipelines_albef import PIPELINES  # here: models do not need them, but their code is saved with a model's

        pipelines = {
            task: {"impl": f"pipelines_albef.{class_.__name__}", "pt": [auto_class], "type": "multimodal"}
            for task, (class_, auto_class) in PIPELINES.items()
            if auto_class == self.auto_class
        }
        own = type(self)
        auto_map = {"AutoConfig": "configuration_albef.AlbefConfig", "AutoModel": "modeling_albef.AlbefModel"}
        if self.auto_class is not None:
            auto_map[self.auto_class] = f"{own.__module__.split('.')[-1]}.{own.__name__}"
        return {"auto_map": auto_map, **({"custom_pipelines": pipelines} if pipelines else {})}

    def push_to_hub(
        self,
        repo_id: str,
        *,
        save_code: bool = True,
        private: bool | None = None,
        revision: str | None = None,
        token: bool | str | None = None,
        commit_message: str = "Upload model",
        commit_description: str | None = None,
        create_pr: bool = False,
        **save_kwargs: Any,
    ) -> CommitInfo:
        """Upload weights, configuration, code, and a model card where the repository has none, in one commit.

        Args:
            repo_id: `user/model`, or `model`; made where it does not exist.
            save_code: See `save_pretrained`.
            private: Whether a repository that is made is private.
            revision: Branch; made where it does not exist.
            token: For the Hub; default: the one of `hf auth login`.
            commit_message: Title of the commit.
            commit_description: More of it.
            create_pr: Open a pull request instead.
            save_kwargs: Those of `save_pretrained`, `max_shard_size` for example.

        Returns:
            The commit.

        Raises:
            HfHubHTTPError: The Hub refused or broke off; nothing has changed there then, so it can be tried again.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, save_code=save_code, **save_kwargs)
            if not api.file_exists(repo_id, "README.md", revision=revision):
                make_model_card(self.config, type(self).__name__, repo_id).save(Path(folder) / "README.md")
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )


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

model = AutoModelForZeroShotImageClassification.from_pretrained("NAME", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("NAME", trust_remote_code=True)
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

answer = pipeline("albef-vqa", model="NAME", trust_remote_code=True)
print(answer(image="photo.jpg", question="what color is the shape?", top_k=3))
""",
    "It always answers, even where the image does not show what was asked, and prefers the frequent training answers.",
)
_FEATURES = _Task(
    "feature-extraction",
    "maps images and sentences into one space, in which those that belong together are close",
    """\
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("NAME", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("NAME", trust_remote_code=True)
inputs = processor(images="photo.jpg", text=["a red circle", "a blue square"], padding=True, return_tensors="pt")
print(model(**inputs).logits_per_image)  # cosine similarity / temperature
""",
    "Similarities are a quick first stage; the matching head of the retrieval model ranks better.",
)
_TASKS = {
    "AlbefForImageTextRetrieval": _RETRIEVAL,
    "AlbefForPreTraining": _RETRIEVAL,
    "AlbefForQuestionAnswering": _ANSWERS,
}

_CARD = """\
---
{metadata}
---

# {title}

An [ALBEF](https://arxiv.org/abs/2107.07651) (`{architecture}`) that {about}.

## How to use

Where the package of these models is installed, import `modeling_albef` and `processing`, and leave the flag
`trust_remote_code` out. Elsewhere it runs the Python files of this repository: read them, and pin a `revision`.

```python
{usage}```
{results}{training}
## Limits

{limits} The model knows the kind of images and sentences it was trained on, with their biases; on others it is worse.
It reads English text, cleaned up and cut as the original does, and squares of {side} x {side} pixels.
"""


@dataclass
class RunFacts:
    """What a card says of how a model was made."""

    datasets: tuple[str, ...] = ()  # names of the training and evaluation data, without paths
    results: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # metrics by the split they are of
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the training
    base_model: str | None = None  # name on the Hub of the model that training started from
    license: str | None = None  # its identifier on the Hub, where the author chose one


def make_model_card(config: Any, architecture: str, name: str, facts: RunFacts | None = None) -> ModelCard:
    """Return the card of a model loaded by `name`; its metadata have the task, the data sets and the `model-index`."""
    facts, task = facts or RunFacts(), _TASKS.get(architecture, _FEATURES)
    dataset, title = ", ".join(facts.datasets) or "its data set", name.split("/")[-1]
    metrics = [(split, name, float(value)) for split, found in facts.results.items() for name, value in found.items()]
    results = [
        EvalResult(
            task_type=task.pipeline_tag,
            dataset_type=dataset.lower().replace(", ", "-").replace(" ", "-"),
            dataset_name=dataset,
            dataset_split=split,
            metric_type=metric,
            metric_value=round(value, 4),
        )
        for split, metric, value in metrics
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task.pipeline_tag,
        tags=["albef", "vision-language"],
        model_name=title,
        eval_results=results or None,
        base_model=facts.base_model,
        license=facts.license,
        language="en",
    )
    table, training = "", ""
    if metrics:
        rows = "".join(f"| {split} | {metric} | {value:.2f} |\n" for split, metric, value in metrics)
        table = f"\n## Results\n\nOn {dataset}, in per cent:\n\n| split | metric | value |\n|---|---|---|\n{rows}"
    if facts.arguments:
        start = f"`{facts.base_model}`" if facts.base_model else "weights that have no name on the Hub"
        said = f"Trained from {start} on {', '.join(facts.datasets) or 'unnamed data'}, with these arguments:\n\n"
        lines = "".join(f"- `{name}`: {value}\n" for name, value in facts.arguments.items())
        training = f"\n## Training\n\n{said}{lines}"
    text = _CARD.format(
        metadata=data.to_yaml(),
        title=title,
        architecture=architecture,
        about=task.about,
        usage=task.usage.replace("NAME", name),
        results=table,
        training=training,
        limits=task.limits,
        side=config.vision_config.image_size,
    )
    return ModelCard(text)
