"""Attacks on the page over HTTP, against the real server: what must not be opened, sent, fetched or filled up."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx
import pytest
from app_cases import Server, place, running, server
from PIL import Image
from run_cases import refused

pytest.importorskip("gradio", reason="the page needs gradio")
from app import MAX_CAPTIONS, MAX_TEXT, MAX_UPLOAD, main
from modeling_albef.serving.page import NO_IMAGE

__all__ = ["place", "server"]  # fixtures
API = "/gradio_api"
META = {"_type": "gradio.FileData"}
CALLS: dict[str, Any] = {  # what follows the image, of each function that takes one
    "ask": lambda image: [image, "what is it"],
    "find_captions": lambda image: [image, "a circle\na square"],
    "look": lambda image: [image, "caption", "a circle", ""],
}


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """A visitor."""
    with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as one:
        yield one


def call(client: httpx.Client, name: str, data: list[Any]) -> tuple[str, Any]:
    """The last event of a call, and its data; an error as its text."""
    accepted = client.post(f"{API}/call/{name}", json={"data": data})
    assert accepted.status_code == 200, accepted.text
    lines = client.get(f"{API}/call/{name}/{accepted.json()['event_id']}").text.splitlines()
    found = [(lines[n][7:], json.loads(lines[n + 1][6:])) for n, line in enumerate(lines) if line.startswith("event: ")]
    event, result = found[-1]
    return event, result["error"] if event == "error" and isinstance(result, dict) else result


def upload(client: httpx.Client, name: str, content: bytes) -> str:
    """The path of an uploaded file on the server."""
    sent = client.post(f"{API}/upload", files={"files": (name, content)})
    assert sent.status_code == 200, sent.text
    return cast(str, sent.json()[0])


def png(width: int = 8, height: int = 8, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG")
    return file.getvalue()


def uploads_of(client: httpx.Client) -> Path:
    return Path(upload(client, "a.png", png())).parents[1]


def memory(pid: int, which: str = "VmHWM") -> int:
    """Megabytes of a process; by default the most that it ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(which)) // 1024


@pytest.fixture(scope="module")
def closed(place: Path) -> Iterator[list[str]]:
    """Paths that no request may open or see."""
    photos = place / "photos"
    (photos / "secret.txt").write_text("SECRET")
    (photos / ".env").write_text("SECRET")
    (photos / ".hidden").mkdir(exist_ok=True)
    for name in (".hidden.png", ".hidden/1.png", "page.html", "drawing.svg"):
        (photos / name).write_bytes(png())
    for name, target in (
        ("out.png", place / "good.png"),
        ("passwd.png", Path("/etc/passwd")),
        ("zero.png", Path("/dev/zero")),
        ("folder", place),
        ("loop.png", photos / "loop.png"),
    ):
        if not (photos / name).is_symlink():
            (photos / name).symlink_to(target)
    fifo = photos / "pipe.png"
    if not fifo.exists():
        os.mkfifo(fifo)
    large = photos / "large.png"
    with large.open("wb") as file:
        file.write(png())
        file.truncate(MAX_UPLOAD + 1)
    own = [str(photos / name) for name in ("secret.txt", ".env", ".hidden.png", ".hidden/1.png", "page.html")]
    own += [str(photos / name) for name in ("out.png", "passwd.png", "zero.png", "folder/good.png", "loop.png")]
    own += [str(photos / name) for name in ("pipe.png", "large.png", "none.png", "drawing.svg", "", ".")]
    own += [f"{photos}/../good.png", f"{photos}/folder/../0.png", f"{photos}//0.png", "photos/0.png", "good.png"]
    own += [str(place / "good.png"), "/etc/passwd", "/etc/shadow", "/nonexistent", "/dev/zero", "/proc/self/environ"]
    yield [*own, "", ".", "\0", f"{photos}/0.png\0", "~/.ssh/id_rsa", "file:///etc/passwd", "x" * 10_000, "/" * 300]
    fifo.unlink()  # other tests start the page on this folder, too


@pytest.mark.parametrize(
    "name", ["ask", *(pytest.param(name, marks=pytest.mark.slow) for name in ("find_captions", "look"))]
)
def test_a_call_opens_no_other_file_and_answers_the_same(
    client: httpx.Client, server: Server, closed: list[str], name: str
) -> None:
    call(client, name, CALLS[name]({"path": upload(client, "a.png", png())}))  # what memory a call takes
    before = memory(server.pid)
    for path in closed:
        for further in ({}, {"meta": META}, {"is_stream": True, "meta": META}, {"url": "https://example.com/a.png"}):
            started = time.monotonic()
            assert call(client, name, CALLS[name]({"path": path, **further})) == ("error", NO_IMAGE), path
            assert time.monotonic() - started < 5
    wrong: list[Any] = [7, "text", ["/etc/passwd"], {}, {"path": None}, {"path": 7}, {"path": {"path": "/etc/passwd"}}]
    for value in [*wrong, {"url": "/etc/passwd"}, {"url": "data:image/png;base64,AAAA"}]:
        assert call(client, name, CALLS[name](value)) == ("error", NO_IMAGE), value
    assert memory(server.pid) - before < 100


