"""Pushing to the Hub and pulling from it, over HTTP: models with their code and card, and what goes wrong half-way."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import GOLDEN, tiny_config
from hub_cases import address, elsewhere
from hub_server import HubServer, serve
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from run_cases import readme_block
from small_models import save_retrieval, save_vqa
from transformers import AutoModel, AutoModelForImageTextToText, pipeline

from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering, AlbefModel
from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer

TEXTS = ["a red circle", "a blue square", "what color is the shape?"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve() as server:
        server.take_over(monkeypatch)
        yield server


@pytest.fixture(scope="module")
def processor() -> AlbefProcessor:
    return AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(TEXTS))


def tiny(model_class: Any, processor: AlbefProcessor, **decoder: Any) -> Any:
    config = tiny_config(vocab_size=len(processor.tokenizer))
    torch.manual_seed(0)
    model = model_class(config)
    if decoder:
        for name, value in decoder.items():
            setattr(model.config.decoder_config, name, value)
    return model.eval()


def usage(card: str, name: str, address: str) -> str:
    """The code block of a card, with an image that is there, and another address of the model."""
    block = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert block is not None and f'"{name}"' in block[1]
    return block[1].replace("photo.jpg", str(GOLDEN / "image.png")).replace(f'"{name}"', repr(address))


@pytest.mark.parametrize(
    "form", ["folder", *(pytest.param(form, marks=pytest.mark.slow) for form in ("name", "snapshot"))]
)
def test_a_pushed_model_loads_where_the_package_is_not(
    hub: HubServer, processor: AlbefProcessor, tmp_path: Path, form: str
) -> None:
    model = tiny(AlbefForImageTextRetrieval, processor)
    model.push_to_hub("user/albef", private=True)
    processor.push_to_hub("user/albef")
    files = hub.files("user/albef")
    assert hub.repositories["models", "user/albef"].private
    assert not any(data for data in files.values() if os.fsencode(os.getcwd()) in data)
    where = address(hub, "albef", form, tmp_path)
    code = (
        usage(files["README.md"].decode(), "user/albef", where)
        + """
