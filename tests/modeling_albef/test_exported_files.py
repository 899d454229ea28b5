"""The folder of the models holds the files that are saved beside a model, and no others."""

from __future__ import annotations

from pathlib import Path

from golden_cases import tiny_config

import modeling_albef
from modeling_albef import AlbefForImageTextRetrieval, AlbefForPreTraining, AlbefForQuestionAnswering, AlbefModel

FOLDER = Path(modeling_albef.__file__).parent
HEADS = (AlbefModel, AlbefForImageTextRetrieval, AlbefForPreTraining, AlbefForQuestionAnswering)


def test_the_folder_is_what_is_saved_beside_the_models(tmp_path: Path) -> None:
    for head in HEADS:
        head(tiny_config()).save_pretrained(tmp_path, save_code=True)
    exported = {path.name for path in tmp_path.glob("*.py")}
    assert exported == {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"}
    assert len(exported) <= 16
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == exported | {"__init__.py", "py.typed"}


def test_models_do_not_import_what_stands_above_them() -> None:
    for path in FOLDER.glob("*_albef*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        above = [line for line in lines if line.startswith(("from .pipelines_albef", "from .index_albef"))]
        assert not above or path.name == "pipelines_albef.py", path