@pytest.mark.slow
def test_a_field_of_text_opens_no_file(client: httpx.Client, place: Path) -> None:
    inside = {"path": str(place / "photos/0.png"), "meta": META}
    for value in (inside, [inside], {"x": {"y": inside}}, {"path": "https://example.com/a.png", "meta": META}):
        assert call(client, "find_images", [value]) == ("error", NO_IMAGE)
    assert sorted(path.name for path in uploads_of(client).rglob("*.png")).count("0.png") <= 1  # that of the examples


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("further", [{}, {"meta": META}, {"is_stream": True, "meta": META, "url": "http://x.invalid/"}])
def test_uploads_and_the_images_are_opened(
    client: httpx.Client, place: Path, name: str, further: dict[str, Any]
) -> None:
    for path in (upload(client, "a b'c.png", png()), str(place / "photos/0.png")):
        event, result = call(client, name, CALLS[name]({"path": path, **further}))
        assert event == "complete", result


def test_only_images_are_sent(client: httpx.Client, closed: list[str], place: Path) -> None:
    mine = upload(client, "a.png", png())
    for path in (mine, str(place / "photos/0.png")):
        for route in (f"{API}/file={path}", f"{API}/file/{path}"):
            sent = client.get(route)
            assert sent.status_code == 200 and sent.content == Path(path).read_bytes()
            assert sent.headers["content-type"] == "image/png"
            assert sent.headers["x-content-type-options"] == "nosniff"
            assert sent.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    script = upload(client, "a.html", b"<script>alert(1)</script>")
    answers = set()
    for path in [*closed, script, "http://127.0.0.1/", "https://example.com/a.png", "//etc/passwd"]:
        quoted = quote(path)
        for route in ("file=", "file/"):
            for written in (quoted, quoted.replace("/", "%2F"), quoted.replace(".", "%2e")):
                sent = raw(client, f"GET {API}/{route}{written}")
                answers.add((sent[0], sent[2]))
    assert answers == {(404, b'{"detail":"Not Found"}')}


def raw(client: httpx.Client, line: str, body: bytes = b"", headers: str = "") -> tuple[int, str, bytes]:
    """Status, headers and body of a request that is written out, since clients tidy up paths."""
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall(f"{line} HTTP/1.1\r\nHost: {url.host}\r\nConnection: close\r\n{headers}\r\n".encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), rest


def test_no_address_is_fetched(client: httpx.Client) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{other.server_port}/a.png"
        for entry in ({"path": address}, {"path": address, "meta": META}, {"path": "x.png", "url": address}):
            assert call(client, "ask", CALLS["ask"](entry)) == ("error", NO_IMAGE)
        for route in ("file=", "proxy="):
            assert client.get(f"{API}/{route}{address}").status_code == 404
        other.shutdown()
    assert asked == []


def test_routes_that_the_page_does_not_use_are_closed(client: httpx.Client) -> None:
    session = {"session_hash": "abc"}
    for method, route, options in (
        ("POST", "component_server", {"json": {**session, "component_id": 1, "fn_name": "x", "data": []}}),
        ("POST", "component_server", {"data": {"component_id": "1"}, "files": {"x": b"x"}}),
        ("POST", "process_recording", {"files": {"video": b"x"}}),
        ("GET", "deep_link?session_hash=abc", {}),
        ("GET", "../gradio_api/deep_link?session_hash=abc", {}),
        ("GET", "proxy=https://example.hf.space/x", {}),
        ("GET", "custom_component/x/client/component/index.js", {}),
        ("GET", "dev/reload", {}),
        ("GET", "runs", {}),
        ("GET", "run-history/buckets", {}),
        ("POST", "run-history/connect", {"json": {"bucket_id": "a/b"}}),
        ("POST", "vibe-edit", {"json": {"prompt": "x"}}),
        ("GET", "vibe-code", {}),
        ("POST", "stream/abc", {"json": {"data": []}}),
        ("GET", "profiling/traces", {}),
        ("GET", "../monitoring", {}),
        ("GET", "../monitoring/summary", {}),
        ("GET", "../monitoring/key", {}),
        ("GET", "mcp/", {}),
        ("PUT", "upload", {}),
        ("DELETE", "../", {}),
    ):
        sent = client.request(method, f"{API}/{route}", **options)  # type: ignore[arg-type]
        assert (sent.status_code, sent.json()) == (404, {"detail": "Not Found"}), route


