"""README and docs: blocks run or say why not, options exist, links lead somewhere, what is made is up to date.

A page is read from top to bottom in a folder of its own with small models, pictures and the recipes:

* Python blocks are run, those of a page one after the other, unless another test runs them by `readme_block`.
* Commands for data sets are run; those that train or measure are taken apart by the command's own parser.
* A block that shows a file has `<!-- file: NAME -->` before it and is written there.
* A block that cannot be run has `<!-- not run: REASON -->` before it.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import json
import re
import runpy
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from foreign_configs import salesforce_retrieval
from PIL import Image
from run_cases import PAGES, ROOT
from small_models import save_retrieval, save_vqa
from transformers import HfArgumentParser

from dataset_scripts import __main__ as dataset_script_commands
from modeling_albef.training import (
    ClassificationTrainingArguments,
    GroundingTrainingArguments,
    PreTrainingTrainingArguments,
    RetrievalTrainingArguments,
    VQATrainingArguments,
)
from modeling_albef.training.application import (
    ClassificationDataArguments,
    DataArguments,
    ModelArguments,
    PreTrainingDataArguments,
    VQADataArguments,
    parse_arguments,
)

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!-- (file|not run): ([^<>]+) -->\n$")
OPTION = re.compile(r"(?<![\w-])--([A-Za-z][\w-]*)")
SCRIPTS: dict[str, tuple[Any, ...]] = {
    "run_retrieval.py": (ModelArguments, DataArguments, RetrievalTrainingArguments),
    "my_run.py": (ModelArguments, DataArguments, RetrievalTrainingArguments),
    "run_classification.py": (ModelArguments, ClassificationDataArguments, ClassificationTrainingArguments),
    "run_grounding.py": (ModelArguments, DataArguments, GroundingTrainingArguments),
    "run_pretraining.py": (ModelArguments, PreTrainingDataArguments, PreTrainingTrainingArguments),
    "run_vqa.py": (ModelArguments, VQADataArguments, VQATrainingArguments),
}
MODULES = (  # that are run with `python -m`, beside `dataset_scripts`
    *("modeling_albef.convert_albef_to_hf", "modeling_albef.export_albef_to_onnx"),
    *("modeling_albef.conversion.onnx_encoder", "modeling_albef.serving.space", "modeling_albef.visualize", "app"),
    *(f"benchmarks.{path.stem}" for path in ROOT.glob("benchmarks/*.py") if "\ndef main(" in path.read_text()),
)
MADE = ("space/start.py",)  # scripts that a command of a page makes
DOCS = ROOT / "docs"


@dataclass
class Block:
    """A fenced block of a page, and the comment before it."""

    page: Path
    line: int
    language: str
    text: str
    comment: str = ""  # "file", "not run" or nothing
    words: str = ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text, found = page.read_text(), []
    for match in FENCE.finditer(text):
        indent, language, body = match.groups()
        comment = COMMENT.search(text[: match.start()])
        lines = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        place = text[: match.start()].count("\n") + 1
        found.append(Block(page, place, language, lines, *(comment.groups() if comment else ("", ""))))
    return found


BLOCKS = {page: blocks_of(page) for page in PAGES}


def marks_of_other_tests() -> set[str]:
    """The words by which other tests take Python blocks out of the pages, to run them."""
    marks = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args
            if is_call and node.func.id in ("readme_block", "run_block") and isinstance(node.args[0], ast.Constant):
                marks.add(node.args[0].value)
    return marks


# ---- commands


def commands_of(text: str) -> Iterator[list[str]]:
    """The commands of a block, as words."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


class ParsedError(Exception):
    """The command line was read; what it asks for is not done."""


def parse_only(module: ModuleType, words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """Lets a command read its words, and stops it there; gives its parser."""
    parsers, read = [], argparse.ArgumentParser.parse_known_args

    def stop(parser: argparse.ArgumentParser, *given: Any) -> None:
        read(parser, *given)
        parsers.append(parser)
        raise ParsedError

    def stop_whole(parser: argparse.ArgumentParser, *given: Any) -> None:
        if rest := read(parser, *given)[1]:
            parser.error(f"unrecognized arguments: {rest}")
        stop(parser, *given)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *words])
        patch.setattr(argparse.ArgumentParser, "parse_args", stop_whole)
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        with suppress(ParsedError):
            module.main(*([words] if inspect.signature(module.main).parameters else []))
    return parsers[0]


