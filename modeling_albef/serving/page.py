# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A Gradio page that takes only plain values and images that may be opened, and how it is served."""

import os
import secrets
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from typing import Any

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware

from processing import ProcessingError, open_image

from ..configuration_albef import AlbefError
from .deadline import Deadline
from .files import ServedFiles
from .requests import RequestLimits, limits_of_kinds

NO_IMAGE = "There is no such image here: upload it, or choose one of the page."
LOCAL = ("127.0.0.1", "localhost", "::1", "[::1]")


class Page(gr.Blocks):
    """The page; from a request it takes nothing but plain values, and images that may be opened."""

    def __init__(self, files: ServedFiles, deadline: Deadline) -> None:
        """Make an empty page that opens these files, and works on a question until the deadline."""
        super().__init__(title="ALBEF", analytics_enabled=False)
        self.files, self.deadline = files, deadline

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **named: Any) -> Any:
        """Check what a request brings before Gradio looks at it, which would copy files and fetch addresses."""
        self.validate_inputs(block_fn, inputs)
        checked = [self._check(block, value) for block, value in zip(block_fn.inputs, inputs, strict=False)]
        return await super().preprocess_data(block_fn, checked, *arguments, **named)

    def _check(self, field: Any, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(field, gr.Image):
            found = self.files.find(value.get("path"))
            if found is not None:
                return {"path": str(found), "orig_name": found.name}  # no address, and nothing that Gradio would copy
        elif value is None or (isinstance(value, (str, bool, int, float)) and not isinstance(field, gr.Image)):
            return value
        raise gr.Error(NO_IMAGE, print_exception=False)

    def shown(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Show what a user can mend as a message on the page, not as a traceback; limit the time."""

        @wraps(function)
        def wrapped(*arguments: Any) -> Any:
            try:
                with self.deadline.set():
                    return function(*arguments)
            except (AlbefError, ProcessingError) as error:
                raise gr.Error(escape(str(error), quote=False), duration=30, print_exception=False) from error

        return wrapped

    def image_of(self, path: str | None) -> Any:
        """Return the uploaded image; an error names the file, not where the server keeps it."""
        if path is None:
            raise AlbefError("There is no image yet: choose one.")
        found = self.files.find(path)
        if found is None:
            raise AlbefError(NO_IMAGE)
        return open_image({"bytes": found.read_bytes(), "path": found.name})


def pass_paths_to_functions() -> None:
    """Let images reach the page's functions as paths; of the class, since each visitor gets new fields."""
    setattr(gr.Image, "preprocess", lambda self, payload: payload and payload.path)  # noqa: B010, its type is another


def serve(page: Page, host: str | None, port: int | None, password: str | None, max_queue: int) -> None:
    """Serve a page until the process is interrupted or gets SIGTERM.

    Args:
        page: What is served.
        host: Address to listen at; by default what GRADIO_SERVER_NAME says, else that of this machine alone.
        port: By default what GRADIO_SERVER_PORT says, else the first free one from 7860.
        password: Is asked for, with any user name; None asks for nothing.
        max_queue: Calls that wait for the model, at most, beside the one that it works on.

    Raises:
        OSError: The port is taken or the address is not this machine's.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that uploads are deleted
    host = host or os.environ.get("GRADIO_SERVER_NAME", LOCAL[0])
    if host not in LOCAL and password is None:
        print(f"Whoever reaches {host} can use the page: set ALBEF_PASSWORD to ask for a password.")
    page.queue(max_size=max_queue, api_open=False)
    limits = limits_of_kinds(page.files.max_bytes, wait=60 + (max_queue + 1) * page.deadline.seconds)
    page.launch(
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        server_name=host,
        server_port=port,
        auth=None if password is None else lambda _, given: is_password(given, password),
        max_file_size=page.files.max_bytes,
        allowed_paths=[str(page.files.images)],
        footer_links=["api", "gradio"],
        enable_monitoring=False,
        ssr_mode=False,  # its server would stand before the limits, as would further workers
        num_workers=0,
        mcp_server=False,
        state_session_capacity=200,
        app_kwargs={"middleware": [Middleware(RequestLimits, page.files, limits)]},
    )


def is_password(given: str, password: str) -> bool:
    """Return whether what was typed is the password; the time that it takes does not tell how much of it is right."""
    return secrets.compare_digest(given.encode(), password.encode())


@contextmanager
def limited_pixels(most: int) -> Iterator[None]:
    """Let Pillow refuse images of more pixels, by the size in their header; it warns at half, which is silenced."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = min(most // 2, before or most)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def gradio_settings(**variables: str) -> Iterator[None]:
    """Set variables that Gradio reads from the environment."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
