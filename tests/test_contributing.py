"""The walk through the files of a task in docs/contributing.md shows their own lines, in their order."""

from __future__ import annotations

import re

import pytest
from run_cases import ROOT

PAGE = (ROOT / "docs/contributing.md").read_text()
SHOWN = re.findall(r"<!-- not run: lines of (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("file", "block"), SHOWN, ids=[file for file, _ in SHOWN])
def test_lines_are_those_of_the_file(file: str, block: str) -> None:
    lines = (ROOT / file).read_text().splitlines()
    start = 0
    for line in block.splitlines():
        if line.strip() != "...":
            start = lines.index(line, start) + 1  # a ValueError names the line


def test_hooks_are_those_of_the_trainer() -> None:
    from modeling_albef.training import AlbefTrainer

    hooks = re.findall(r"^\| `(\w+)[^`]*` \|", PAGE[PAGE.index("| hook of `AlbefTrainer` |") :], re.MULTILINE)
    assert len(SHOWN) == 4 and len(hooks) == 6
    assert all(hasattr(AlbefTrainer, hook) for hook in hooks)
