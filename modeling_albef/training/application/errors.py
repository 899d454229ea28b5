"""How a run ends when something is wrong: a sentence for what its user can mend, Python's traceback for all else."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from dataset_scripts import DataError
from processing import ProcessingError

from ...configuration_albef import AlbefError, exit_with_message
from ..errors import TrainingInterruptedError

USER_ERRORS: tuple[type[Exception], ...] = (AlbefError, ProcessingError, DataError)
RESUME = "What was saved is whole: --resume_from_checkpoint last goes on from it."
GRACE = 5.0  # seconds that the other processes leave the first to say the same
_DEAD_WORKER = r"DataLoader worker .*(exited|killed)|Too many open files|unable to (open|mmap)"
Main = TypeVar("Main", bound=Callable[..., None])


def exit_without_traceback(main: Main) -> Main:
    """Decorate a script's `main`: errors that its user can mend end the process in one sentence.

    All other errors pass as they are, so that a bug in a script, a collator, a model or a builder shows its traceback.
    The first process prints. Another one prints what it alone met: an error of all processes has ended the first one,
    and the launcher all others, before that.

    Raises:
        SystemExit: With the sentence and status 1; status 130 after Ctrl-C, 143 after SIGTERM.
    """

    @functools.wraps(main)
    def run(*args: object, **kwargs: object) -> None:
        try:
            with exit_with_message(*USER_ERRORS, message=_message_of_first_process):
                main(*args, **kwargs)
        except KeyboardInterrupt:
            _print_on_first_process(f"Interrupted. {RESUME}")
            raise SystemExit(130) from None
        except TrainingInterruptedError as interruption:
            _print_on_first_process(str(interruption))
            raise
        except RuntimeError as error:
            if not re.match(_DEAD_WORKER, str(error)):
                raise
            raise SystemExit(
                f"A process that reads images ended: {' '.join(str(error).split())} If memory was short, lower "
                f"dataloader_num_workers or per_device_train_batch_size. {RESUME}"
            ) from error

    return run  # type: ignore[return-value]


def _message_of_first_process(error: Exception) -> str:
    """Return an error's message; of one that a reading process handed over with its whole traceback, the last line.

    All processes but the first wait before: its end makes the launcher end them.
    """
    if _rank() > 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(GRACE)
    text = str(error).strip()
    if not text.startswith("Caught "):
        return text
    return re.sub(rf"^([\w.]+\.)?{type(error).__name__}: ", "", text.splitlines()[-1])


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _print_on_first_process(text: str) -> None:
    if _rank() == 0:
        print(text, file=sys.stderr)
