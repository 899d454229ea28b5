"""The folder of the models holds the files that are saved beside a model, and no others."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from golden_cases import tiny_config

import modeling_albef
from modeling_albef import (
    AlbefForImageTextClassification,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefForVisualReasoning,
    AlbefModel,
)
from modeling_albef.configuration_albef import AlbefError

FOLDER = Path(modeling_albef.__file__).parent
HEADS = (
    AlbefModel,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefForImageTextClassification,
    AlbefForVisualReasoning,
)


def test_the_folder_is_what_is_saved_beside_the_models(tmp_path: Path) -> None:
    for head in HEADS:
        head(tiny_config()).save_pretrained(tmp_path, save_code=True)
    exported = {path.name for path in tmp_path.glob("*.py")}
    assert exported == {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"}
    assert len(exported) <= 20
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == exported | {"__init__.py", "py.typed"}


def test_models_do_not_import_what_stands_above_them() -> None:
    for path in FOLDER.glob("*_albef*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        above = [line for line in lines if line.startswith(("from .pipelines_albef", "from .index_albef"))]
        assert not above or path.name == "pipelines_albef.py", path


def test_attention_is_computed_by_the_librarys_interface_in_one_place_a_tower() -> None:
    product = {path: path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.py")}
    assert not [path for path, text in product.items() if "scaled_dot_product_attention" in text]
    calls = {path.name: text.count("ALL_ATTENTION_FUNCTIONS.get_interface(") for path, text in product.items()}
    found = {name: count for name, count in calls.items() if count}
    assert found == {"modeling_albef_text.py": 1, "modeling_albef_vision.py": 1}


def test_no_hub_file_asks_for_a_class_of_its_own() -> None:
    """The library may load a file several times, a copy a file that asks for it, and their classes are different."""
    files = [*FOLDER.glob("*_albef*.py"), *(FOLDER.parent / "processing").glob("*_albef*.py")]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    own = {node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    assert {"AlbefConfig", "AnswerTree", "AlbefProcessor"} <= own
    for path, tree in trees.items():
        for node in ast.walk(tree):
            asked: list[ast.AST] = []
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
                asked = list(node.args[1:])
            elif isinstance(node, ast.Compare) and any(isinstance(one, ast.Is | ast.IsNot) for one in node.ops):
                asked = [node.left, *node.comparators]
            names = {one.id for part in asked for one in ast.walk(part) if isinstance(one, ast.Name)}
            assert not names & own, f"{path.name}, line {getattr(node, 'lineno', 0)}"


@pytest.mark.parametrize("change", ["weights", "shapes", "field", "mapping"])
def test_damaged_and_foreign_models_are_named(change: str, tmp_path: Path) -> None:
    AlbefModel(tiny_config()).save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    text = config.read_text(encoding="utf-8")
    if change == "weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif change == "shapes":
        config.write_text(text.replace('"projection_dim": 8', '"projection_dim": 5'), encoding="utf-8")
    elif change == "field":
        config.write_text(text.replace('"projection_dim": 8', '"projection_dim": "8"'), encoding="utf-8")
    else:
        config.write_text('{"model_type": "albef", "text_config": 3}', encoding="utf-8")
    message = "text_config is 3, but must be a mapping" if change == "mapping" else f"The model in {tmp_path} cannot be"
    with pytest.raises(AlbefError, match=message):
        AlbefModel.from_pretrained(tmp_path)
