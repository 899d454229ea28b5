"""Downloads of checkpoints, tried against a server on this machine: broken off, wrong, too large, led astray."""

from __future__ import annotations

import base64
import hashlib
import os
import pickle
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from golden_cases import GOLDEN
from run_cases import no_file_larger_than
from safetensors.torch import load_file

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.conversion import checkpoint_download, checkpoint_finding
from modeling_albef.conversion.checkpoint_finding import find_checkpoint, released_files
from modeling_albef.conversion.checkpoint_reading import ConversionError
from modeling_albef.conversion.convert_albef_to_hf import main

CONTENT = bytes(range(256)) * 12_000  # 3 MB
BLOCK = 2**20
WHOLE = 10**9  # no break: an answer that is looked at before the rest is asked for
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]  # the recorded models' ids 0..4


@dataclass
class FileServer:
    """Serves one content under every path.

    Attributes:
        content: The file.
        headers: Further ones, or replaced ones; those that are None are left out.
        status: Of each answer, where it is not 200 or 206.
        breaks: For each answer in turn: bytes after which the connection is cut; then none is.
        ranges: Whether ranges are served.
        location: Where each answer leads instead, but for paths below `/moved/`.
        chunked: Whether the file is sent in chunks, without its size.
        shift: Bytes by which the answer to a range begins too late.
        asked: The `Range` of each request, empty where there was none.
        sent: Bytes of content that were sent.
    """

    content: bytes = CONTENT
    headers: dict[str, str | None] = field(default_factory=dict)
    status: int = 0
    breaks: list[int] = field(default_factory=list)
    ranges: bool = True
    location: str = ""
    chunked: bool = False
    shift: int = 0
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted, condition = handler.headers.get("Range", ""), handler.headers.get("If-Range")
        self.asked.append(wanted)
        tag = '"' + hashlib.sha1(self.content).hexdigest() + '"'
        headers: dict[str, str | None] = {"ETag": tag, "Content-Type": "application/octet-stream"}
        headers |= {"Accept-Ranges": "bytes"} if self.ranges else {}
        headers |= self.headers
        known = (None, headers["ETag"], headers.get("Last-Modified"))
        start = int(wanted[6:-1]) + self.shift if wanted and self.ranges and condition in known else 0
        body = self.content[start:]
        status = 206 if start else 200
        if start >= len(self.content):
            status, headers["Content-Range"] = 416, f"bytes */{len(self.content)}"
        elif start:
            headers["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        if self.location and "/moved/" not in handler.path:
            status, body, headers["Location"] = 302, b"", self.location
        headers |= {"Transfer-Encoding": "chunked"} if self.chunked else {"Content-Length": str(len(body))}
        headers |= {"Connection": "close"} | self.headers
        handler.send_response(self.status or status)
        for name, value in headers.items():
            if value is not None:
                handler.send_header(name, value)
        cut = self.breaks.pop(0) if self.breaks else None  # before the headers leave: they may bring the next request
        handler.end_headers()
        body = body[:cut]
        self.sent += len(body)
        if self.chunked:
            body = b"%x\r\n" % len(body) + body + (b"\r\n0\r\n\r\n" if cut is None else b"")
        try:
            handler.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):  # who asked has seen enough
            return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server that is there for one test."""
    one = FileServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            one.answer(self)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    one.url = f"http://127.0.0.1:{http.server_port}/weights/mscoco.pth"
    monkeypatch.setattr(checkpoint_download, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield one
    http.shutdown()
    http.server_close()


def left(folder: Path) -> set[str]:
    """Kinds of the files in a folder, by their endings; locks aside."""
    return {path.suffix for path in folder.iterdir()} - {".lock"} if folder.exists() else set()


def refused(url: str, folder: Path) -> str:
    with pytest.raises(ConversionError) as error:
        find_checkpoint(url, folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_arrives_once(server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = find_checkpoint(server.url, tmp_path)
    assert path == tmp_path / "mscoco.pth" and path.read_bytes() == CONTENT and list(tmp_path.iterdir()) == [path]
    printed = capsys.readouterr()
    assert f"downloading {server.url} to {path}" in printed.out and "mscoco.pth: 100%" in printed.err
    assert find_checkpoint(server.url, tmp_path) == path and len(server.asked) == 1
    assert "not downloaded again" in capsys.readouterr().out


def test_two_commands_at_once_download_once(server: FileServer, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(find_checkpoint, [server.url] * 2, [tmp_path] * 2))
    assert len(server.asked) == 1 and {path.read_bytes() for path in paths} == {CONTENT}


def test_without_a_folder_each_address_has_its_own(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_finding.constants, "HF_HOME", str(tmp_path))
    one, other = find_checkpoint(server.url), find_checkpoint(server.url.replace("weights", "others"))
    assert one != other and one.name == other.name == "mscoco.pth" and tmp_path in one.parents


def test_a_download_that_broke_off_goes_on(server: FileServer, tmp_path: Path) -> None:
    """Within one call; what had arrived is not sent again."""
    server.breaks = [2 * BLOCK + 5, WHOLE, 200_000, WHOLE, 0]
    assert find_checkpoint(server.url, tmp_path).read_bytes() == CONTENT
    starts = [int(one[6:-1]) for one in server.asked if one]
    assert server.asked[1::2] == [""] * 3 and server.asked[0] == ""
    assert 2 * BLOCK - 70_000 < starts[0] < starts[1] == starts[2]
    assert left(tmp_path) == {".pth"}


def test_or_in_the_next_call(server: FileServer, tmp_path: Path) -> None:
    server.breaks = [2 * BLOCK, *[0] * 20]
    message = refused(server.url, tmp_path)
    assert "broke off" in message and "run the command again; what has arrived is kept" in message
    assert left(tmp_path) == {".part"}
    server.breaks, server.asked = [], []
    assert find_checkpoint(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["", f"bytes={2 * BLOCK}-"] and left(tmp_path) == {".pth"}


def test_a_whole_part_is_not_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    """As after a kill between the last byte and the new name."""
    part_of(server, tmp_path).write_bytes(CONTENT)
    server.asked = []
    assert find_checkpoint(server.url, tmp_path).read_bytes() == CONTENT and server.asked == [""]


def part_of(server: FileServer, folder: Path) -> Path:
    """The part file that a broken download of the server's file leaves."""
    server.breaks = [2 * BLOCK, *[0] * 20]
    refused(server.url, folder)
    server.breaks = []
    (part,) = folder.glob("*.part")
    return part


