"""Any configuration starts a run, or is refused by a sentence that names the field; a refusal leaves no trace."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import json
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import hypothesis.strategies as st
import pytest
import yaml
from accelerate.state import AcceleratorState, PartialState
from fuzz_cases import COUNTS, NUMBERS, TEXT, VALUES, damaged, fuzz, mostly
from run_cases import TINY
from transformers import TrainingArguments

import run_retrieval
import run_vqa
from modeling_albef import AlbefConfig
from modeling_albef.training import RetrievalTrainingArguments, VQATrainingArguments
from modeling_albef.training.application import DataArguments, ModelArguments, VQADataArguments
from processing import build_tokenizer

SCRIPTS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "retrieval": (run_retrieval, (ModelArguments, DataArguments, RetrievalTrainingArguments)),
    "vqa": (run_vqa, (ModelArguments, VQADataArguments, VQATrainingArguments)),
}
LIBRARY = {field.name for field in dataclasses.fields(TrainingArguments)}
FIELDS = {
    name: sorted({field.name for one in classes for field in dataclasses.fields(one) if field.init})
    for name, (_, classes) in SCRIPTS.items()
}
OWN = {name: sorted(set(fields) - LIBRARY) for name, fields in FIELDS.items()}
BASE: dict[str, Any] = {
    "model_config": TINY["model_config"],
    "tokenizer": "tokenizer",
    "train_files": ["missing.json"],
    "output_dir": "out",
    "use_cpu": True,
    "queue_size": 4,
    "disable_tqdm": True,
    "report_to": "none",
}
OUTPUTS = st.sampled_from(["out", "a/b", "file.txt", "file.txt/below", "full", "", "a\0b", "x" * 300, 5, 1.5, True, []])
WRITTEN = st.sampled_from(
    [
        *(
            "1e-5",
            "nan",
            "inf",
            "-1",
            "0",
            "1",
            "0.5",
            "true",
            "no",
            "none",
            "auto",
            "null",
            "{}",
            "[]",
            '{"a": 1}',
            "a b",
        ),
        *("epoch", "steps", "best", "last", "cosine", "eager", "sdpa", "r_mean", "vqa_accuracy", "loss", "file.txt"),
    ]
)
ODD = st.sampled_from([datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), b"a", {1, 2}, {1: 2}, [None], [[]]])
CHANGES = st.one_of(NUMBERS, WRITTEN, st.booleans(), st.none(), TEXT, VALUES, ODD)
SIZES = st.one_of(st.integers(-1, 9), st.sampled_from([16, 2**31, 10**12, 2**70, 1.5, "8", None, True, [], {}, "x"]))


class Case(NamedTuple):
    """A script, what its configuration file holds, the words after it, and what a refusal may name: field or value."""

    script: str
    content: bytes
    words: list[str]
    told: frozenset[str]


@st.composite
def model_configs(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of AlbefConfig, of which a few have other values."""
    config = json.loads(json.dumps(TINY["model_config"]))
    parts = {"": (config, AlbefConfig)} | {f"{p}_config": (None, AlbefConfig.sub_configs[f"{p}_config"]) for p in PARTS}
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(parts)))
        fields = [field.name for field in dataclasses.fields(parts[name][1])]
        place = config if not name else config.setdefault(name, dict(SIZES_OF_DECODER))
        value = draw(st.one_of(SIZES, NUMBERS, VALUES))
        if isinstance(place, dict):
            place[draw(mostly(st.sampled_from(fields), TEXT, 12))] = value
    return config


PARTS = ("vision", "text", "decoder")
_TEXT = TINY["model_config"]["text_config"]
SIZES_OF_DECODER = {name: _TEXT[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    script = draw(st.sampled_from(sorted(SCRIPTS)))
    config = BASE | ({"answer_list": "answers.json"} if script == "vqa" else {})
    config = config | dict.fromkeys(("do_train", "do_eval", "do_predict"), False) | {"eval_strategy": "no"}
    if script == "vqa":
        del config["queue_size"]
    names, words = set[str](), list[str]()
    if draw(st.integers(0, 3)) == 0:
        config["model_config"] = draw(model_configs())
        names.add("model_config")
    else:
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
            name = draw(st.sampled_from(OWN[script] + FIELDS[script]))
            config[name] = draw(OUTPUTS if name == "output_dir" else CHANGES)
            names |= {name} | ({str(config[name])} if tells(config[name]) else set())
    if draw(st.integers(0, 7)) == 0:
        unknown = draw(st.one_of(TEXT, CHANGES.filter(lambda value: value.__hash__ is not None)))
        config[unknown] = draw(CHANGES)
        names.add(str(unknown))
    if draw(st.integers(0, 5)) == 0:
        name = draw(st.sampled_from(OWN[script]))
        value = draw(st.one_of(WRITTEN, TEXT))
        if name != "output_dir":
            words = [f"--{name}", value]
            names |= {name} | ({value} if value else set())
    text = dumped(config)
    content = draw(damaged(text, most=draw(st.sampled_from([0] * 7 + [2]))))
    return Case(script, content, words, frozenset(names if content == text else names.union(FIELDS[script])))


def tells(value: Any) -> bool:
    """Whether a value is one by which a field can be told: a text, or a long number, which is a file's name, too."""
    return isinstance(value, str | int) and len(str(value)) > (0 if isinstance(value, str) else 8)


def dumped(config: dict[Any, Any]) -> bytes:
    """A YAML file; half of a surrogate pair as it would stand in a damaged file."""
    return yaml.safe_dump(config, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    build_tokenizer(["a dog"]).save_pretrained(folder / "tokenizer")
    (folder / "file.txt").write_text("a")
    (folder / "answers.json").write_text('["dog"]')
    (folder / "full").mkdir()
    (folder / "full/own.txt").write_text("a")
    return folder


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def check_case(case: Case, folder: Path) -> None:
    script, _ = SCRIPTS[case.script]
    path = folder / "config.yaml"
    path.write_bytes(case.content)
    before, environment, said = contents(folder), dict(os.environ), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            script.main([str(path), *case.words])
    except SystemExit as error:
        message = said.getvalue() + str(error)
        assert error.code not in (0, None) and message.strip() and message.encode("utf-8", "backslashreplace")
        told = [*case.told, *(repr(name)[1:-1] for name in case.told), "configuration file", "missing.json"]
        assert any(name.lower() in message.lower() for name in told), message
        assert contents(folder) == before
    finally:
        for name in contents(folder) - before:
            remove(folder / name)
        for state in (AcceleratorState, PartialState):  # each start is a process of its own
            state._reset_state()
        os.environ.clear()
        os.environ.update(environment)


def remove(path: Path) -> None:
    """Takes a file or an empty folder away; what is below a folder comes first or is gone already."""
    if path.is_dir():
        for below in path.iterdir():
            remove(below)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("count", COUNTS)
def test_configurations(count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    fuzz(count, cases(), lambda case: check_case(case, folder))
