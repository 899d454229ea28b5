"""A run whose vocabulary knows nothing of its data is refused before it starts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from run_cases import refused, write_run

import run_retrieval
import run_vqa
from modeling_albef.training.application import check_vocabulary
from modeling_albef.training.application.vocabulary import _sample
from modeling_albef.training.errors import AlbefError
from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer

CHINESE, ENGLISH = "红色的圆", "a red circle"


@pytest.fixture
def processor() -> AlbefProcessor:
    return AlbefProcessor(AlbefImageProcessor(), build_tokenizer([ENGLISH]))


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    for name in ("transformers", "modeling_albef"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if "vocabulary" in record.getMessage()]


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_a_run_is_refused(tmp_path: Path, task: str, split: str) -> None:
    build_tokenizer(["a red circle"]).save_pretrained(tmp_path / "english")
    main = {"retrieval": run_retrieval.main, "vqa": run_vqa.main}[task]
    files = {}
    for name in ("train", "validation"):
        text, rows = CHINESE if name == split else ENGLISH, []
        for number in range(3):
            Image.new("RGB", (8, 8), (9 * number, 0, 0)).save(tmp_path / f"{name}{number}.png")
            row: dict[str, Any] = {"image": f"{name}{number}.png", "caption": [text]}
            if task == "vqa":
                row = {"image": f"{name}{number}.png", "question": text, "question_id": number, "answer": ["red"]}
            rows.append(row)
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        files[f"{name}_files"] = [str(tmp_path / f"{name}.json")]
    changes: dict[str, Any] = {"dataset": None, "dataset_config": None, "do_predict": False}
    changes["tokenizer"] = str(tmp_path / "english")
    changes["image_root"] = str(tmp_path)
    if task == "vqa":
        changes |= {"queue_size": None, "k_test": 2}
    config = write_run(tmp_path, **changes, **files)
    message = refused(main, [config])
    column = "caption" if task == "retrieval" else "question"
    assert f"knows no word of the {split} {column}s, such as '{CHINESE}': give a --tokenizer of their" in message


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_tenth_warns_once(processor: AlbefProcessor, warned: Callable[[], list[str]], is_stream: bool) -> None:
    def rows(*texts: Any) -> Any:
        table = datasets.Dataset.from_dict({"caption": list(texts)})
        return table.to_iterable_dataset() if is_stream else table

    check_vocabulary(processor, {"train": rows(*[ENGLISH] * 6, "红"), "test": rows([ENGLISH], [])}, "caption")
    assert not warned() and not processor.judges_vocabulary
    processor.judges_vocabulary = True
    check_vocabulary(processor, {"train": rows(ENGLISH, CHINESE), "test": rows(CHINESE, ENGLISH)}, "caption")
    (message,) = warned()
    assert message.startswith("The vocabulary lacks 57% of the tokens of the train captions, such as 'a red circle'")
    processor(text=CHINESE)
    assert len(warned()) == 1
    with pytest.raises(AlbefError, match=f"knows no word of the test captions, such as '{CHINESE}'"):
        check_vocabulary(processor, {"train": rows(ENGLISH), "test": rows([CHINESE])}, "caption")


def test_of_many_rows_a_sample_is_read() -> None:
    table = datasets.Dataset.from_dict({"caption": [f"a {number}" for number in range(20_000)]})
    assert _sample(table, "caption") == [f"a {number}" for number in range(0, 20_000, 20)]
