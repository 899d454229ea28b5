"""A user's own bug shows Python's traceback; what a user can mend is a sentence, said once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from run_cases import ROOT, refused, run, two_processes, write_run
from small_models import save_retrieval
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback

import run_retrieval
from dataset_scripts import DataError
from dataset_scripts.shapes import Shapes
from modeling_albef import AlbefError, AlbefForImageTextRetrieval
from modeling_albef.training import RankSeedCallback, RetrievalEvaluator
from modeling_albef.training.application import ModelArguments, exit_without_traceback, load_model, load_processor
from modeling_albef.training.application.parsing import parse_arguments
from processing import RetrievalCollator, UnreadableImageError

BUGS = (KeyError, TypeError, AttributeError, RuntimeError, ValueError)
PLACES: dict[str, tuple[Any, str]] = {
    "collator": (RetrievalCollator, "__call__"),
    "model": (AlbefForImageTextRetrieval, "forward"),
    "constructor": (AlbefForImageTextRetrieval, "__init__"),
    "constructor of a saved model": (AlbefForImageTextRetrieval, "__init__"),
    "builder": (Shapes, "_generate_examples"),
    "callback": (RankSeedCallback, "on_step_begin"),
    "callback of the start": (PrinterCallback, "on_init_end"),
    "metrics": (RetrievalEvaluator, "__call__"),
}


@pytest.mark.parametrize("bug", [KeyError, *(pytest.param(bug, marks=pytest.mark.slow) for bug in BUGS[1:])])
@pytest.mark.parametrize("place", PLACES)
def test_bugs_pass_as_they_are(
    place: str, bug: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise bug("a bug of one's own")

    monkeypatch.setattr(*PLACES[place], broken)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model = {}
    if "saved" in place:
        monkeypatch.undo()
        save_retrieval(tmp_path / "model")
        monkeypatch.setattr(*PLACES[place], broken)
        model = {"model_config": None, "model_name_or_path": str(tmp_path / "model")}
    config = write_run(tmp_path, dataset_config={"num_train": 8, "num_validation": 2, "image_size": 32}, **model)
    with pytest.raises(Exception) as caught:
        run_retrieval.main([config, "--do_predict=false", "--dataset_config.cache_dir", str(tmp_path / "cache")])
    chain = [caught.value]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    assert isinstance(chain[-1], bug) and "a bug of one's own" in str(chain[-1])


def write_script(folder: Path, bug: type[Exception]) -> str:
    """A copy of the script, as a user makes it, with a mistake after the data is loaded."""
    text = (ROOT / "run_retrieval.py").read_text()
    mistakes = {
        KeyError: 'splits["trian"]',
        ValueError: "int('mine')",
        TypeError: "splits + 1",
        AttributeError: "splits.trian",
        RuntimeError: "(_ for _ in ()).throw(RuntimeError('mine'))",
    }
    line = '    splits = run.load_splits(data_args, args, task="retrieval")\n'
    assert line in text
    script = folder / "my_script.py"
    script.write_text(text.replace(line, f"{line}    print({mistakes[bug]})\n"))
    return str(script)


@pytest.mark.slow
@pytest.mark.parametrize("bug", [KeyError, *(pytest.param(bug, marks=pytest.mark.slow) for bug in BUGS[1:])])
def test_a_copied_script_shows_its_bug(bug: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = run(write_script(tmp_path, bug), [write_run(tmp_path)], check=False)
    assert done.returncode == 1 and "Traceback (most recent call last)" in done.stderr
    assert re.search(rf"my_script\.py\", line \d+, in main\n +print\(.*\n(.*\n)*{bug.__name__}: ", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_copied_script_shows_its_bug_in_two_processes(
    bug: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = run(write_script(tmp_path, bug), [write_run(tmp_path)], two_processes(), check=False)
    assert done.returncode != 0 and re.search(rf"{bug.__name__}: ", done.stderr) and "my_script.py" in done.stderr


LOST = """
import os, signal
import run_retrieval

class Trainer(run_retrieval.RetrievalTrainer):
    def training_step(self, *args, **kwargs):
        if self.args.process_index == 1:
            raise RuntimeError("Connection closed by peer")
        return super().training_step(*args, **kwargs)

    def train(self, *args, **kwargs):
        try:
            return super().train(*args, **kwargs)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