def check_command(words: list[str], monkeypatch: pytest.MonkeyPatch, may_run: bool = True) -> None:
    """Runs a command, or lets its parser read it; of a block that is not run, those of this project alone."""
    if not may_run and words[0] not in ("make", "accelerate", "python"):
        return
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif words[:2] == ["accelerate", "launch"]:
        launched = launch_command_parser().parse_args(words[2:])
        script, rest = launched.training_script, launched.training_script_args
        parse_arguments(SCRIPTS[script], rest)
        if may_run and "own_data" in rest:  # three rows: it is run as it stands
            module = importlib.import_module(script.removesuffix(".py"))
            module.main([*rest, "--disable_tqdm", "true", "--report_to", "none"])
    elif words[:3] == ["python", "-m", "dataset_scripts"] and may_run and words[3] != "answer_list":
        assert dataset_script_commands.main(words[3:]) == 0
    elif words[:2] == ["python", "-m"]:
        assert words[2] in (*MODULES, "dataset_scripts")
        module = dataset_script_commands if words[2] == "dataset_scripts" else importlib.import_module(words[2])
        parse_only(module, words[3:], monkeypatch)
    elif words[0] == "python":
        assert words[1] in MADE or (ROOT / words[1]).is_file(), words[1]
    else:
        assert words[:3] == ["pip", "install", "-e"], f"say how {words[0]!r} is tested, or why it is not run"
        extras = re.findall(r"\[(.+)\]", words[3])
        assert all(f"\n{extra} =\n" in (ROOT / "setup.cfg").read_text() for extra in extras)


