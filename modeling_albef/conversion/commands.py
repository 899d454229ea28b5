# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How the commands of this package end: what a user can mend is a sentence, everything else a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

from processing.image_processing_albef import ProcessingError

from ..configuration_albef import AlbefError


@contextmanager
def exit_without_traceback() -> Iterator[None]:
    """Exit with status 1 and the error's message where it is one that a user can mend."""
    try:
        yield
    except (AlbefError, ProcessingError) as error:
        raise SystemExit(f"{error}") from error
