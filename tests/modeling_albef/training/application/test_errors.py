"""A user's own bug shows Python's traceback; what a user can mend is a sentence, said once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from run_cases import ROOT, run, two_processes, write_run
from torch.utils.data import DataLoader, Dataset

import run_retrieval
from dataset_scripts import DataError
from dataset_scripts.shapes import Shapes
from modeling_albef import AlbefError, AlbefForImageTextRetrieval
from modeling_albef.training.application import exit_without_traceback
from processing import RetrievalCollator, UnreadableImageError

BUGS = (KeyError, TypeError, AttributeError, RuntimeError)
PLACES: dict[str, tuple[Any, str]] = {
    "collator": (RetrievalCollator, "__call__"),
    "model": (AlbefForImageTextRetrieval, "forward"),
    "constructor": (AlbefForImageTextRetrieval, "__init__"),
    "builder": (Shapes, "_generate_examples"),
}


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.parametrize("place", PLACES)
def test_bugs_pass_as_they_are(
    place: str, bug: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise bug("a bug of one's own")

    monkeypatch.setattr(*PLACES[place], broken)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    config = write_run(tmp_path, dataset_config={"num_train": 8, "num_validation": 2, "image_size": 32})
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
        TypeError: "splits + 1",
        AttributeError: "splits.trian",
        RuntimeError: "(_ for _ in ()).throw(RuntimeError('mine'))",
    }
    line = '    splits = load_splits(data_args, args, task="retrieval")\n'
    assert line in text
    script = folder / "my_script.py"
    script.write_text(text.replace(line, f"{line}    print({mistakes[bug]})\n"))
    return str(script)


@pytest.mark.parametrize("bug", BUGS)
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
