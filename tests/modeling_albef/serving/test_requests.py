"""Limits of requests, on a small application behind the layer; those of the page itself are in test_app_requests.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the layer is for the page, which needs gradio")
import httpx
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse

from modeling_albef.serving.files import ServedFiles
from modeling_albef.serving.requests import Limits, RequestLimits, limits_of_kinds


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Waits as many seconds as the query says, before and in its answer."""
    request = Request(scope, receive)
    await request.body()
    before, within = (float(request.query_params.get(name, 0)) for name in ("before", "within"))
    await asyncio.sleep(before)

    async def parts() -> AsyncIterator[bytes]:
        yield b"start"
        await asyncio.sleep(within)
        yield b"end"

    await (StreamingResponse(parts()) if within else PlainTextResponse("done"))(scope, receive, send)


def client_of(tmp_path: Path, **changes: Limits) -> Any:
    limits = {**limits_of_kinds(1000, 60), **changes}
    layer = RequestLimits(application, ServedFiles(tmp_path, tmp_path, 1000), limits)
    return httpx.AsyncClient(transport=httpx.ASGITransport(layer), base_url="http://page")


def test_a_request_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    async def ask() -> None:
        async with client_of(tmp_path, page=Limits(2, 0.3)) as client:
            started = time.monotonic()
            late = await client.get("/config?before=20")
            assert late.status_code == 503 and late.json()["detail"] == "The request took longer than 0.3 seconds."
            assert time.monotonic() - started < 5
            assert (await client.get("/config")).content == b"done"

    asyncio.run(ask())


def test_an_answer_that_takes_too_long_is_cut(tmp_path: Path) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        if asked.pop():
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    layer = RequestLimits(application, ServedFiles(tmp_path, tmp_path, 1000), {"page": Limits(1, 0.3)})
    scope = {"type": "http", "method": "GET", "path": "/config", "query_string": b"within=20", "headers": []}
    for _ in range(2):  # the first left its room
        sent.clear()
        asked = [False, True]
        asyncio.run(layer(scope, receive, send))
        assert [(one["type"], one.get("body")) for one in sent] == [
            ("http.response.start", None),
            ("http.response.body", b"start"),
        ]


def test_a_body_that_trickles_in_is_ended(tmp_path: Path) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(1000):
            await asyncio.sleep(0.05)
            yield b"x"

    async def ask() -> None:
        async with client_of(tmp_path, upload=Limits(2, 0.3, 10_000), call=Limits(2, 0.3, 10_000)) as client:
            for route in ("upload", "queue/join"):
                assert (await client.post(f"/gradio_api/{route}", content=trickle())).status_code == 503

    asyncio.run(ask())


def test_requests_in_flight_are_counted_by_kind(tmp_path: Path) -> None:
    async def ask() -> None:
        async with client_of(tmp_path, page=Limits(3, 60)) as client:
            slow = [asyncio.create_task(client.get("/config?before=1")) for _ in range(5)]
            await asyncio.sleep(0.5)
            other = await client.post("/gradio_api/queue/join", json={})
            statuses = sorted(one.status_code for one in await asyncio.gather(*slow))
            assert statuses == [200, 200, 200, 503, 503] and other.status_code == 200
            assert (await client.get("/config")).status_code == 200

    asyncio.run(ask())


def test_the_limit_of_a_body_is_exact(tmp_path: Path) -> None:
    async def ask() -> None:
        async with client_of(tmp_path, upload=Limits(2, 60, 1000)) as client:
            for size, status in ((1000, 200), (1001, 413)):
                assert (await client.post("/gradio_api/upload", content=bytes(size))).status_code == status
                assert (await client.post("/gradio_api/upload", content=pieces(size))).status_code == status

    async def pieces(size: int) -> AsyncIterator[bytes]:
        for _ in range(size):
            yield b"x"

    asyncio.run(ask())


def test_a_page_below_a_root_path_has_the_same_routes(tmp_path: Path) -> None:
    async def ask(scope_root: str, path: str) -> int:
        layer = RequestLimits(application, ServedFiles(tmp_path, tmp_path, 1000), limits_of_kinds(1000, 60))
        transport = httpx.ASGITransport(layer, root_path=scope_root)
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            return int((await client.get(path)).status_code)

    for root, path, status in (("/a", "/a/config", 200), ("/a", "/config", 200), ("", "/a/config", 404)):
        assert asyncio.run(ask(root, path)) == status
    assert asyncio.run(ask("/a", "/a/monitoring")) == 404
