"""The packages' imports form a tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("modeling_albef", "processing", "dataset_scripts")
# run, never imported: they may use all that they serve
COMMANDS = {
    ROOT / "modeling_albef/conversion/convert_albef_to_hf.py",
    ROOT / "modeling_albef/explain/visualize.py",
}
HUB_FILES = {*ROOT.glob("modeling_albef/*_albef*.py"), *ROOT.glob("processing/*processing_albef.py")}
# Who may import whom, beside the own package.
ALLOWED = {
    "modeling_albef": set(),
    "modeling_albef.training": {"modeling_albef"},
    "processing": set(),
    "dataset_scripts": {"processing"},
}


def imported(path: Path) -> list[tuple[int, str]]:
    """(level, module) of every import in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def test_no_edge_but_the_allowed_ones() -> None:
    for path in [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]:
        package = ".".join(path.relative_to(ROOT).parent.parts)
        package = "modeling_albef.training" if package.startswith("modeling_albef.training") else package
        package = "dataset_scripts" if package.startswith("dataset_scripts") else package
        for level, module in imported(path):
            if level == 0 and module.split(".")[0] in (*PACKAGES, "run_retrieval", "run_vqa", "tests"):
                target = module.split(".")[0]
                allowed = {"processing"} if path in COMMANDS else ALLOWED[package]
                assert target in allowed, f"{path} imports {module}"
            assert level < 4


def test_hub_files_import_siblings_only() -> None:
    assert len(HUB_FILES) >= 8
    for path in HUB_FILES:
        for level, module in imported(path):
            assert level in (0, 1), path
            if level == 1:
                assert module and "." not in module and (path.parent / f"{module}.py").is_file(), f"{path}: {module}"


def test_base_names_are_unique() -> None:
    names = [path.name for package in ("modeling_albef", "processing") for path in (ROOT / package).glob("*.py")]
    assert sorted({n for n in names if names.count(n) > 1}) == ["__init__.py"]


def test_models_do_not_pull_in_datasets_or_accelerate() -> None:
    code = (
        "import sys, transformers.modeling_utils; before = set(sys.modules); import modeling_albef; "
        "heavy = {'datasets', 'accelerate', 'evaluate', 'torchvision'}; print(heavy & set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