@pytest.mark.slow
def test_no_call_passes_the_queue(client: httpx.Client, place: Path) -> None:
    image = {"path": str(place / "photos/0.png")}
    for route in ("run", "api"):
        sent = client.post(f"{API}/{route}/ask", json={"data": CALLS["ask"](image)})
        assert sent.status_code == 404 and "queue" in sent.json()["detail"]


@pytest.mark.slow
def test_what_is_sent_has_limits(client: httpx.Client) -> None:
    def size() -> int:
        return sum(path.stat().st_size for path in uploads.rglob("*") if path.is_file())

    uploads = uploads_of(client)
    before = size()
    whole = bytes(MAX_UPLOAD + 20_000)

    def pieces() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for start in range(0, len(whole), 2**20):
            yield whole[start : start + 2**20]
        yield b"\r\n--x--\r\n"

    typed = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post(f"{API}/upload", files={"files": ("a.png", whole)}).status_code == 413
    assert client.post(f"{API}/upload", data={"files": "x" * len(whole)}, files={"a": b""}).status_code == 413
    assert client.post(f"{API}/upload", content=pieces(), headers=typed).status_code == 413
    for route in ("queue/join", "call/ask", "run/ask", "cancel"):
        sent = client.post(f"{API}/{route}", json={"data": ["x" * 200_000], "session_hash": "a", "fn_index": 0})
        assert sent.status_code == 413
    for session in ("x" * 65, 7, ["a"]):
        sent = client.post(f"{API}/queue/join", json={"data": ["a"], "session_hash": session, "fn_index": 0})
        assert sent.status_code == 422
    for broken in (b"[1]", b"{", b"", b"[" * 50_000):
        assert client.post(f"{API}/queue/join", content=broken).status_code == 422
    assert raw(client, f"POST {API}/queue/join", headers="Content-Length: -5\r\n")[0] in (400, 413)
    assert size() - before < 22 * 2**20  # at most what was cut off, which is deleted with the oldest


@pytest.mark.slow
def test_texts_have_limits(client: httpx.Client) -> None:
    image = {"path": upload(client, "a.png", png())}
    for name, data, message in (
        ("find_images", ["x" * (MAX_TEXT + 1)], "The text has 1001 characters, but 1000 are allowed: shorten it."),
        ("ask", [image, "x" * 2000], "The question has 2000 characters, but 1000 are allowed: shorten it."),
        ("find_captions", [image, "a\n" * (MAX_CAPTIONS + 1)], "There are 101 captions, but 100 are allowed"),
        ("find_captions", [image, "x" * 1001 + "\na"], "The caption has 1001 characters"),
        ("look", [image, "caption", "x " * 600, ""], "The caption has 1199 characters"),
        ("look", [image, "question", "what is it", "x" * 101], "The answer has 101 characters"),
    ):
        event, text = call(client, name, data)
        assert event == "error" and message in text
    event, text = call(client, "look", [image, "question", "what is it", "b " * 50])
    assert event == "error" and "tokens, but the decoder reads at most" in text
    for data in ([image, None, "a", None], [image, "question", "a", None]):
        event, text = call(client, "look", data)
        assert event == "complete", text
    for name, data in (("ask", [None, None]), ("find_captions", [image, None]), ("look", [None, None, None, None])):
        event, text = call(client, name, data)
        assert event == "error" and text.startswith("There is no ")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["1", "L"])
def test_images_of_many_pixels_are_refused_by_their_header(client: httpx.Client, server: Server, mode: str) -> None:
    path = upload(client, "wide.png", png(100_001, 250, mode))
    before = memory(server.pid)
    for name in CALLS:
        event, text = call(client, name, CALLS[name]({"path": path}))
        assert event == "error" and text.startswith("Image 'wide.png' has more than 25,000,000 pixels")
    assert memory(server.pid) - before < 20


@pytest.mark.slow
def test_of_many_parallel_calls_the_queue_takes_some_and_all_of_them_end(client: httpx.Client, place: Path) -> None:
    image = {"path": str(place / "photos/0.png")}
    body = {"data": [image, "\n".join(f"a {color} circle" for color in range(100))]}

    def join(_: int) -> httpx.Response:
        return httpx.post(f"{client.base_url}{API}/call/find_captions", json=body, timeout=60, trust_env=False)

    with ThreadPoolExecutor(60) as pool:
        sent = list(pool.map(join, range(60)))
    taken = [one.json()["event_id"] for one in sent if one.status_code == 200]
    assert {one.status_code for one in sent} == {200, 503}
    assert 17 <= len(taken) < 60
    ended = [client.get(f"{API}/call/find_captions/{event}").text for event in taken]
    assert all("event: complete" in one for one in ended)
    assert call(client, "ask", CALLS["ask"](image))[0] == "complete"


