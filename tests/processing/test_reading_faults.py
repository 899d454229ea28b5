"""Images that vanish, are damaged, come late or not at first, and readers that die."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from PIL import Image
from run_cases import refused, write_pictures, write_run
from torch.utils.data import DataLoader

from dataset_scripts import load_dataset_script
from processing import AugmentedDataset, AugmentedStream, ProcessingError, UnreadableImageError, open_image
from processing.augmented_rows import MAX_REPLACEMENTS
from run_retrieval import main


def write_images(folder: Path, count: int) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / f"{number}.png")
        rows.append({"image": str(folder / f"{number}.png"), "caption": f"text {number}", "image_id": number})
    return rows


def red(row: dict[str, Any]) -> int:
    return row["image"].getpixel((0, 0))[0]


def test_the_next_row_takes_the_place_of_an_image_that_vanished(tmp_path: Path) -> None:
    rows = write_images(tmp_path, 6)
    (tmp_path / "2.png").unlink()
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:40])
    (tmp_path / "5.png").write_bytes(b"")
    data = AugmentedDataset(rows, bad_images="replace")
    assert [red(row) for row in data] == [0, 1, 4, 4, 4, 0]
    assert [row["caption"] for row in data][1:4] == ["text 1", "text 4", "text 4"]
    assert [row.get("replaced_image") for row in data] == [
        *(None, None, repr(str(tmp_path / "2.png")), repr(str(tmp_path / "3.png")), None, repr(str(tmp_path / "5.png")))
    ]
    with pytest.raises(UnreadableImageError, match=r"Row 2: .*2\.png' does not exist"):
        AugmentedDataset(rows)[2]
    with pytest.raises(ValueError, match="bad_images is 'ignore'"):
        AugmentedDataset(rows, bad_images="ignore")


def test_a_disk_that_went_away_is_said(tmp_path: Path) -> None:
    rows = write_images(tmp_path, 3)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(UnreadableImageError, match=f"the next {MAX_REPLACEMENTS} rows: check the disk"):
        AugmentedDataset(rows, bad_images="replace")[1]


def test_a_stream_goes_on_with_the_next_row(tmp_path: Path) -> None:
    rows = write_images(tmp_path, 4)
    (tmp_path / "1.png").write_bytes(b"no image")
    stream = Dataset.from_list(rows).to_iterable_dataset()
    got = []
    for row in AugmentedStream(stream, bad_images="replace"):
        got.append(row)
        if len(got) == 3:
            break
    assert [red(row) for row in got] == [0, 2, 3]
    assert got[1]["replaced_image"] == repr(str(tmp_path / "1.png")) and "replaced_image" not in got[2]


def run_with_damage(folder: Path, damage: Any, **changes: Any) -> tuple[str | None, Path]:
    """A run whose images are damaged after they were checked, when the first is read in training."""
    config = write_run(
        folder,
        dataset=None,
        dataset_config=None,
        eval_strategy="no",
        do_eval=False,
        do_predict=False,
        num_train_epochs=1,
        logging_steps=1,
        **{**write_pictures(folder), **changes},
    )
    opened = AugmentedDataset._open

    def open_after_damage(self: AugmentedDataset, index: int) -> Any:
        damage()
        return opened(self, index)

    AugmentedDataset._open = open_after_damage  # type: ignore[method-assign]
    try:
        if changes.get("bad_images") == "replace":
            main([config])
            return None, folder / "out"
        return refused(main, [config]), folder / "out"
    finally:
        AugmentedDataset._open = opened  # type: ignore[method-assign]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_damaged_in_mid_training_stops_with_its_name(tmp_path: Path, workers: int) -> None:
    def damage() -> None:
        bad = tmp_path / f"bad-{os.getpid()}"  # several readers do this at the same time
        bad.write_bytes(b"x")
        bad.replace(tmp_path / "3.png")

    message, _ = run_with_damage(tmp_path, damage, dataloader_num_workers=workers)
    assert message is not None and message.startswith("Row ") and "3.png' is no image that Pillow knows" in message
    assert "--resume_from_checkpoint last" in message and "Traceback" not in message and "\n" not in message


@pytest.mark.slow
def test_or_is_replaced_and_counted(tmp_path: Path) -> None:
    _, out = run_with_damage(tmp_path, lambda: (tmp_path / "3.png").unlink(missing_ok=True), bad_images="replace")
    lines = [line for line in json.loads((out / "trainer_state.json").read_text())["log_history"] if "loss" in line]
    assert lines[-1]["replaced_images"] == 2  # both captions of the image


@pytest.mark.slow
def test_a_reader_that_dies_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    main_process = os.getpid()

    def die() -> None:
        if os.getpid() != main_process:
            os._exit(9)

    message, _ = run_with_damage(tmp_path, die, dataloader_num_workers=1)
    assert message is not None and "A process that reads images ended" in message
    assert "exited unexpectedly" in message and "lower dataloader_num_workers" in message


def test_a_failing_file_system_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, 1)
    read, asked = Path.read_bytes, []

    def fail(self: Path) -> bytes:
        asked.append(1)
        if len(asked) <= 2:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", fail)
    monkeypatch.setattr("processing.image_processing_albef.RETRY_WAITS", (0.01, 0.01, 0.01))
    assert open_image(tmp_path / "0.png").size == (20, 20) and len(asked) == 3

    asked.clear()
    monkeypatch.setattr(Path, "read_bytes", lambda self: asked.append(1) or (_ for _ in ()).throw(OSError(5, "I/O")))
    with pytest.raises(UnreadableImageError, match="cannot be read"):
        open_image(tmp_path / "0.png")
    assert len(asked) == 4  # bounded
    asked.clear()
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: asked.append(1) or (_ for _ in ()).throw(PermissionError(13, "no"))
    )
    with pytest.raises(UnreadableImageError, match="permissions"):
        open_image(tmp_path / "0.png")
    assert len(asked) == 1  # nothing to wait for


def test_a_slow_file_is_waited_for(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    pipe = tmp_path / "slow.png"
    os.mkfifo(pipe)

    def write() -> None:
        data = (tmp_path / "0.png").read_bytes()
        with pipe.open("wb") as file:
            for part in (data[:20], data[20:]):
                file.write(part)
                file.flush()
                time.sleep(0.2)

    threading.Thread(target=write).start()
    assert open_image(pipe).size == (20, 20)


@pytest.mark.slow
def test_a_loader_outlives_its_data_set(tmp_path: Path) -> None:
    """Neither the object nor the files of the cache are needed any more once a loader reads them."""
    dataset = load_dataset_script("shapes", split="train", num_train=24, image_size=32, cache_dir=tmp_path / "cache")
    rows = AugmentedDataset(dataset)
    expected = [row["caption"] for row in rows]
    loader = DataLoader(rows, batch_size=4, num_workers=2, collate_fn=lambda batch: [row["caption"] for row in batch])
    batches = iter(loader)
    got = next(batches)
    del dataset, rows, loader
    shutil.rmtree(tmp_path / "cache")
    gc.collect()
    for batch in batches:
        got += batch
    assert got == expected


def test_images_have_the_names_that_messages_need(tmp_path: Path) -> None:
    """The path, however it comes, or else the row; in a stream the position counts."""
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 20)).save(path)
    sources = [str(path), path, {"path": str(path), "bytes": path.read_bytes()}, {"bytes": path.read_bytes()}]
    rows = [{"image": source} for source in [*sources, Image.open(path)]]
    expected = [repr(str(path))] * 3 + ["row 3", "row 4"]
    assert [row["image_name"] for row in AugmentedDataset(rows)] == expected
    stream = AugmentedStream(Endless(rows))
    assert [row["image_name"] for row, _ in zip(stream, range(5), strict=False)] == expected


class Endless:
    """A stream of rows of any kind, with nothing between them and their reader."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.epochs = rows, []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Any:
        return iter(self.rows)


