# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A layer in front of the page's routes (ASGI): which are open, and how large, how many and how long requests may be.

Gradio has routes that this page does not use: some fetch addresses that a visitor names, some answer without a
password. So routes are named that are open, and all others do not exist.
"""

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

import anyio
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from .files import ServedFiles

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

API = "/gradio_api"
LONGEST_SESSION = 64  # characters of the name that a browser gives its session
LOGIN_DELAY = 1.0  # seconds that a wrong password takes
FILE_HEADERS = [(b"content-security-policy", b"sandbox; default-src 'none'; img-src 'self'; style-src 'unsafe-inline'")]
HEADERS = [(b"x-content-type-options", b"nosniff")]


class Limits(NamedTuple):
    """Limits of one kind of request."""

    at_once: int  # requests in flight
    seconds: float  # from the first byte of the request to the last one of the response
    max_body: int = 0  # bytes


# Method and path, and the kind of request.
ROUTES = [
    (r"(GET|HEAD) /(config|favicon\.ico|manifest\.json|robots\.txt|theme\.css|logout)?", "page"),
    (r"(GET|HEAD) /(assets|static|svelte)/.+", "page"),
    (rf"(GET|HEAD) {API}/(app_id|info|login_check|openapi\.json|queue/status|startup-events|theme\.css|user)", "page"),
    (r"POST /login", "login"),
    (rf"POST {API}/(queue/join|cancel|reset|(call|call/v2|run|api)/[^/]+)", "call"),
    (rf"POST {API}/upload", "upload"),
    (rf"(GET|HEAD) {API}/file[=/].+", "file"),
    (rf"GET {API}/(queue/data|upload_progress|call/(v2/)?[^/]+/[^/]+)", "answer"),
    (rf"GET {API}/heartbeat/[^/]+", "heartbeat"),
]


def limits_of_kinds(max_upload: int, wait: float) -> dict[str, Limits]:
    """Return the limits by the kind of request; `wait` are the seconds that an answer takes at most, with its queue."""
    return {
        "page": Limits(200, 60),
        "login": Limits(4, 30, 10_000),
        "call": Limits(64, 30, 100_000),
        "upload": Limits(8, 120, max_upload + 10_000),
        "file": Limits(64, 120),
        "answer": Limits(100, wait),
        "heartbeat": Limits(100, 3600),
    }


class RequestLimits:
    """The layer. It refuses with status 404 (closed route, file that is not served), 413, 422 or 503."""

    def __init__(self, app: Any, files: ServedFiles, limits: dict[str, Limits]) -> None:
        """Stand in front of `app`, with the files that are served and the limits by kind."""
        self._app, self._files, self._limits = app, files, limits
        self._in_flight: Counter[str] = Counter()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer that it is refused."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        kind = self._kind(scope) if scope["type"] == "http" else None
        if kind is None:
            return await _refuse(404, "Not Found")(scope, receive, send)
        limits = self._limits[kind]
        if self._in_flight[kind] >= limits.at_once:
            return await _refuse(503, "The page is busy: try again in a few seconds.")(scope, receive, send)
        self._in_flight[kind] += 1
        try:
            await self._pass_on(kind, limits, scope, receive, send)
        finally:
            self._in_flight[kind] -= 1

    def _kind(self, scope: Message) -> str | None:
        """Return the kind of a request; None where its route is closed or its file is not served."""
        path = scope["path"]
        root = scope.get("root_path", "").rstrip("/")
        if root and path.startswith(f"{root}/"):
            path = path.removeprefix(root)
        short = path.rstrip("/") or "/"
        kind = next((kind for route, kind in ROUTES if re.fullmatch(f"{route}", f"{scope['method']} {short}")), None)
        if kind == "file" and not self._files.can_be_sent(path[len(f"{API}/file=") :]):
            return None
        return kind

    async def _pass_on(self, kind: str, limits: Limits, scope: Message, receive: Receive, send: Send) -> None:
        response = _Response(send, kind)
        with anyio.move_on_after(limits.seconds) as within:
            try:
                if kind in ("upload", "call"):
                    await anyio.to_thread.run_sync(self._files.make_room)
                source = _limited(scope, receive, limits.max_body)
                if kind == "call":
                    source = await _checked_call(source)
                await self._app(scope, source, response.send)
            except HTTPException as error:
                if not response.has_started:
                    await _refuse(error.status_code, error.detail)(scope, receive, response.send)
        if within.cancelled_caught and not response.has_started:
            await _refuse(503, f"The request took longer than {limits.seconds:g} seconds.")(scope, receive, send)


class _Response:
    """Sends a response with further headers, and that to a wrong password late."""

    def __init__(self, send: Send, kind: str) -> None:
        self._send, self._kind, self.has_started = send, kind, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._kind == "login" and message["status"] >= 400:
                await anyio.sleep(LOGIN_DELAY)
            self.has_started = True
            further = HEADERS + (FILE_HEADERS if self._kind == "file" else [])
            message = {**message, "headers": [*message.get("headers", ()), *further]}
        await self._send(message)


def _refuse(status: int, reason: str) -> JSONResponse:
    headers = {"Retry-After": "5", "Connection": "close"} if status == 503 else {"Connection": "close"}
    return JSONResponse({"detail": reason}, status, headers)


def _limited(scope: Message, receive: Receive, max_body: int) -> Receive:
    """Return a source of a request's body that raises HTTPException (413) beyond `max_body` bytes."""
    error = HTTPException(413, f"The request is too large: it may have {max_body} bytes.")
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if not declared.isdigit() or int(declared) > max_body:
        raise error
    taken = 0

    async def source() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > max_body:
            raise error
        return message

    return source


async def _checked_call(receive: Receive) -> Receive:
    """Return a source of the same body, which must be JSON with a short session name; raise HTTPException (422)."""
    parts, is_more = [], True
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        is_more = message.get("more_body", False)
    body = b"".join(parts)
    try:
        session = json.loads(body).get("session_hash")
    except (ValueError, AttributeError, RecursionError) as error:
        raise HTTPException(422, "The request is no JSON object.") from error
    if session is not None and not (isinstance(session, str) and len(session) <= LONGEST_SESSION):
        raise HTTPException(422, f"The session is no text of at most {LONGEST_SESSION} characters.")
    whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def source() -> Message:
        nonlocal whole
        message, whole = whole, None
        return await receive() if message is None else message

    return source
