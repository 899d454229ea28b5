"""Model cards: what is handed in stands in them, and no name of a user's breaks their text or their metadata."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from golden_cases import tiny_config
from hub_server import serve
from huggingface_hub import HfApi, ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from small_models import save_retrieval, save_vqa
from transformers import TrainingArguments

from modeling_albef import (
    AlbefForImageTextClassification,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefForTextAssignment,
    AlbefForVisualReasoning,
    AlbefModel,
)
from modeling_albef.model_card_albef import CardFacts, code, make_model_card, plain, python_string
from modeling_albef.training import RetrievalTrainer, RetrievalTrainingArguments
from modeling_albef.training.application import DataArguments
from modeling_albef.training.application.record import _dataset_names
from processing import AlbefProcessor, RetrievalCollator

RETRIEVAL, ANSWERS = "AlbefForImageTextRetrieval", "AlbefForQuestionAnswering"
HOSTILE = [
    "with \"double\" and 'single' quotes",
    "two\nlines\r\nand --- a rule\n---\n# a heading",
    "`ticks` and ```fences```\n```python\nprint(1)\n```",
    "a | pipe | and a \\ backslash",
    "<script>alert(1)</script> & <b>bold</b> &amp; <!-- hidden",
    "*stars* _under_ __twice__ ~~struck~~ [link](http://x) ![image](y)",
    "yaml: {a: [1, 2]} # comment, 'quoted' %TAG @at !tag",
    "\udcff undecodable, \x00 zero, \x1b[31m red, \u2028 line, \u202e turned",
    "null",
    "  ",
    "Füße 画像 🙂",
    "{name} {0} %s",
]


def card_of(name: str, architecture: str = RETRIEVAL, **facts: Any) -> tuple[ModelCard, dict[str, Any], str]:
    """A card, its metadata as YAML reads them, and its text as a browser gets it."""
    card = make_model_card(tiny_config(), architecture, name, CardFacts(**facts))
    content = str(card).encode("utf-8").decode("utf-8")
    block = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    assert block is not None
    html = MarkdownIt("commonmark").enable("table").render(content[block.end() :])
    return ModelCard(content), yaml.safe_load(block[1]), html


def shown(value: str) -> str:
    """What a reader is to see of a value: its characters on one line, without those that nobody sees."""
    text = "".join(letter if letter.isprintable() else " " for letter in value)
    return " ".join(text.split())


def as_html(value: str) -> str:
    escapes = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
    return "".join(escapes.get(letter, letter) for letter in value)


@pytest.mark.parametrize("architecture", [RETRIEVAL, ANSWERS, "AlbefModel"])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_a_card(name: str, architecture: str) -> None:
    card, metadata, html = card_of(
        name,
        architecture,
        datasets=(name, "other"),
        results={name: {"r_mean": 50.0, "txt_r1": 25.0, name: 1.0}},
        arguments={"learning_rate": 1e-5, name: name},
        base_model=name,
        tags=(name,),
        dataset_args=name,
    )
    # the metadata: one block, which has the name as it is
    assert metadata["tags"] == ["albef", "vision-language", *filter(None, [shown(name)])]
    (entry,) = metadata["model-index"]
    assert metadata.get("base_model") == (name if name == "null" else None)  # the others are no names of the Hub
    assert "datasets" not in metadata
    assert entry["results"][0]["dataset"]["name"] == shown(f"{name}, other")
    assert re.fullmatch(r"[a-z0-9-]+", entry["results"][0]["dataset"]["type"])
    assert card.data.model_name == entry["name"] == (shown(name).rstrip("/").split("/")[-1] or architecture)
    assert len(card.data.eval_results) == 3
    # the text: the headings and lists that the card has, one table, no markup of the name
    titles = re.findall(r"<h\d>(.*?)</h\d>", html)
    assert titles == [as_html(entry["name"]), "How to use", "Results", "Training", "Limits", "Library versions"]
    assert html.count("<table>") == html.count("<pre>") == 1 and html.count("<tr>") == 4
    assert len(re.findall(r"<td>", html)) == 9 and html.count("<hr") == 0
    assert {"script", "b", "img", "em", "strong", "s"} & set(re.findall(r"<(\w+)", html)) == set()
    assert len(re.findall(r"<a ", html)) == 1  # of the paper
    assert f"<code>{as_html(shown(name))}</code>" in html or not shown(name)
    # the code: Python that loads the model of this name
    program = re.search(r"```python\n(.*?)```\n", str(card), re.DOTALL)
    assert program is not None
    strings = [node.value for node in ast.walk(ast.parse(program[1])) if isinstance(node, ast.Constant)]
    assert name in strings


@pytest.mark.parametrize("value", [*HOSTILE, "`", "``a", "a`", "_a", "a_", "a_b", "a__b", "\\", "]("])
def test_plain_text_code_and_strings_are_read_back(value: str) -> None:
    render = MarkdownIt("commonmark").enable("table").renderInline
    if shown(value):
        assert render(f"x {plain(value)} x") == f"x {as_html(shown(value))} x"
        assert render(code(value)) == f"<code>{as_html(shown(value))}</code>"
    assert ast.literal_eval(python_string(value)) == value
    assert plain("learning_rate of run_1") == "learning_rate of run_1"  # words keep their underscores


def test_what_is_handed_in_stands_in_the_metadata() -> None:
    _, metadata, html = card_of(
        "user/model",
        datasets=("user/photos",),
        results={"test": {"txt_r1": 12.34567, "r_mean": float("nan")}, "eval": {"vqa_accuracy_yes_no": 50}},
        base_model="user/albef-14m",
        license="Apache 2.0",
        tags=("art", "albef"),
        language=["en", "de"],
        task="image-text-to-text",
    )
    assert metadata["datasets"] == ["user/photos"] and metadata["base_model"] == "user/albef-14m"
    assert metadata["license"] == "apache-2.0" and metadata["tags"] == ["albef", "vision-language", "art"]
    assert metadata["language"] == ["en", "de"] and metadata["pipeline_tag"] == "image-text-to-text"
    assert metadata["library_name"] == "transformers"
    results = {
        (one["dataset"]["split"], metric["type"], metric["name"]): (metric["value"], one["dataset"]["type"])
        for one in metadata["model-index"][0]["results"]
        for metric in one["metrics"]
    }
    assert results == {
        ("test", "recall", "Text R@1"): (12.3457, "user/photos"),
        ("eval", "accuracy", "VQA accuracy (yes/no)"): (50.0, "user/photos"),
    }  # what is not finite stands in the text alone
    assert "<td>nan</td>" in html and "<td>12.35</td>" in html
    for library in ("transformers", "torch", "datasets", "tokenizers"):
        assert f"<li>{library} {importlib.metadata.version(library)}</li>" in html


def test_a_data_set_has_its_name_on_the_hub_where_it_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/photos").mkdir(parents=True)
    names = {
        ("my photos.json",): ("my-photos-json", None),
        ("data/photos",): ("data-photos", None),  # a folder here
        ("user/photos", "coco_retrieval"): ("user/photos", ["user/photos"]),
        ("user/photos", "user/more"): ("user-photos-user-more", ["user/photos", "user/more"]),
        (): ("its-data-set", None),
    }
    for datasets, (kind, listed) in names.items():
        _, metadata, _ = card_of("model", datasets=datasets, results={"eval": {"r_mean": 1.0}})
        assert metadata["model-index"][0]["results"][0]["dataset"]["type"] == kind
        assert metadata.get("datasets") == listed
    own = {"dataset": "own_data", "dataset_config": {"hub_dataset": "user/photos"}}
    assert _dataset_names(DataArguments(**own)) == ("user/photos",)
    assert _dataset_names(DataArguments(**{**own, "dataset_config": {"hub_dataset": "data/photos"}})) == ("photos",)
    assert _dataset_names(DataArguments(train_files=["a/x.json"], test_files=["b/y.json"])) == ("x", "y")
    assert _dataset_names(DataArguments(dataset="shapes")) == ("shapes",)


def trainer_of(folder: Path, **arguments: Any) -> RetrievalTrainer:
    model = save_retrieval(folder / "model")
    processor = AlbefProcessor.from_pretrained(folder / "model")
    options = {
        "use_cpu": True,
        "queue_size": 0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "dataloader_drop_last": False,
    }
    options |= arguments
    args = RetrievalTrainingArguments(str(folder / "out"), **options)
    return RetrievalTrainer(
        model, args, data_collator=RetrievalCollator(processor), train_dataset=[], processing_class=processor
    )


def test_the_trainers_card_takes_what_the_librarys_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(tmp_path, optim="adamw_torch", hub_license="mit", hub_tags=["run"])
    trainer.results = {"eval": {"r_mean": 40.0}}
    trainer.create_model_card("de", tags="art", dataset="Photos of mine", dataset_tags="user/photos", dataset_args="v2")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit" and card.data.tags == ["albef", "vision-language", "run", "art"]
    assert card.data.language == "de" and card.data.datasets == ["user/photos"]
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.dataset_name, result.dataset_args) == (
        "user/photos",
        "Photos of mine",
        {"args": "v2"},
    )
    assert "OptimizerNames" not in str(card) and "- `optim`: `adamw_torch`" in card.text
    assert "Photos of mine" in card.text
    with pytest.raises(TypeError, match="licence"):
        trainer.create_model_card(licence="mit")
    with serve() as hub:
        hub.take_over(monkeypatch)
        trainer.push_to_hub(license="apache-2.0", finetuned_from="user/albef", tasks="image-text-to-text", tags=["x"])
        ((_, name),) = hub.repositories
        pushed = ModelCard(hub.files(name)["README.md"].decode())
    assert pushed.data.license == "apache-2.0" and pushed.data.base_model == "user/albef"
    assert pushed.data.pipeline_tag == "image-text-to-text" and pushed.data.language == "de"
    assert pushed.data.tags == ["albef", "vision-language", "run", "x"] and pushed.data.datasets == ["user/photos"]


def test_every_argument_of_the_library_is_shown_as_its_users_write_it() -> None:
    _, _, html = card_of("model", arguments=vars(TrainingArguments("out", use_cpu=True)))
    assert "OptimizerNames" not in html and "SchedulerType" not in html and "<code>adamw_torch" in html


def test_a_card_that_cannot_be_read_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_retrieval(tmp_path)
    assert isinstance(model, AlbefForImageTextRetrieval)
    broken = b"---\ntags: [unclosed\n---\nMine."
    with serve() as hub:
        hub.take_over(monkeypatch)
        model.push_to_hub("user/albef")
        HfApi().upload_file(path_or_fileobj=broken, path_in_repo="README.md", repo_id="user/albef")
        model.push_to_hub("user/albef")
        assert hub.files("user/albef")["README.md"] == broken


def test_a_model_that_came_from_the_hub_is_the_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with serve() as hub:
        hub.take_over(monkeypatch)
        save_retrieval(Path("output/start"))
        AlbefForImageTextRetrieval.from_pretrained("output/start").push_to_hub("user/start")
        model = AlbefForImageTextRetrieval.from_pretrained("user/start")
        model.push_to_hub("user/next")
        trainer = trainer_of(tmp_path)
        trainer.model = model
        trainer.push_to_hub(model_name="user/run")
        bases = {name: ModelCard(hub.files(name)["README.md"].decode()).data.base_model for _, name in hub.repositories}
    assert bases == {"user/start": None, "user/next": "user/start", trainer.hub_model_id: "user/start"}


def test_two_encoders_are_both_base_models() -> None:
    facts = CardFacts(base_model=["user/vit", "user/bert"], arguments={"seed": 1})
    card = make_model_card(tiny_config(), "AlbefForImageTextRetrieval", "user/albef", facts)
    assert card.data.base_model == ["user/vit", "user/bert"]
    assert "`user/vit` and `user/bert`" in card.content


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (None, "candidates by the logit of the matching head, as published."),
        (0.0, "candidates by similarity alone: the matching head was not trained"),
        (0.5, "candidates by the sum of similarity / temperature and 0.5 times the logit of the matching head."),
    ],
)
def test_a_card_says_what_orders_the_candidates(weight: float | None, words: str, tmp_path: Path) -> None:
    """And its Python takes the score that is of use."""
    save_retrieval(tmp_path / "model")
    model = AlbefForImageTextRetrieval.from_pretrained(tmp_path / "model")
    model.config.rerank_weight = weight
    text = make_model_card(model.config, RETRIEVAL, "user/photos").text
    assert words in " ".join(text.split())
    source = text.split("```python\n")[1].split("```")[0]
    last = source[source.index("outputs =" if weight == 0 else "print(") :]
    inputs = AlbefProcessor.from_pretrained(tmp_path / "model")(
        images=Image.new("RGB", (40, 30), "red"), text=["a red circle", "a blue square"], return_tensors="pt"
    )
    printed: list[Any] = []
    exec(last, {"model": model, "inputs": inputs, "print": printed.append})
    (scores,) = printed
    outputs = model(**inputs)
    expected = outputs.logits_per_image if weight == 0 else outputs.itm_logits.softmax(-1)[0, :, 1]
    assert torch.equal(scores, expected)
    assert "A search orders" not in make_model_card(model.config, "AlbefModel", "user/photos").text


@pytest.mark.parametrize(
    "model_class",
    [
        AlbefModel,
        AlbefForImageTextRetrieval,
        AlbefForPreTraining,
        AlbefForQuestionAnswering,
        AlbefForImageTextClassification,
        AlbefForVisualReasoning,
        AlbefForTextAssignment,
    ],
)
def test_the_python_of_a_folders_card_runs_as_it_stands(
    model_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    is_vqa = model_class is AlbefForQuestionAnswering
    model = save_vqa(tmp_path / "mine") if is_vqa else save_retrieval(tmp_path / "mine", model_class)
    for name in ("photo", "left", "right"):
        Image.new("RGB", (40, 30), "red").save(f"{name}.jpg")
    text = make_model_card(model.config, type(model).__name__, "mine").text
    source = text.split("```python\n")[1].split("```")[0]
    assert "import modeling_albef\nimport processing\n" in source and "trust_remote_code" not in text
    assert "where the folder `mine` is" in text and "import albef" in text
    exec(source, {})
    assert capsys.readouterr().out.strip()


def test_only_a_card_of_the_hub_with_code_trusts_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = save_retrieval(tmp_path / "model")
    with serve() as hub:
        hub.take_over(monkeypatch)
        for name, save_code in (("user/code", True), ("user/bare", False)):
            model.push_to_hub(name, save_code=save_code)
        for name, push_code in (("user/run", True), ("user/bare_run", False)):
            trainer_of(tmp_path, push_code=push_code).push_to_hub(model_name=name)
            (pushed,) = {one for _, one in hub.repositories} - {"user/code", "user/bare"}
            assert ("trust_remote_code" in hub.files(pushed)["README.md"].decode()) == push_code
        for name, save_code in (("user/code", True), ("user/bare", False)):
            card = hub.files(name)["README.md"].decode()
            assert card.count(", trust_remote_code=True)") == 2 * save_code
            assert ("import modeling_albef\n" in card) == (not save_code) and "the folder" not in card


@pytest.mark.parametrize(
    ("tokens", "language", "expected", "words"),
    [
        (30522, None, "en", "It reads English text."),
        (119547, None, None, "It reads text in the language of its training data."),
        (30522, "de", "de", "It reads text in the language `de`."),
        (119547, ["de", "fr"], ["de", "fr"], "It reads text in the languages `de` and `fr`."),
        (250002, "multilingual", "multilingual", "It reads text in the languages of its tokenizer and its training"),
    ],
)
def test_a_card_claims_no_language_that_is_not_known(tokens: int, language: Any, expected: Any, words: str) -> None:
    config = tiny_config()
    config.text_config.vocab_size = tokens
    card = make_model_card(config, RETRIEVAL, "user/model", CardFacts(language=language))
    assert card.data.language == expected and words in " ".join(card.text.split())


def test_a_card_names_the_labels_and_the_units_of_errors() -> None:
    config = tiny_config()
    config.id2label = {0: "true", 1: "cannot | be told"}
    results = {"test": {"pearson": 90.0, "mae": 0.25}}
    text = make_model_card(config, "AlbefForImageTextClassification", "user/model", CardFacts(results=results)).text
    assert "Labels: `true`, `cannot | be told`." in text and "in per cent, errors in units of the labels" in text
    assert "| test | Mean absolute error | 0.25 |" in text
    config.id2label = {number: f"l{number}" for number in range(30)}
    text = make_model_card(config, "AlbefForVisualReasoning", "user/model").text
    assert "`l19` and 10 more, see `config.json`." in text and "`l20`" not in text
    assert "Labels:" not in make_model_card(config, RETRIEVAL, "user/model").text
    config.problem_type = "regression"
    assert "Labels:" not in make_model_card(config, "AlbefForImageTextClassification", "user/model").text
    text = make_model_card(config, RETRIEVAL, "user/model", CardFacts(arguments={"seed": 1})).text
    assert "Trained on unnamed data, with" in text