@pytest.mark.slow
def test_of_many_slow_uploads_few_are_in_flight(client: httpx.Client) -> None:
    head = f"POST {API}/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    address = (client.base_url.host, client.base_url.port or 80)
    slow = [socket.create_connection(address, timeout=30) for _ in range(8)]
    for one in slow:
        one.sendall(f"{head}Content-Length: 1000000\r\n\r\n--x\r\n".encode())
    time.sleep(1)
    sent = client.post(f"{API}/upload", files={"files": ("a.png", png())})
    assert sent.status_code == 503 and "busy" in sent.json()["detail"]
    assert client.get("/").status_code == 200
    for one in slow:
        one.close()
    for _ in range(50):
        if (sent := client.post(f"{API}/upload", files={"files": ("a.png", png())})).status_code == 200:
            break
        time.sleep(0.1)
    assert sent.status_code == 200


@pytest.mark.slow
def test_no_answer_has_a_path_of_the_server(client: httpx.Client, place: Path) -> None:
    texts = [client.get(route).text for route in ("/", "/config", f"{API}/info")]
    for content in (b"no image", b"", (place / "cut.png").read_bytes()):
        for name in CALLS:
            event, text = call(client, name, CALLS[name]({"path": upload(client, "bad.png", content)}))
            assert event == "error" and "bad.png" in text and "albef_page_" not in text
            texts.append(text)
    for data in (["a circle"], [], [{}]):
        sent = client.post(f"{API}/call/find_images", json={"data": data})
        texts.append(client.get(f"{API}/call/find_images/{sent.json()['event_id']}").text)
    assert not [text for text in texts if str(place) in text or str(Path(__file__).parent.parent) in text]


@pytest.fixture(scope="module")
def strict(place: Path) -> Iterator[Server]:
    """The page with a password, and with no time for the work."""
    with running(place, "--max_seconds", "0.0001", "--max_queue", "2", ALBEF_PASSWORD="pass word é") as one:
        yield one


@pytest.mark.slow
def test_a_password_closes_the_page(strict: Server, place: Path) -> None:
    with httpx.Client(base_url=strict.address, timeout=60, trust_env=False) as client:
        for method, route in (
            ("GET", "/config"),
            ("GET", f"{API}/info"),
            ("GET", f"{API}/openapi.json"),
            ("GET", f"{API}/file={place}/photos/0.png"),
            ("GET", f"{API}/queue/data?session_hash=a"),
            ("GET", f"{API}/call/ask/abc"),
            ("POST", f"{API}/upload"),
            ("POST", f"{API}/queue/join"),
            ("POST", f"{API}/call/ask"),
            ("POST", f"{API}/run/predict"),
        ):
            options: dict[str, Any] = {"json": {"data": []}} if method == "POST" else {}
            assert client.request(method, route, **options).status_code == 401, route
        assert "find_images" not in client.get("/config").text
        started = time.monotonic()
        for wrong in ("", "pass word", "pass word é ", "PASS WORD É"):
            sent = client.post("/login", data={"username": "me", "password": wrong})
            assert sent.status_code in (400, 422)
        assert time.monotonic() - started > 4
        assert client.post("/login", data={"username": "me", "password": "pass word é"}).status_code == 200
        assert client.get("/config").status_code == 200
        assert client.get(f"{API}/file={place}/photos/0.png").status_code == 200
    assert "pass word" not in strict.log.read_text()


@pytest.mark.slow
def test_the_work_on_a_call_has_a_limit_of_time(strict: Server) -> None:
    with httpx.Client(base_url=strict.address, timeout=60, trust_env=False) as client:
        client.post("/login", data={"username": "me", "password": "pass word é"})
        image = {"path": upload(client, "a.png", png())}
        for name in CALLS:
            message = "The work took longer than 0.0001 seconds and was stopped: ask for less."
            assert call(client, name, CALLS[name](image)) == ("error", message)


@pytest.mark.slow
def test_the_end_of_the_page_deletes_uploads(place: Path) -> None:
    with running(place) as one, httpx.Client(base_url=one.address, trust_env=False) as client:
        path = Path(upload(client, "a.png", png()))
        assert path.is_file() and path.parents[1].stat().st_mode & 0o077 == 0
    assert not path.parents[1].exists()
    assert "Traceback" not in one.log.read_text()


@pytest.mark.slow
def test_whoever_opens_the_page_to_a_network_is_told_of_the_password(place: Path) -> None:
    with running(place, "--host", "0.0.0.0") as one:
        assert "Whoever reaches 0.0.0.0 can use the page: set ALBEF_PASSWORD" in one.log.read_text()


def test_options_without_a_sense_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert "The password is empty" in refused(main, ["--retrieval_model", "retrieval", "--password", " "])
    for name in ("queue", "seconds", "pixels"):
        assert f"--max_{name} is -1" in refused(main, [f"--max_{name}", "-1"])
