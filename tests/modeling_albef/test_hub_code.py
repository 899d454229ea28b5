"""Code that comes with a model: the same by Hub name, by folder and by snapshot, with our package and without it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import GOLDEN
from hub_cases import FORMS, PACKAGES, address, elsewhere
from hub_server import TOKEN, HubServer, serve
from small_models import save_pretraining, save_retrieval, save_vqa
from transformers import pipeline

from modeling_albef import AlbefForImageTextRetrieval
from processing import AlbefProcessor

IMAGE = str(GOLDEN / "image.png")


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with serve() as server, pytest.MonkeyPatch.context() as patch:
        server.take_over(patch)
        yield server


@pytest.fixture(scope="module")
def models(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Models of each task, pushed and in folders."""
    made = {}
    for task, save in (("retrieval", save_retrieval), ("vqa", save_vqa), ("pretraining", save_pretraining)):
        folder = tmp_path_factory.mktemp(task)
        made[task] = save(folder)
        made[task].push_to_hub(f"user/{task}")
        AlbefProcessor.from_pretrained(folder).push_to_hub(f"user/{task}", commit_message=task)  # a commit's name
    return made


USE = """
import json, sys, transformers
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification as Auto, pipeline
name, vqa, pretraining, image = sys.argv[1:]
kind = {"trust_remote_code": True}

config = AutoConfig.from_pretrained(name, **kind)
config.text_config.hidden_dropout_prob = 0.5
config.vision_config.attention_dropout = 0.25
config.image_size = 48
given = Auto.from_pretrained(name, config=config, **kind)
changed = {"attn_implementation": "eager", "initializer_range": 0.125, "output_hidden_states": True}
keywords = Auto.from_pretrained(name, **changed, text_config={"attention_probs_dropout_prob": 0.75}, **kind)
towers = AutoModel.from_pretrained(name, image_size=48, attn_implementation="eager", **kind)
again = Auto.from_pretrained(name, **kind)
again.save_pretrained("again")
saved = Auto.from_pretrained("again", attn_implementation="eager", **kind)
again.save_pretrained("lean", save_code=False)
found = {
    "config": [
        given.albef.text_model.embeddings.dropout.p,
        given.config.vision_config.attention_dropout,
        list(given.albef.vision_model.pos_embed.shape),
        config.vision_config.image_size,
    ],
    "keywords": [
        keywords.config._attn_implementation,
        keywords.albef.text_model.config._attn_implementation,
        keywords.config.initializer_range,
        keywords.config.output_hidden_states,
        keywords.config.text_config.attention_probs_dropout_prob,
    ],
    "towers": [towers.vision_model.config._attn_implementation, list(towers.vision_model.pos_embed.shape)],
    "plain": [again.config._attn_implementation, again.config.output_hidden_states, again.config.initializer_range],
    "saved": [saved.config._attn_implementation, type(saved).__module__.split(".")[0]],
    "lean": json.load(open("lean/config.json")),
    "with code": json.load(open("again/config.json")),
}

answer = pipeline("albef-vqa", model=vqa, **kind)
search = pipeline("image-text-retrieval", model=name, **kind)
classify = pipeline("zero-shot-image-classification", model=name, **kind)
search.index_texts(["a blue circle", "a green star above it"])
question = {"image": image, "question": "what color is the circle?"}
found["pipelines"] = [
    answer(**question, top_k=3),
    answer(**question, top_k=2, answer_list=["red", "blue square"]),
    answer(**question, top_k=1, free_form=True),
    search(image=image),
    classify(image, candidate_labels=["a blue circle", "a green star"]),
]

found["auto"] = {}
for folder, auto in [
    (vqa, "AutoModelForImageTextToText"),
    (vqa, "AutoModelForVisualQuestionAnswering"),
    (pretraining, "AutoModelForPreTraining"),
    (pretraining, "AutoModelForZeroShotImageClassification"),
    (pretraining, "AutoModel"),
]:
    found["auto"][auto] = type(getattr(transformers, auto).from_pretrained(folder, **kind)).__name__
print(json.dumps(found))
"""


def cases() -> list[Any]:
    """All forms where our packages can and cannot be imported; but for a folder where they cannot, slow."""
    found = [(form, package) for form in FORMS for package in PACKAGES]
    return [case if case == ("folder", "blocked") else pytest.param(case, marks=pytest.mark.slow) for case in found]