def test_replaced_rows_are_named_without_a_path_too(tmp_path: Path) -> None:
    good = write_images(tmp_path, 1)[0]
    rows = [good, {"image": {"bytes": b"no image"}}, {"image": {"bytes": b"none either"}}, good]
    data = AugmentedDataset(rows, bad_images="replace")
    assert [row.get("replaced_image") for row in data] == [None, "row 1", "row 2", None]
    stream = AugmentedStream(Endless(rows), bad_images="replace")
    got = [row for row, _ in zip(stream, range(4), strict=False)]
    assert [row.get("replaced_image") for row in got] == [None, "row 1", None, "row 5"]  # the second pass counts on


@pytest.mark.parametrize("bad", [MAX_REPLACEMENTS, MAX_REPLACEMENTS + 1])
def test_twenty_rows_are_replaced_and_no_more(tmp_path: Path, bad: int) -> None:
    good = write_images(tmp_path, 1)[0]
    rows = [{"image": {"bytes": b"no image"}}] * bad + [good]
    data, stream = AugmentedDataset(rows, bad_images="replace"), AugmentedStream(Endless(rows), bad_images="replace")
    if bad == MAX_REPLACEMENTS:
        assert red(data[0]) == red(next(iter(stream))) == 0
        assert data[0]["caption"] == "text 0" and data[0]["replaced_image"] == "row 0"
        return
    with pytest.raises(UnreadableImageError, match=r"^Row 0: image row 0 cannot be read, nor can those of the next 20"):
        data[0]
    with pytest.raises(UnreadableImageError, match=r"^Row 20 of the stream: "):
        next(iter(stream))


def test_what_is_no_way_to_treat_bad_images_is_quoted() -> None:
    for kind in (AugmentedDataset, AugmentedStream):
        with pytest.raises(ProcessingError, match=r"^bad_images is 'skip', but must be stop or replace\.$"):
            kind([], bad_images="skip")
