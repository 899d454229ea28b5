"""The small sizes of the benchmarks run; that of the input pipeline adds up, and says what scaled decoding changes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from run_cases import ROOT

from benchmarks.cached_states import StepClock, write_sparse_store
from benchmarks.gpu import main as run_on_gpu
from benchmarks.input_pipeline import main
from benchmarks.limits import Products
from benchmarks.mutants import changes_wording_alone, difference, draw, find_mutants
from benchmarks.slopes import FIGURES, slopes
from processing.image_states import ImageStates

SMALL = ["--count", "6", "--rounds", "1", "--batch_size", "3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("retrieval_evaluation", "training_step", "vqa_evaluation", "data_preparation", "data_statistics", "slopes"),
        *("search", "vqa_training_step", "cached_states"),
    ],
)
def test_small_sizes(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--output", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    cases = json.loads((tmp_path / "out.json").read_text())
    differences = [case["max_score_difference"] for case in cases.values() if "max_score_difference" in case]
    assert max(differences, default=0.0) < 0.1  # the bfloat16 one; what is equal exactly has tests of its own


@pytest.mark.slow
def test_a_checkout_beside_itself(tmp_path: Path) -> None:
    """The same sums; products take a time, too."""
    command = [sys.executable, "-m", "benchmarks.beside", ".", "--quick", "--runs", "1"]
    command += ["--only", "encoding", "questions", "--output"]
    done = subprocess.run([*command, str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    cases = json.loads((tmp_path / "out").read_text())
    assert cases.pop("machine") and len(cases) == 3
    assert {case.get("difference", 0.0) for case in cases.values()} == {0.0}
    assert all(case["share_of_limit"] > 0 and case["gflop"] > 0 for case in cases.values())


def test_products_are_counted_whoever_computes_them() -> None:
    query, rows, weight = torch.randn(2, 3, 40, 16), torch.randn(40, 32), torch.randn(8, 32)
    with torch.no_grad(), Products() as counted:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert counted.flops == 2 * 2 * (2 * 3) * 40 * 40 * 16 and counted.seconds(1) > 0
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return
    with torch.no_grad(), Products() as counted:
        torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")
    assert counted.flops == 2 * 40 * 32 * 8


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


@pytest.mark.parametrize(
    ("before", "after", "is_wording"),
    [
        ("raise ValueError('a', x)", "raise ValueError('b', x)", True),
        ("raise ValueError(f\"{', '.join(x)} is\")", "raise ValueError(f\"{'XX, XX'.join(x)} is\")", True),
        ("logger.warning('a %s', x)", "logger.warning('A %s', x)", True),
        ("print('a')", "print('b')", True),
        ("warnings.warn('a')", "warnings.warn('b')", True),
        ("raise ValueError('a', x)", "raise ValueError('a', None)", False),
        ("raise ValueError('a')", "raise ValueError(None)", False),
        ("raise ValueError(1)", "raise ValueError(2)", False),
        ("logger.warning('a', x)", "logger.warning(x)", False),
        ("x = y['a']", "x = y['b']", False),
        ("return 'a'", "return 'b'", False),
        ("if 'a' in x:\n  raise E", "if 'b' in x:\n  raise E", False),
    ],
)
def test_which_changes_are_of_words_alone(before: str, after: str, is_wording: bool) -> None:
    original, mutant = (
        ast.parse("def f():\n" + "".join(f" {line}\n" for line in text.splitlines())) for text in (before, after)
    )
    assert changes_wording_alone(original, mutant) is is_wording
    assert not changes_wording_alone(original, original)


def test_a_change_is_shown_with_what_is_around_it() -> None:
    long = f"def f():\n    return ({'a + ' * 50}1{' + b' * 50})"
    before, after = difference(ast.parse(long), ast.parse(long.replace("1", "2"))).splitlines()
    assert before == f"- {('a + ' * 15)}1{(' + b' * 15)}" and after == before.replace("- ", "+ ", 1).replace("1", "2")
    assert difference(ast.parse("x = y"), ast.parse("x = None")) == "- x = y\n+ x = None"


def test_mutants_are_found_in_the_files_that_mutmut_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack").mkdir()
    bodies = {"orig": "return 1", "1": "return 2", "2": "raise E('XXaXX')"}
    code = "".join(f"def x_f__mutmut_{name}():\n    {body}\n" for name, body in bodies.items())
    (tmp_path / "pack/a.py").write_text(code)
    names = {f"pack.a.x_f__mutmut_{number}": None for number in (1, 2)}
    (tmp_path / "pack/a.py.meta").write_text(json.dumps({"exit_code_by_key": names}))
    monkeypatch.setattr("benchmarks.mutants.FOLDER", tmp_path)
    found = list(find_mutants())
    assert [(one["name"], one["file"], one["is_wording"]) for one in found] == [
        ("pack.a.x_f__mutmut_1", "pack/a.py", False),
        ("pack.a.x_f__mutmut_2", "pack/a.py", False),
    ]
    assert found[0]["change"] == "- return 1\n+ return 2"
    many = [{"name": str(number)} for number in range(50)]
    assert draw(many, 10, 3) == draw(many[::-1], 10, 3) != draw(many, 10, 4) and len(draw(many, 99, 3)) == 50


def test_a_store_without_content_is_read_as_one_that_was_written(tmp_path: Path) -> None:
    keys = write_sparse_store(tmp_path / "sparse", images=70, tokens=5, width=3)
    written = ImageStates(tmp_path / "written")
    for start in (0, 64):
        own = keys[start : start + 64]
        written.write(own, torch.zeros(len(own), 5, 3, dtype=torch.float16))
    sparse = ImageStates(tmp_path / "sparse")
    assert len(sparse) == len(written) == 70 and len(list((tmp_path / "sparse").iterdir())) == 2
    for key in (keys[0], keys[63], keys[69]):
        assert sparse.read(key).shape == (5, 3) and torch.equal(sparse.read(key), written.read(key))


def test_the_clock_leaves_out_what_is_before_the_first_step() -> None:
    clock = StepClock()
    for _ in range(2):  # trainings
        clock.on_train_begin(None, None, None)
        time.sleep(0.05)
        for _ in range(3):
            clock.on_step_end(None, None, None)
    assert len(clock.seconds) == 4 and all(0 < wall < 0.05 for wall, _ in clock.seconds)


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


SAMPLES = """
import json, os
from benchmarks.slopes import Samples
samples = Samples()
samples.take()
kept, files = bytearray(b"1" * 50_000_000), [open(os.devnull) for _ in range(3)]
samples.take()
print(json.dumps(samples.taken))
"""


@pytest.mark.slow
def test_samples_see_memory_and_files_that_stay() -> None:
    """In a process of its own: one that has trained keeps the memory of freed tensors."""
    words = [sys.executable, "-c", SAMPLES]
    before, after = json.loads(subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout)
    assert [round(high - low, -1) for low, high in zip(before[:3], after[:3], strict=True)] == [50, 50, 50]
    assert after[3] - before[3] == 3 and after[4] > 0


def test_products_are_counted_in_closed_form() -> None:
    """Two maps and an attention of known sizes, in inference mode, where a linear map comes whole."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))
    for context, factor in ((torch.inference_mode(), 1), (torch.enable_grad(), 3)):
        with context, Products() as products:
            out = model(torch.ones(5, 8, requires_grad=factor == 3))
            if factor == 3:
                out.sum().backward()
        assert products.flops == factor * 2 * 5 * (8 * 16 + 16 * 4)
        assert sum(products.counts.values()) == 2 * factor and products.seconds(1) > 0
    assert products.bytes > 4 * (8 * 16 + 16 * 4)


def test_the_plan_for_a_gpu_runs_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    run_on_gpu(["--quick", "--runs", "1"])
    shown = capsys.readouterr().out
    for case in ("equality with the CPU", "retrieval training step", "VQA training step", "re-ranking", "encoding"):
        assert case in shown
    assert shown.count("time_over_limit") == 4
