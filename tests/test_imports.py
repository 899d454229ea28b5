"""The packages' imports form a tree of little depth, and the folders stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("modeling_albef", "processing", "dataset_scripts")
SCRIPTS = [*ROOT.glob("run_*.py"), ROOT / "app.py"]
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
HUB_FILES = {*ROOT.glob("modeling_albef/*_albef*.py"), *ROOT.glob("processing/*processing_albef*.py")}
LONGEST_CHAIN = 9
FILES_IN_A_FOLDER = 16  # beside __init__.py
HUB_FILES_IN_A_FOLDER = 20  # flat, since the library copies a flat folder to the Hub; a head is a file

# What may be imported, beside what is under the same entry. The longest entry that begins a module's name counts.
MODELS, TRAINING, CONVERSION = "modeling_albef", "modeling_albef.training", "modeling_albef.conversion"
ALLOWED: dict[str, tuple[str, ...]] = {
    MODELS: (),
    CONVERSION: (MODELS, TRAINING),
    **{f"{CONVERSION}.{name}": (MODELS,) for name in ("foreign_configs", "encoders", "onnx_encoder")},
    f"{CONVERSION}.convert_albef_to_hf": (MODELS, CONVERSION, TRAINING, "processing"),
    f"{CONVERSION}.export_albef_to_onnx": (MODELS, CONVERSION),
    "modeling_albef.convert_albef_to_hf": (f"{CONVERSION}.convert_albef_to_hf",),
    "modeling_albef.export_albef_to_onnx": (f"{CONVERSION}.export_albef_to_onnx",),
    "modeling_albef.explain": (MODELS,),
    "modeling_albef.explain.visualize": (MODELS, "modeling_albef.explain", "processing"),
    "modeling_albef.visualize": ("modeling_albef.explain.visualize",),
    "modeling_albef.serving": (MODELS,),
    "modeling_albef.serving.page": (MODELS, "modeling_albef.serving", "processing"),
    TRAINING: (MODELS, "modeling_albef.explain", f"{TRAINING}.rows"),
    f"{TRAINING}.rows": (MODELS, TRAINING, "processing"),  # when a trainer or an evaluation is handed data
    f"{TRAINING}.application": (
        *(MODELS, TRAINING, f"{TRAINING}.rows", f"{CONVERSION}.foreign_configs"),
        *("processing", "dataset_scripts"),
    ),
    "processing": (),
    "dataset_scripts": ("processing",),
}


def name_of(path: Path) -> str:
    """The dotted name of a file; that of its package for an `__init__.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in [*FILES, *SCRIPTS]}


def walk(node: ast.AST, whole: bool) -> Iterator[ast.AST]:
    """Every node of a file; without `whole` only what runs when it is imported."""
    for child in ast.iter_child_nodes(node):
        if whole or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield child
            yield from walk(child, whole) if whole or not is_for_types else ()


def imported(path: Path, whole: bool = True) -> Iterator[tuple[int, str, str]]:
    """Level, module and name of every import of a file; the name is empty in `import module`."""
    for node in walk(ast.parse(path.read_text()), whole):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, node.module or "", alias.name) for alias in node.names)


@cache
def targets(path: Path, whole: bool) -> frozenset[str]:
    """The project's modules that a file imports."""
    package = name_of(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    found = set()
    for level, module, name in imported(path, whole):
        start = package[: len(package) - level + 1] if level else []
        base = ".".join([*start, *filter(None, module.split("."))])
        if f"{base}.{name}" in MODULES:
            found.add(f"{base}.{name}")
        elif base in MODULES:
            found.add(base)
    return frozenset(found - {name_of(path)})


def folder_rule(module: str) -> str:
    """The entry of ALLOWED that a module belongs to."""
    parts = module.split(".")
    return next(".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in ALLOWED)


def test_no_edge_but_the_allowed_ones() -> None:
    wrong = []
    for path in FILES:
        own = folder_rule(name_of(path))
        for target in targets(path, whole=True):
            wanted = None if target.startswith("run_") or target == "app" else folder_rule(target)
            if wanted != own and wanted not in ALLOWED[own]:
                wrong.append(f"{name_of(path)} -> {target}")
    assert not wrong


def edges() -> dict[str, set[str]]:
    """Imports that run when a module is imported. A package's own files do not import what its `__init__` lists."""
    return {
        name: {target for target in targets(path, whole=False) if not name.startswith(f"{target}.")}
        for name, path in MODULES.items()
    }


def test_no_cycle_and_no_long_chain() -> None:
    graph = edges()
    longest: dict[str, list[str]] = {}
    for name in TopologicalSorter(graph).static_order():  # raises CycleError
        below = max((longest[target] for target in sorted(graph[name])), key=len, default=[])
        # an __init__.py that lists its package's names is no step of its own
        longest[name] = below if MODULES[name].name == "__init__.py" and below else [name, *below]
    chain = max(longest.values(), key=len)
    assert len(chain) <= LONGEST_CHAIN, f"{len(chain)} files: {' -> '.join(chain)}"


def test_what_counts_as_an_import(tmp_path: Path) -> None:
    lines = [
        *("import a", "from typing import TYPE_CHECKING", "if TYPE_CHECKING:", "    import b"),
        *("def f():", "    import c", "class D:", "    import d", "try:", "    import e", "except ImportError: pass"),
    ]
    (tmp_path / "x.py").write_text("\n".join(lines))
    assert [module for _, module, _ in imported(tmp_path / "x.py", whole=False)] == ["a", "typing", "d", "e"]
    assert {"b", "c"} < {module for _, module, _ in imported(tmp_path / "x.py")}


def test_folders_are_small() -> None:
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in FILES if path.name != "__init__.py")
    limits = {"modeling_albef": HUB_FILES_IN_A_FOLDER}
    assert not {folder: count for folder, count in counts.items() if count > limits.get(folder, FILES_IN_A_FOLDER)}


def test_tests_mirror_the_packages() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    folders.remove(Path("gpu"))  # of all packages: what needs CUDA
    assert folders == {folder for folder in folders if (ROOT / folder).is_dir()}
    assert {Path("processing"), Path("modeling_albef/training/evaluation")} <= folders


def test_hub_files_import_siblings_only() -> None:
    assert len(HUB_FILES) >= 8
    for path in HUB_FILES:
        for level, module, _ in imported(path):
            assert level in (0, 1), path
            if level == 1:
                assert module and "." not in module and (path.parent / f"{module}.py").is_file(), f"{path}: {module}"


def test_base_names_are_unique() -> None:
    names = [path.name for package in ("modeling_albef", "processing") for path in (ROOT / package).glob("*.py")]
    assert sorted({n for n in names if names.count(n) > 1}) == ["__init__.py"]


def test_models_do_not_import_datasets_or_accelerate() -> None:
    code = (
        "import sys, transformers.modeling_utils; before = set(sys.modules); import modeling_albef; "
        "heavy = {'datasets', 'accelerate', 'evaluate', 'torchvision', 'peft'}; "
        "print(heavy & set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
