"""The small sizes of the benchmarks run; that of the input pipeline adds up, and says what scaled decoding changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_cases import ROOT

from benchmarks.input_pipeline import main
from benchmarks.slopes import FIGURES, Samples, slopes

SMALL = ["--count", "6", "--rounds", "1", "--batch_size", "3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["retrieval_evaluation", "training_step", "vqa_evaluation", "data_preparation", "slopes"]
)
def test_small_sizes(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--output", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    cases = json.loads((tmp_path / "out.json").read_text())
    differences = [case["max_score_difference"] for case in cases.values() if "max_score_difference" in case]
    assert max(differences, default=0.0) < 0.1  # the bfloat16 one; what is equal exactly has tests of its own


def test_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "figures.json"
    main([*SMALL, "--size", "160", "120", "--image_size", "96", "--workers", "5", "--output", str(output)])
    result = json.loads(output.read_text())
    assert (result["images"], result["median_pixels"], result["scaled_decoding"]) == (6, 160 * 120, {"files": 0})
    assert list(result["share"]) == ["decode", "crop", "operations", "pixels", "text"]
    assert sum(result["share"].values()) == pytest.approx(1) and min(result["share"].values()) > 0
    step = result["step_seconds_at_which_the_loader_falls_behind"]
    assert step == pytest.approx(3 / (5 * result["images_per_second_and_core"]))
    assert f"fall behind if a step takes less than {step:.3f} s" in capsys.readouterr().out


def test_large_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "figures.json"
    main([*SMALL, "--size", "640", "480", "--image_size", "64", "--output", str(output)])
    scaled = json.loads(output.read_text())["scaled_decoding"]
    assert scaled["files"] == 6 and 0 < scaled["mean"] < 1 and scaled["mean"] < scaled["mean_max"] <= scaled["max"]
    assert "6 files are large enough" in capsys.readouterr().out


def test_a_folder_without_jpeg_files(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([*SMALL, "--images", str(tmp_path)])


def test_slopes_are_those_of_the_second_half() -> None:
    """Of lines, whatever warm-up comes before: 0.5, 0.25 and 0.125 MB, 0 files and -2 CPU milliseconds a sample."""
    warm_up = [(9.0 * number, 0.0, 0.0, number, 500.0) for number in range(50)]
    steady = [
        (700 + 0.5 * number, 300 + 0.25 * number, 200 + 0.125 * number, 12, 80 - 2.0 * number) for number in range(50)
    ]
    found = slopes([*warm_up, *steady], distance=100, per=100_000, unit="rows")
    for figure, expected in zip(FIGURES, (500, 250, 125, 0, -2000), strict=True):
        assert found[f"{figure} per 100,000 rows"] == pytest.approx(expected)
    assert found["open files, median"] == 12 and found["resident MB, median"] == pytest.approx(712.25)


def test_samples_see_memory_and_files_that_stay() -> None:
    samples = Samples()
    samples.take()
    kept, files = bytearray(b"1" * 50_000_000), [open(os.devnull) for _ in range(3)]
    samples.take()
    before, after = samples.taken
    assert [round(high - low, -1) for low, high in zip(before[:3], after[:3], strict=True)] == [50, 50, 50]
    assert after[3] - before[3] == 3 and after[4] > 0
    for file in files:
        file.close()
    assert len(kept) == 50_000_000