import sys
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
towers = AutoModel.from_pretrained(sys.argv[2], trust_remote_code=True)
pixels = AutoImageProcessor.from_pretrained(sys.argv[2], trust_remote_code=True)(sys.argv[1], return_tensors="pt")
assert (pixels["pixel_values"] == inputs["pixel_values"]).all()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2], trust_remote_code=True)
assert tokenizer(captions[0])["input_ids"] == inputs["input_ids"][0].tolist()
outputs = model(**inputs)
assert type(towers).__name__ == "AlbefModel" and "modeling_albef" not in sys.modules
assert (towers(**inputs).logits_per_image == outputs.logits_per_image).all()
model.save_pretrained("again")  # a model that came with its code is saved with it
AutoModel.from_pretrained("again", trust_remote_code=True)
print(outputs.itm_logits.flatten().tolist())
"""
    )
    printed = elsewhere(code, hub, tmp_path, "blocked", str(GOLDEN / "image.png"), where)
    inputs = processor(images=GOLDEN / "image.png", text=TEXTS[:2], padding=True, return_tensors="pt")
    expected = model(**inputs).itm_logits.flatten()
    torch.testing.assert_close(torch.tensor(json.loads(printed.splitlines()[-1])), expected, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", ["folder", *(pytest.param(form, marks=pytest.mark.slow) for form in ("name", "snapshot"))]
)
def test_pipelines_come_with_a_branch(hub: HubServer, processor: AlbefProcessor, tmp_path: Path, form: str) -> None:
    ids = {"bos_token_id": processor.tokenizer.cls_token_id, "eos_token_id": processor.tokenizer.sep_token_id}
    model = tiny(AlbefForQuestionAnswering, processor, answer_list=["red", "blue", "square"], **ids)
    model.push_to_hub("user/answers", revision="v1")
    processor.push_to_hub("user/answers", revision="v1")
    assert list(hub.files("user/answers")) == [".gitattributes"]  # all of it is on the branch
    card = hub.files("user/answers", revision="v1")["README.md"].decode()
    code = usage(card, "user/answers", address(hub, "answers", form, tmp_path, revision="v1"))
    if form == "name":
        code = code.replace("model='user/answers'", "model='user/answers', revision='v1'")
    found = elsewhere(code, hub, tmp_path, "blocked")
    assert sorted(re.findall(r"'answer': '(\w+)'", found)) == ["blue", "red", "square"]


def test_the_readme_pushes(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_retrieval(Path("output/demo_retrieval"))
    exec(readme_block('").push_to_hub(').replace("USER/NAME", "user/readme"), {})
    files = hub.files("user/readme")
    assert hub.repositories["models", "user/readme"].private
    assert {"model.safetensors", "processor_config.json", "modeling_albef.py", "processing_albef.py"} <= set(files)


def test_lean_folders_say_nothing_of_code(processor: AlbefProcessor, tmp_path: Path) -> None:
    model = tiny(AlbefForImageTextRetrieval, processor)
    model.save_pretrained(tmp_path / "code", save_code=True)
    fields = json.loads((tmp_path / "code" / "config.json").read_text())
    assert {name.split(".")[0] + ".py" for name in fields["auto_map"].values()} <= set(os.listdir(tmp_path / "code"))
    AlbefForImageTextRetrieval.from_pretrained(tmp_path / "code").save_pretrained(tmp_path / "lean")
    assert sorted(os.listdir(tmp_path / "lean")) == ["config.json", "model.safetensors"]
    fields = json.loads((tmp_path / "lean" / "config.json").read_text())
    assert not {"auto_map", "custom_pipelines"} & set(fields)


def test_with_the_package_no_flag_is_needed(tmp_path: Path) -> None:
    """Folders with code load by our own classes, whatever the folder says."""
    save_vqa(tmp_path).save_pretrained(tmp_path, save_code=True)
    AlbefProcessor.from_pretrained(tmp_path).save_pretrained(tmp_path, save_code=True)
    assert "custom_pipelines" in json.loads((tmp_path / "config.json").read_text())
    answer = pipeline("albef-vqa", model=str(tmp_path))
    assert type(answer.model) is AlbefForQuestionAnswering and type(answer.processor) is AlbefProcessor
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path)) is AlbefForQuestionAnswering
    assert type(AutoModel.from_pretrained(tmp_path)) is AlbefModel


@pytest.mark.parametrize("status", [507, None])
def test_a_push_that_breaks_off_changes_nothing_and_can_be_repeated(
    hub: HubServer, processor: AlbefProcessor, tmp_path: Path, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own attempts
    model = tiny(AlbefModel, processor)
    hub.fail("PUT", "/lfs/", status=status, times=1 if status else 20)
    with pytest.raises((HfHubHTTPError, RuntimeError, OSError)) as error:
        model.push_to_hub("user/albef")
    assert "model.safetensors" in str(error.value) or "507" in str(error.value)
    assert list(hub.files("user/albef")) == [".gitattributes"]
    hub._failures.clear()
    model.push_to_hub("user/albef")
    assert "model.safetensors" in hub.files("user/albef")


def test_an_existing_card_is_kept(hub: HubServer, processor: AlbefProcessor) -> None:
    model = tiny(AlbefModel, processor)
    model.push_to_hub("user/albef")
    card = ModelCard(hub.files("user/albef")["README.md"].decode())
    assert card.data.pipeline_tag == "feature-extraction" and card.data.library_name == "transformers"
    card.text += "\nMine."
    HfApi().upload_file(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id="user/albef")
    model.push_to_hub("user/albef")
    assert hub.files("user/albef")["README.md"].decode().rstrip().endswith("Mine.")
