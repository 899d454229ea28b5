"""The script of docs/own_script.md: a copy of ours that differs in three lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from run_cases import ROOT, run, write_run

PAGE = (ROOT / "docs/own_script.md").read_text()


def changed(script: str, diff: str) -> str:
    """A script after the changes that a page shows; each removed line and each line of context must be in it."""
    for old, new in re.findall(r"(^[ -].*\n)((?:^\+.*\n)*)", diff, re.MULTILINE):
        added = re.sub(r"^\+", "", new, flags=re.MULTILINE)
        assert script.count(old[1:]) == 1, old
        script = script.replace(old[1:], (old[1:] if old[0] == " " else "") + added)
    return script


@pytest.mark.slow
def test_three_lines_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (parts,) = re.findall(r"<!-- file: my_parts.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    (diff,) = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)
    assert sum(line.startswith("+") for line in diff.splitlines()) == 4  # the import, and three lines
    (tmp_path / "my_parts.py").write_text(parts)
    script = tmp_path / "my_run.py"
    script.write_text(changed((ROOT / "run_retrieval.py").read_text(), diff))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run(str(script), [write_run(tmp_path)])
    metrics = json.loads((tmp_path / "out/all_results.json").read_text())
    assert metrics["test_img_r1"] <= metrics["test_img_r3"] <= metrics["test_img_r5"]
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    assert state["max_steps"] == 2 * (40 // 8)  # a caption an image