run_retrieval.RetrievalTrainer = Trainer
run_retrieval.main()
"""


@pytest.mark.slow
def test_the_signal_of_the_launcher_does_not_cut_the_sentence_off(tmp_path: Path) -> None:
    """It may come when the error has left the training and is not yet said."""
    script = tmp_path / "lost.py"
    script.write_text(LOST)
    done = run(str(script), [write_run(tmp_path)], two_processes(), check=False)
    assert done.returncode != 0 and done.stderr.count("Another process of this run ended without a message") == 1


@pytest.mark.parametrize("kind", [AlbefError, DataError, UnreadableImageError])
def test_what_can_be_mended_is_a_sentence(kind: type[Exception]) -> None:
    @exit_without_traceback
    def main() -> None:
        raise kind("The value is 3: give 4.")

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == "The value is 3: give 4."


class Damaged(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> torch.Tensor:
        raise UnreadableImageError("a.png is cut short: replace it.")


def test_a_reading_process_hands_over_the_sentence_alone() -> None:
    @exit_without_traceback
    def main() -> None:
        list(DataLoader(Damaged(), num_workers=1))

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == "a.png is cut short: replace it."


@pytest.mark.parametrize("bug", [KeyError, TypeError, AttributeError])
def test_a_bug_in_ones_own_arguments_passes(bug: type[Exception]) -> None:
    @dataclass
    class Arguments:
        side: int = 3

        def __post_init__(self) -> None:
            raise bug("a bug of one's own")

    with pytest.raises(bug, match="a bug of one's own"):
        parse_arguments((Arguments,), ["--side", "4"])


def without(file: str, *path: str) -> Callable[[Path], None]:
    """What takes a field out of a JSON file of a model."""

    def change(folder: Path) -> None:
        fields = part = json.loads((folder / file).read_text())
        for name in path[:-1]:
            part = part[name]
        del part[path[-1]]
        (folder / file).write_text(json.dumps(fields))

    return change


def holding(file: str, content: bytes, instead: str | None = None) -> Callable[[Path], None]:
    """What writes a file of a model, and takes another one away."""

    def change(folder: Path) -> None:
        (folder / file).write_bytes(content)
        if instead is not None:
            (folder / instead).unlink()

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(
            holding(f"{part}_config.json", text)
            for part in ("processor", "tokenizer")
            for text in (b"{", b"\xff", b"[]")
        ),
        *(
            holding("tokenizer.json", content)
            for content in (b"", b"{}", b"[]", b"\xff", b'{"model": {"type": "BPE"}}')
        ),
        without("tokenizer.json", "model"),
        holding("processor_config.json", b'{"image_processor": {"image_processor_type": "Nobody"}}'),
        holding("processor_config.json", b'{"image_processor": {"size": "x"}, "max_words": "x"}'),
        holding("special_tokens_map.json", b"{", instead="tokenizer.json"),
        *(
            holding("config.json", content)
            for content in (b"{", b"\xff", b"[]", b'{"model_type": "albef", "text_config": 3}')
        ),
        *(holding("teacher/config.json", content) for content in (b"{", b"[]")),
        holding("adapter_config.json", b"{"),
        *(holding("model.safetensors.index.json", text, "model.safetensors") for text in (b"{}", b"[]", b"{")),
        holding("pytorch_model.bin", b"no weights", instead="model.safetensors"),
        lambda folder: (folder / "teacher/model.safetensors").unlink(),
    ],
)
def test_damaged_files_of_a_model_are_a_sentence(change: Callable[[Path], Any], tmp_path: Path) -> None:
    save_retrieval(tmp_path).save_pretrained(tmp_path / "teacher")
    change(tmp_path)

    @exit_without_traceback
    def main(argv: list[str]) -> None:
        args = ModelArguments(*argv)
        load_model(AlbefForImageTextRetrieval, args, load_processor(args, None).tokenizer)

    assert re.search("cannot be used: .{3}|no processor: .{3}|must be", refused(main, [str(tmp_path)]))


@pytest.mark.parametrize(
    "line",
    [
        r'dataset_config: {train_files: "/x\ud83d"}',
        r'dataset_config: {train_files: ["/x\ud83d"]}',
        r'dataset_config: {cache_dir: {"\ud83d": 1}}',
        r'model_config: {vision_config: {hidden_act: "\ud83d"}}',
        r'output_dir: "\ud83d"',
    ],
)
def test_half_a_surrogate_pair_is_a_sentence(line: str, tmp_path: Path) -> None:
    """No file's name has one, wherever in a configuration it stands."""
    name = line.partition(":")[0]
    path = Path(write_run(tmp_path, dataset="own_data", data_dir=str(tmp_path), **{name: None}))
    path.write_text(f"{path.read_text()}{line}\n")
    message = refused(run_retrieval.main, [str(path)])
    assert message.startswith(f"{name} is '") and message.endswith(
        "half of a surrogate pair: write the whole character."
    )


LONG = "1" * 300
FILES = {
    "dataset": None,
    "dataset_config": None,
    "train_files": f"{LONG}.json",
    "validation_files": "b.json",
    "test_files": "c.json",
}


@pytest.mark.parametrize(
    "changes", [{"tokenizer": LONG}, {"model_name_or_path": LONG}, {"output_dir": LONG}, FILES], ids=sorted
)
def test_a_name_that_no_file_can_have(changes: dict[str, Any], tmp_path: Path) -> None:
    message = refused(run_retrieval.main, [write_run(tmp_path, **changes)])
    assert "111111" in message and len(message) < 1000 and any(name in message for name in [*changes, "annotations"])