def test_parts_of_another_version_are_not_mixed_in(server: FileServer, tmp_path: Path) -> None:
    part = part_of(server, tmp_path)
    server.content, server.asked = bytes(reversed(CONTENT)), []
    assert find_checkpoint(server.url, tmp_path).read_bytes() == server.content
    assert server.asked == [""] and not part.exists()


def test_a_part_that_is_too_long_is_dropped(server: FileServer, tmp_path: Path) -> None:
    part_of(server, tmp_path).write_bytes(CONTENT + b"x")
    assert find_checkpoint(server.url, tmp_path).read_bytes() == CONTENT


def test_a_server_that_ignores_ranges(server: FileServer, tmp_path: Path) -> None:
    server.ranges, server.breaks = False, [2 * BLOCK + 1, WHOLE, BLOCK]
    assert find_checkpoint(server.url, tmp_path).read_bytes() == CONTENT and left(tmp_path) == {".pth"}


@pytest.mark.parametrize("tag", [None, 'W/"1"'])
def test_the_date_stands_in_for_a_strong_etag(tag: str | None, server: FileServer, tmp_path: Path) -> None:
    server.headers = {"ETag": tag, "Last-Modified": "Wed, 21 Jul 2021 07:28:00 GMT"}
    server.breaks = [2 * BLOCK]
    assert find_checkpoint(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["", "", f"bytes={2 * BLOCK}-"]


@pytest.mark.parametrize("tag", [None, 'W/"1"'])
def test_without_both_versions_cannot_be_told_apart(tag: str | None, server: FileServer, tmp_path: Path) -> None:
    """So nothing is gone on from: the file may be another one of the same size by now."""
    server.headers = {"ETag": tag}
    part_of(server, tmp_path)
    server.content, server.asked = bytes(reversed(CONTENT)), []
    assert find_checkpoint(server.url, tmp_path).read_bytes() == server.content and server.asked == [""]


def test_a_file_that_changes_between_two_answers(server: FileServer, tmp_path: Path) -> None:
    """The server sends the new one whole, in answer to a condition that does not hold any more."""
    part_of(server, tmp_path)
    tag = '"' + hashlib.sha1(CONTENT).hexdigest() + '"'
    server.content, server.ranges = bytes(reversed(CONTENT)), False
    server.headers, server.asked = {"ETag": tag}, []
    assert find_checkpoint(server.url, tmp_path).read_bytes() == server.content
    assert server.asked == ["", f"bytes={2 * BLOCK}-"]


def test_a_range_that_begins_elsewhere(server: FileServer, tmp_path: Path) -> None:
    part_of(server, tmp_path)
    server.shift = 10
    assert find_checkpoint(server.url, tmp_path).read_bytes() == CONTENT


def test_a_length_that_is_too_large(server: FileServer, tmp_path: Path) -> None:
    """There is nothing to go on with at the true end; once the server says the right length, the file arrives."""
    server.headers = {"Content-Length": str(len(CONTENT) + 100)}
    message = refused(server.url, tmp_path)
    assert "broke off (" in message and "run the command again" in message and len(server.asked) < 20
    server.headers = {}
    assert find_checkpoint(server.url, tmp_path).read_bytes() == CONTENT and left(tmp_path) == {".pth"}


def test_chunks(server: FileServer, tmp_path: Path) -> None:
    """Without a size there is nothing to go on from, but the end is known."""
    server.chunked, server.breaks = True, [BLOCK]
    assert find_checkpoint(server.url, tmp_path).read_bytes() == CONTENT and server.asked == ["", ""]


def test_without_a_size_and_chunks_the_end_is_unknown(server: FileServer, tmp_path: Path) -> None:
    server.headers = {"Content-Length": None}
    assert "does not say how large it is" in refused(server.url, tmp_path) and not left(tmp_path)


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


PUBLISHED = {  # where a checksum stands: headers, name of the file, and its own words in a message
    "google": lambda content: ({"x-goog-hash": f"crc32c=AAAAAA==, md5={md5(content)}"}, "mscoco.pth"),
    "header": lambda content: ({"Content-MD5": md5(content)}, "mscoco.pth"),
    "hub": lambda content: ({"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"'}, "mscoco.pth"),
    "name": lambda content: ({}, f"albef-{hashlib.sha256(content).hexdigest()[:8]}.pth"),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_checksums(kind: str, server: FileServer, tmp_path: Path) -> None:
    server.content = bytes(1000)  # whose hash begins with letters and digits
    for published, is_right in ((server.content, True), (b"other bytes", False)):
        headers, name = PUBLISHED[kind](published)
        server.headers, url = headers, server.url.replace("mscoco.pth", name)
        if is_right:
            path = find_checkpoint(url, tmp_path / "right")
            assert path.read_bytes() == server.content
        else:
            message = refused(url, tmp_path / "wrong")
            assert re.search(r"has the (MD5|SHA256) [0-9a-f]+, but [0-9a-f]+ is published for it", message)
            assert "run the command again" in message and not left(tmp_path / "wrong")


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"ETag": f'"{hashlib.md5(b"other").hexdigest()}"'}, "a.pth"),  # storage that encrypts has others than the MD5
        ({"X-Linked-Etag": '"d41d8cd98f00b204e9800998ecf8427ed41d8cd9"'}, "a.pth"),  # git's, of a small file
        ({"x-goog-hash": "crc32c=AAAAAA=="}, "a.pth"),
        ({"Content-MD5": "not base64"}, "a.pth"),
        ({}, "albef-20210716.pth"),
        ({}, "albef-coco.pth"),
    ],
)
def test_what_is_no_checksum(headers: dict[str, str], name: str, server: FileServer, tmp_path: Path) -> None:
    server.headers = dict(headers)
    assert find_checkpoint(server.url.replace("mscoco.pth", name), tmp_path).read_bytes() == CONTENT