@pytest.fixture(scope="module", params=cases(), ids="-".join)
def use(
    request: pytest.FixtureRequest, hub: HubServer, models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What a process finds that loads pushed models by name, folder or snapshot, with our packages or without."""
    form, package = request.param
    folder = tmp_path_factory.mktemp("use")
    words = [address(hub, task, form, folder) for task in ("retrieval", "vqa", "pretraining")]
    return {**json.loads(elsewhere(USE, hub, folder, package, *words, IMAGE).splitlines()[-1]), "package": package}


@pytest.mark.slow
def test_the_users_configuration_counts(use: dict[str, Any], models: dict[str, Any]) -> None:
    positions = [1, 10, models["retrieval"].config.vision_config.hidden_size]
    assert use["config"] == [0.5, 0.25, positions, 48]
    assert use["keywords"] == ["eager", "eager", 0.125, True, 0.75]
    assert use["towers"] == ["eager", positions]
    assert use["plain"] == ["sdpa", False, 0.3]
    assert use["saved"] == ["eager", "modeling_albef" if use["package"] == "importable" else "transformers_modules"]
    assert not {"auto_map", "custom_pipelines"} & set(use["lean"])
    assert ("auto_map" in use["with code"]) == (use["package"] == "blocked")  # what came with its code is saved with it


def test_pipelines_come_with_the_model(use: dict[str, Any], models: dict[str, Any]) -> None:
    found = use["pipelines"]
    processors = [AlbefProcessor.from_pretrained(f"user/{task}") for task in ("vqa", "retrieval")]
    answer = pipeline("albef-vqa", model=models["vqa"], processor=processors[0])
    question = {"image": IMAGE, "question": "what color is the circle?"}
    expected = [answer(**question, top_k=3), answer(**question, top_k=2, answer_list=["red", "blue square"])]
    for ours, theirs in zip(expected, found, strict=False):
        assert [one["answer"] for one in ours] == [one["answer"] for one in theirs]
        assert [one["score"] for one in theirs] == pytest.approx([one["score"] for one in ours], abs=1e-6)
    assert len(found[2]) == 1 and isinstance(found[2][0]["answer"], str)
    scores = {one["text"]: one["similarity"] for one in found[3]}
    inputs = processors[1](images=IMAGE, text=list(scores), padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = models["retrieval"](**inputs)
    cosines = outputs.logits_per_image[0] * models["retrieval"].albef.temperature
    assert list(scores.values()) == pytest.approx(cosines.tolist(), abs=1e-5)
    assert {one["label"] for one in found[4]} == {"a blue circle", "a green star"}


def test_every_auto_class_of_the_task_finds_its_head(use: dict[str, Any]) -> None:
    by_package = {"blocked": "AlbefForPreTraining", "importable": "AlbefForImageTextRetrieval"}  # the registered class
    assert use["auto"] == {
        "AutoModelForImageTextToText": "AlbefForQuestionAnswering",
        "AutoModelForVisualQuestionAnswering": "AlbefForQuestionAnswering",
        "AutoModelForPreTraining": "AlbefForPreTraining",
        "AutoModelForZeroShotImageClassification": by_package[use["package"]],
        "AutoModel": "AlbefModel",
    }


def test_code_is_saved_for_a_registered_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own way to ask for the code, which counts for all later saves."""
    model = save_retrieval(tmp_path / "lean")
    monkeypatch.setattr(AlbefForImageTextRetrieval, "_auto_class", None)
    AlbefForImageTextRetrieval.register_for_auto_class("AutoModelForZeroShotImageClassification")
    model.save_pretrained(tmp_path / "registered")
    model.save_pretrained(tmp_path / "asked", save_code=False)
    fields = json.loads((tmp_path / "registered" / "config.json").read_text())
    assert set(fields["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForZeroShotImageClassification"}
    assert "image-text-retrieval" in fields["custom_pipelines"]
    files = {name.split(".")[0] + ".py" for name in fields["auto_map"].values()} | {"pipelines_albef.py"}
    assert files <= set(os.listdir(tmp_path / "registered"))
    assert sorted(os.listdir(tmp_path / "asked")) == ["config.json", "model.safetensors"]
    assert AlbefForImageTextRetrieval._auto_class == "AutoModelForZeroShotImageClassification"
    assert not {"auto_map", "custom_pipelines"} & set(model.config.to_dict())


class OwnRetrieval(AlbefForImageTextRetrieval):
    """A class of the user's, in a file outside the package."""


@pytest.mark.parametrize("module", [__name__, "__main__"])
def test_code_of_the_users_own_names_no_file_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setattr(OwnRetrieval, "__module__", module)
    save_retrieval(tmp_path, OwnRetrieval).save_pretrained(tmp_path, save_code=True)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert {name.split(".")[0] + ".py" for name in fields["auto_map"].values()} <= set(os.listdir(tmp_path))
    assert "AutoConfig" in fields["auto_map"] and "custom_pipelines" not in fields
    own = f"{module.rpartition('.')[2]}.OwnRetrieval"
    assert (own in fields["auto_map"].values()) == (module != "__main__")


def test_a_save_that_uploads_takes_the_code_along(hub: HubServer, models: dict[str, Any], tmp_path: Path) -> None:
    models["vqa"].save_pretrained(tmp_path / "up", save_code=True, push_to_hub=True, repo_id="user/saved")
    files = hub.files("user/saved")
    assert {"model.safetensors", "config.json", "pipelines_albef.py", "modeling_albef_question_answering.py"} <= set(
        files
    )
    assert "albef-vqa" in json.loads(files["config.json"])["custom_pipelines"]


def test_what_the_librarys_push_takes(hub: HubServer, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["retrieval"]
    monkeypatch.setattr(model, "model_tags", None)
    model.add_model_tags(["of-the-model"])
    options: dict[str, Any] = {"max_shard_size": "100KB", "commit_message": "Mine", "commit_description": "Long"}
    model.push_to_hub("user/options", tags=["one", "two"], token=TOKEN, private=True, **options)
    files, repository = hub.files("user/options"), hub.repositories["models", "user/options"]
    assert "model.safetensors.index.json" in files and repository.private and repository.messages[-1] == "Mine"
    card = files["README.md"].decode()
    assert all(f"- {tag}\n" in card for tag in ("albef", "of-the-model", "one", "two"))
    model.push_to_hub("user/options", tags="three", save_code=False)
    card = hub.files("user/options")["README.md"].decode()
    assert card.count("- three\n") == 1 and "- one\n" in card and repository.messages[-1] == "Upload model"