# ---- pages


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a reader has: the recipes, models, some pictures, a configuration file of salesforce/ALBEF."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name in ("output/demo_retrieval", "albef-coco"):
        save_retrieval(tmp_path / name)
    save_vqa(tmp_path / "output/demo_vqa")
    for number, name in enumerate(("photo.jpg", "photos/beach/img_1.jpg", "photos/img_2.jpg")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48 + number, 40), (80 * number, 120, 200 - 60 * number)).save(path)
    (tmp_path / "ALBEF/configs").mkdir(parents=True)
    (tmp_path / "ALBEF/configs/Retrieval_coco.yaml").write_text(yaml.safe_dump(salesforce_retrieval()))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere, names = marks_of_other_tests(), {"__name__": page.stem}
    for block in BLOCKS[page]:
        if block.comment == "not run":
            assert len(block.words) > 5, f"{block}: a reason is missing"
            for words in commands_of(block.text) if block.language == "bash" else ():
                check_command(words, monkeypatch, may_run=False)
        elif block.comment == "file":
            path = place / block.words
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
            if block.language == "yaml":
                check_recipe(path)
        elif block.language == "python":
            if not any(mark in block.text for mark in elsewhere):
                exec(compile(block.text, str(block), "exec"), names)
        elif block.language == "bash":
            for words in commands_of(block.text):
                check_command(words, monkeypatch)
        else:
            pytest.fail(f"{block} is of the kind {block.language!r}: say what it is with a comment before it")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_sentences(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in re.findall(r"`(python [^`]+)`", FENCE.sub("", page.read_text())):
        words = command.split()
        if words[1] != "-m":
            assert (ROOT / words[1]).is_file(), command
        elif words[2] in MODULES and len(words) > 3:
            parse_only(importlib.import_module(words[2]), words[3:], monkeypatch)
        else:
            assert importlib.util.find_spec(words[2]), command


def check_recipe(path: Path) -> None:
    """The fields of a configuration file are those of one of the run scripts."""
    fields = set(yaml.safe_load(path.read_text())) - {"run"}  # which a recorded run has
    parsers = [HfArgumentParser(list(classes)) for classes in SCRIPTS.values()]
    assert any(fields <= {action.dest for action in parser._actions} for parser in parsers), path.name


def cells_of_the_tour(kind: str) -> list[str]:
    cells = json.loads((DOCS / "tour.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def test_the_tour_is_saved_without_outputs_and_its_links_lead_somewhere() -> None:
    cells = json.loads((DOCS / "tour.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    links = re.findall(r"\]\(([^)\s]+)\)", "\n".join(cells_of_the_tour("markdown")))
    assert links and all((DOCS / link).is_file() for link in links)


@pytest.mark.slow
def test_the_tour_runs_and_its_models_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict[str, Any] = {"__name__": "tour"}
    for number, cell in enumerate(cells_of_the_tour("code")):
        exec(compile(cell, f"tour.ipynb:{number}", "exec"), names)
    assert names["metrics"]["eval_img_r10"] > 3 * 1000 / len(names["test"])  # three times chance
    assert names["accuracy"] > 35  # one answer for all questions has about 20
    assert len(names["found"]) == 5 and names["heat"].words


def test_other_tests_find_their_blocks() -> None:
    code = [block.text for blocks in BLOCKS.values() for block in blocks if block.language == "python"]
    for mark in marks_of_other_tests():
        assert sum(mark in text for text in code) == 1, mark


# ---- options and links


def all_options(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The options of every command, from its own parser."""
    parsers = [HfArgumentParser(list(classes)) for classes in SCRIPTS.values()]
    parsers.append(launch_command_parser())
    for command in dataset_script_commands.COMMANDS.values():
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        parsers.append(parser)
    needed = {"modeling_albef.convert_albef_to_hf": ["a.pth", "--output_dir", "b"]}
    needed |= {"modeling_albef.export_albef_to_onnx": ["model", "folder"], "benchmarks.grounding": ["--model", "m"]}
    needed |= {"modeling_albef.conversion.onnx_encoder": ["model.onnx", "folder"]}
    needed |= {"modeling_albef.serving.space": ["space"]}
    needed |= {"benchmarks.clients": ["http://localhost:7860"], "benchmarks.quantized_ranks": ["--model", "m"]}
    needed |= {"modeling_albef.visualize": ["photo.png", "text", "--model", "m"]}
    parsers += [parse_only(importlib.import_module(name), needed.get(name, []), monkeypatch) for name in MODULES]
    return {option for parser in parsers for action in parser._actions for option in action.option_strings}


def test_options_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever an option is named, in a sentence or in a block, some command has it; SLURM, pip and hf aside."""
    known = all_options(monkeypatch)
    others = re.compile(r"^#SBATCH .*$|pip install .*|TORCH='[^']*'|\bhf (?:down|up)load [^`]*", re.MULTILINE)
    texts = {page: others.sub("", page.read_text()) for page in PAGES}
    named = {(f"--{option}", page.name) for page, text in texts.items() for option in OPTION.findall(text)}
    assert len(named) > 40
    assert not {(option, page) for option, page in named if option not in known}


def anchors_of(page: Path) -> set[str]:
    """What links into a page may name: its headings, as the site makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://", "../../actions/")):  # of the site, not of a folder
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors_of(path), target


def test_tests_that_are_named_exist() -> None:
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    known = set(re.findall(r"^ *def (test_\w+)\(", "\n".join(files.values()), re.MULTILINE))
    text = "\n".join(
        (DOCS / f"{page}.md").read_text() for page in ("reliability", "distributed", "security", "mutants")
    )
    named = set(re.findall(r"[`:/](test_\w+(?:\.py)?)[`:]", text))
    assert len(named) > 80
    assert not {name for name in named if name not in known and name not in files}


def test_the_navigation_has_every_page_once() -> None:
    listed = re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700


# ---- what is made


def test_drawing_is_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "draw_data_flow.py"))["draw"]()
    assert (DOCS / "data_flow.svg").read_text() == made, "run `python docs/draw_data_flow.py`"


def test_the_site_links_files_of_the_repository_where_it_has_an_address() -> None:
    change = runpy.run_path(str(DOCS / "site/hooks.py"))["on_page_markdown"]
    text = "[`losses`](../modeling_albef/losses_albef.py) and [README](../README.md#data), [data](own_data.md)"
    assert change(text, config={"repo_url": None}) == "`losses` and README, [data](own_data.md)"
    linked = change(text, config={"repo_url": "https://example.org/albef/"})
    assert "(https://example.org/albef/blob/main/modeling_albef/losses_albef.py)" in linked
    assert "(https://example.org/albef/blob/main/README.md#data)" in linked
    named = change("<!-- file: a/b.yaml -->\n```yaml\nx: 1\n```\n", config={"repo_url": ""})
    assert '```yaml title="a/b.yaml"\nx: 1' in named


def packages_of_the_reference() -> list[str]:
    """The packages whose `__all__` the reference shows."""
    pages = (DOCS / "reference").glob("*.md")
    return sorted(name for page in pages for name in re.findall(r"^::: ([a-z_.]+)$", page.read_text(), re.MULTILINE))


def test_the_reference_has_the_four_packages() -> None:
    assert packages_of_the_reference() == ["dataset_scripts", "modeling_albef", "modeling_albef.training", "processing"]


@pytest.mark.parametrize("package", packages_of_the_reference())
def test_every_public_name_is_documented(package: str) -> None:
    for name in importlib.import_module(package).__all__:
        thing = getattr(importlib.import_module(package), name)
        if name.startswith("__") or isinstance(thing, dict):
            continue
        text = thing.__doc__ or ""
        assert text and not text.startswith(f"{name}("), f"{package}.{name}"  # a dataclass makes one up
        methods = vars(thing).items() if inspect.isclass(thing) else ()
        for method, value in methods:
            if inspect.isfunction(value) and not method.startswith("_") and value.__module__.startswith(package):
                assert inspect.getdoc(value) or method == "forward", f"{name}.{method}"


def test_every_difference_is_told() -> None:
    """A row of the table for each mark in the code."""
    page = (DOCS / "differences.md").read_text()
    rows = re.findall(r"^\|.*\(\.\./([\w/]+\.py)\).*\|$", page, re.MULTILINE)
    sources = [
        path for folder in ("modeling_albef", "processing", "dataset_scripts") for path in (ROOT / folder).rglob("*.py")
    ]
    marks = {path.relative_to(ROOT).as_posix(): path.read_text().count("Differs from ALBEF") for path in sources}
    marks = {name: count for name, count in marks.items() if count}
    assert len(marks) >= 5
    assert {name: rows.count(name) for name in rows} == marks