def test_a_wrong_part_is_found_at_the_end(server: FileServer, tmp_path: Path) -> None:
    server.headers = {"x-goog-hash": f"md5={md5(CONTENT)}"}
    part = part_of(server, tmp_path)
    part.write_bytes(b"\1" + part.read_bytes()[1:])
    assert "is published for it, so it was deleted" in refused(server.url, tmp_path) and not left(tmp_path)
    assert find_checkpoint(server.url, tmp_path).read_bytes() == CONTENT


def test_answers_that_are_no_file(server: FileServer, tmp_path: Path) -> None:
    for status, remedy in ((404, "check the address"), (403, "check the address"), (503, "run the command again")):
        server.status = status
        message = refused(server.url, tmp_path)
        assert f"the server answers {status} " in message and remedy in message and not left(tmp_path)
    server.status, server.headers = 0, {"Content-Type": "text/html; charset=utf-8"}
    assert "is a web page, not a checkpoint" in refused(server.url, tmp_path) and not left(tmp_path)


def test_no_server(tmp_path: Path) -> None:
    message = refused("http://user:secret@127.0.0.1:9/a.pth?token=secret", tmp_path)
    assert message.startswith("http://127.0.0.1:9/a.pth cannot be downloaded (") and "Connection refused" in message
    assert "check the address, the network" in message and "secret" not in message


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/a.pth", "gopher://127.0.0.1/"])
def test_redirections_to_what_is_not_http(location: str, server: FileServer, tmp_path: Path) -> None:
    server.location = location
    assert "cannot be downloaded" in refused(server.url, tmp_path) and not left(tmp_path)


