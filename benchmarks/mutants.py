"""Which small changes to the code no test notices: a random sample of mutmut's mutants, and a table of the survivors.

    python -m benchmarks.mutants --sample 400 --seed 0 [--only 'processing.collators.*'] [--output results.json]

Files, tests and settings are those of `[tool.mutmut]` in `pyproject.toml`. A mutant that changes no more than the
wording of a message (a string in a `raise`, in a call of `logger`, `warnings` or `print`) is counted and left out.
`docs/mutants.md` has what the last sample found, and explains each change that no test can notice.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import fnmatch
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path("mutants")  # mutmut's working copy
FOUND = ("killed", "timeout")  # what mutmut says of a mutant that a test notices
SPEAKERS = ("logger", "warnings", "print")
CONTEXT = 60  # characters that are shown before and after a change


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=400, help="mutants to try")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names of mutants, default: all")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args(arguments)
    os.nice(10)
    create_mutants()
    mutants = [mutant for mutant in find_mutants() if any(fnmatch.fnmatch(mutant["name"], one) for one in options.only)]
    wordings = sum(mutant["is_wording"] for mutant in mutants)
    sample = draw([mutant for mutant in mutants if not mutant["is_wording"]], options.sample, options.seed)
    mutmut("run", "--max-children", "1", *(mutant["name"] for mutant in sample))
    lines = mutmut("results", "--all", "true", capture=True).splitlines()
    statuses = dict(line.strip().split(": ") for line in lines if "__mutmut_" in line)
    for mutant in sample:
        mutant["status"] = statuses[mutant["name"]]
    print(f"{len(mutants)} mutants, {wordings} of them change wording alone and are left out; seed {options.seed}")
    report(sample)
    if options.output:
        options.output.write_text(json.dumps(sample, indent=1, ensure_ascii=False), encoding="utf-8")


def create_mutants() -> None:
    """Let mutmut write all mutants; it has no command that does this alone."""
    code = (
        "import mutmut.__main__ as m; m.set_mutant_under_test('mutant_generation'); m.makedirs(m.Path('mutants'), "
        "exist_ok=True); m.copy_src_dir(); m.copy_also_copy_files(); m.setup_source_paths(); "
        "m.store_lines_covered_by_tests(); m.create_mutants(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def mutmut(*arguments: str, capture: bool = False) -> str:
    """Run a command of mutmut and return what it prints, if that is captured."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, check=True, env=environment, text=True, stdout=subprocess.PIPE if capture else None)
    return done.stdout or ""


def find_mutants() -> Iterator[dict[str, Any]]:
    """Yield name, file and difference of each mutant, and whether it changes wording alone."""
    for meta in sorted(FOLDER.rglob("*.py.meta")):
        source = meta.with_suffix("")
        file = source.relative_to(FOLDER)
        tree = ast.parse(source.read_text(encoding="utf-8"))
        functions = {
            node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for name in json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]:
            function = name.rpartition(".")[2]
            original = functions[function.rpartition("__mutmut_")[0] + "__mutmut_orig"]
            mutant = functions[function]
            mutant.name = original.name
            is_wording = changes_wording_alone(original, mutant)
            yield {
                "name": name,
                "file": str(file),
                "change": difference(original, mutant),
                "is_wording": is_wording,
            }


def changes_wording_alone(original: ast.AST, mutant: ast.AST, speaks: bool = False) -> bool:
    """Return whether two trees differ in one string inside of a message; two equal trees do not."""
    if type(original) is not type(mutant):
        return False
    if isinstance(original, ast.Constant) and isinstance(mutant, ast.Constant):
        return speaks and isinstance(original.value, str) and isinstance(mutant.value, str)
    speaks = speaks or isinstance(original, ast.Raise)
    if isinstance(original, ast.Call):
        speaks = speaks or ast.unparse(original.func).split(".")[0] in SPEAKERS
    ours, theirs = list(ast.iter_child_nodes(original)), list(ast.iter_child_nodes(mutant))
    different = [pair for pair in zip(ours, theirs, strict=False) if ast.dump(pair[0]) != ast.dump(pair[1])]
    return len(ours) == len(theirs) and len(different) == 1 and changes_wording_alone(*different[0], speaks)


def difference(original: ast.AST, mutant: ast.AST) -> str:
    """Return the statements that differ as the parser writes them, of long ones only what is around the change."""
    ours, theirs = ast.unparse(original).splitlines(), ast.unparse(mutant).splitlines()
    lines = [line for line in difflib.ndiff(ours, theirs) if line[0] in "-+"]
    before, after = ("".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    start = _common_start(before, after)
    end = _common_start(before[:start:-1], after[:start:-1])
    first = max(0, start - CONTEXT)
    before, after = (line[first : len(line) - end + CONTEXT] for line in (before, after))
    return f"- {before}\n+ {after}"


def _common_start(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def draw(mutants: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Return `count` of them, each as likely as another."""
    mutants = sorted(mutants, key=lambda mutant: mutant["name"])
    return random.Random(seed).sample(mutants, min(count, len(mutants)))


def report(sample: list[dict[str, Any]]) -> None:
    """Print a line a file, the sum, and each survivor."""
    tried = Counter(mutant["file"] for mutant in sample)
    survivors = [mutant for mutant in sample if mutant["status"] not in FOUND]
    survived = Counter(mutant["file"] for mutant in survivors)
    print(f"{'file':55} {'tried':>6} {'killed':>6} {'survived':>8} {'share':>6}")
    for file, count in [*sorted(tried.items()), ("all", len(sample))]:
        alive = len(survivors) if file == "all" else survived[file]
        print(f"{file:55} {count:6} {count - alive:6} {alive:8} {alive / count:6.1%}")
    for mutant in survivors:
        print(f"\n{mutant['file']}  {mutant['name'].rpartition('.')[2]}  {mutant['status']}\n{mutant['change']}")


if __name__ == "__main__":
    main()
