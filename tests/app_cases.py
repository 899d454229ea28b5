"""The page, started as a user starts it, with tiny models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from run_cases import ONE_THREAD, ROOT
from small_models import save_retrieval, save_vqa

from benchmarks.soak import free_port


class Server(NamedTuple):
    """A running page: its address, the log of its process, and the number of that."""

    address: str
    log: Path
    pid: int


@contextmanager
def running(place: Path, *words: str, **variables: str) -> Iterator[Server]:
    """Starts `app.py` in a folder of `place`'s kind; ends it with SIGTERM."""
    port = free_port()
    options = ["--retrieval_model", "retrieval", "--vqa_model", "vqa", "--images", "photos", "--port", str(port)]
    options += ["--query", "a blue circle"]
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables}
    log = place / f"log_{port}.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), *options, *words],
            cwd=place,
            env=environment,
            stdout=output,
            stderr=output,
        )
        try:
            server = Server(f"http://127.0.0.1:{port}", log, process.pid)
            wait_for(server, process)
            yield server
        finally:
            process.terminate()
            process.wait(30)


def wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert process.poll() is None, server.log.read_text()
        try:
            urllib.request.urlopen(server.address, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(server.log.read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, images to search, and files to upload."""
    folder = tmp_path_factory.mktemp("app")
    save_retrieval(folder / "retrieval")
    save_vqa(folder / "vqa")
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0)
    for number in range(9):
        pixels = noise.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((100, 80)).save(folder / f"photos/{number}.png")
    (folder / "photos/broken.png").write_bytes(b"no image")
    (folder / "text.png").write_text("no image")
    shutil.copy(folder / "photos/3.png", folder / "good.png")
    whole = (folder / "photos/4.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (200_000_000, 1)).save(folder / "huge.png")  # so long that the browser does not draw it
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    """The page with its usual limits."""
    with running(place) as one:
        yield one