def test_redirections_are_followed(server: FileServer, tmp_path: Path) -> None:
    """Also where a download goes on; the name of the file is that of the address which was given."""
    server.location = server.url.replace("weights/mscoco.pth", "moved/other.bin")
    server.breaks = [0, 2 * BLOCK]  # of the redirection, of the file
    assert find_checkpoint(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={2 * BLOCK}-" and (tmp_path / "mscoco.pth").is_file()


def test_a_redirection_without_end(server: FileServer, tmp_path: Path) -> None:
    server.location = server.url
    assert "Exceeded 30 redirects" in refused(server.url, tmp_path)


def test_what_is_too_large(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_download, "LARGEST", 1_000_000)
    assert "has 0.00 GB, more than any checkpoint of ALBEF" in refused(server.url, tmp_path)
    server.chunked = True
    assert "does not end where it should" in refused(server.url, tmp_path)
    monkeypatch.undo()
    server.chunked, server.headers = False, {"Content-Length": "15000000000"}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(20, 13, 7_000_000_000))
    assert "needs 15.00 GB" in refused(server.url, tmp_path) and left(tmp_path) <= {".part"}


def test_a_full_disk_keeps_what_has_arrived(server: FileServer, tmp_path: Path) -> None:
    with no_file_larger_than(2 * BLOCK):
        message = refused(server.url, tmp_path)
    assert f"cannot be written to {tmp_path}" in message and "--download_dir" in message
    assert left(tmp_path) == {".part"}
    assert find_checkpoint(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1].startswith("bytes=")
    (tmp_path / "file").write_text("no folder")
    assert "cannot be written to" in refused(server.url, tmp_path / "file")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("file:///etc/passwd", "is no address of http or https"),
        ("ftp://host/a.pth", "is no address of http or https"),
        ("http://[::1/a.pth", "is no address"),
        ("https://host", "does not end in the name of a file"),
        ("https://host/folder/", "does not end in the name of a file"),
        ("https://host/..", "does not end in the name of a file"),
        ("https://host/%2e%2e%5ca", "does not end in the name of a file"),
        ("http://host:port/a.pth", "cannot be downloaded"),
        ("mscoco.pth", "give its path, or the name mscoco to download it"),
        ("mscocoo", "no released file has that name: give a path, an address or one of albef, albef_4m, mscoco,"),
    ],
)
def test_what_cannot_be_downloaded(given: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(given, tmp_path / "folder") and not left(tmp_path / "folder")


def test_names_have_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is that of its file; the page lists the same ones; a file or a folder of that name comes first."""
    released = released_files()
    table = yaml.safe_load(checkpoint_finding.PUBLISHED.read_text())
    assert {Path(name).name for name in table} == {facts["url"].rpartition("/")[2] for facts in released.values()}
    assert all(facts["url"].startswith("https://") for facts in released.values()) and len(released) == 14
    page = (Path(__file__).parents[3] / "docs/checkpoints.md").read_text()
    for facts in released.values():
        folder, _, file = facts["url"].rpartition("/")
        assert file in page and folder in page
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mscoco").mkdir()
    assert find_checkpoint("mscoco") == Path("mscoco")
    assert find_checkpoint("folder/mscoco") == Path("folder/mscoco")  # a path, which the reading then misses


def test_a_name_is_downloaded_and_converted(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command, by a name and by an address, with the table's address led to the server here."""
    weights = load_file(GOLDEN / "retrieval_plain.weights.safetensors")
    torch.save({"model": weights}, tmp_path / "served.pth")
    server.content = (tmp_path / "served.pth").read_bytes()
    server.headers, server.breaks = {"x-goog-hash": f"md5={md5(server.content)}"}, [100_000]
    table = tmp_path / "published.yaml"
    table.write_text(yaml.safe_dump({"mscoco.pth": {"url": server.url, "what": "", "rows": []}}))
    monkeypatch.setattr(checkpoint_finding, "PUBLISHED", table)
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *(chr(ord("a") + number) for number in range(59))]))
    heads = ["--num_attention_heads", "2", "--vision_num_attention_heads", "3", "--tokenizer", str(tmp_path)]
    words = ["--download_dir", str(tmp_path / "downloads"), *heads]
    monkeypatch.chdir(tmp_path)
    for given, output in (("MSCOCO", "by_name"), (server.url, "by_address")):
        main([given, "--output_dir", output, *words])
        model = AlbefForImageTextRetrieval.from_pretrained(output)
        assert torch.equal(model.albef.text_proj.weight, weights["text_proj.weight"])
        card = (tmp_path / output / "README.md").read_text()
        assert "Converted from `mscoco.pth`" in card and hashlib.sha256(server.content).hexdigest() in card
    assert (tmp_path / "downloads/mscoco.pth").read_bytes() == server.content and len(server.asked) == 3


class Harm:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("form", ["pickle", "zip", "old"])
def test_what_was_downloaded_is_read_as_any_file(
    form: str, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not unpickled: what runs code or is no checkpoint is refused as on a disk."""
    monkeypatch.chdir(tmp_path)
    if form == "pickle":
        server.content = pickle.dumps({"model": Harm()}, 2)
    else:
        torch.save({"model": Harm()}, "served.pth", _use_new_zipfile_serialization=form == "zip")
        server.content = Path("served.pth").read_bytes()
    with pytest.raises(SystemExit) as error:
        main([server.url, "--output_dir", "out", "--download_dir", "kept"])
    assert "mscoco.pth" in str(error.value) and "\n" not in str(error.value)
    assert not Path("ran").exists() and not Path("out").exists()
