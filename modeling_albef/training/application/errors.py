"""How a run ends when something is wrong: a sentence for what its user can mend, Python's traceback for all else."""

from __future__ import annotations

import errno
import functools
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from transformers import Trainer, TrainingArguments

from dataset_scripts.reading.problems import DataError
from processing import ProcessingError

from ...configuration_albef import AlbefError
from ..checkpoints.lock import unlock_afterwards
from ..checkpoints.processes import first_message
from ..errors import SettingError, TrainingInterruptedError
from .run_file import GivenArguments

USER_ERRORS: tuple[type[Exception], ...] = (AlbefError, ProcessingError, DataError)
RESUME = "What was saved is whole: --resume_from_checkpoint last goes on from it."
GRACE = 5.0  # seconds that a process leaves the others to say what is wrong
_DEAD_WORKER = r"DataLoader worker .*(exited|killed)|Too many open files|unable to (open|mmap)"
_GONE = r"(Connection (closed|reset) by peer|Broken pipe)"  # what is said of a process that has ended, and
_SILENT = r"(Timed out waiting \d+ ?ms|Application timeout caused pair closure)"  # of one that does not answer
Main = TypeVar("Main", bound=Callable[..., None])


class StartError(AlbefError):
    """A run that cannot be started as it was asked for."""


def exit_without_traceback(main: Main) -> Main:
    """Decorate a script's `main`: errors that its user can mend end the process in one sentence.

    All other errors pass as they are, so that a bug in a script, a collator, a model or a builder shows its traceback.
    The first process prints. Another one prints what it alone met: an error of all processes has ended the first one,
    and the launcher all others, before that. Where a process ends without a message, as by SIGKILL, another one prints
    that. The locks of output folders that `main` took are given back.

    Raises:
        SystemExit: With the sentence and status 1; status 130 after Ctrl-C, 143 after SIGTERM.
    """

    @functools.wraps(main)
    def run(*args: object, **kwargs: object) -> None:
        try:
            with unlock_afterwards():
                main(*args, **kwargs)
        except KeyboardInterrupt:
            _print_on_first_process(f"Interrupted. {RESUME}")
            raise SystemExit(130) from None
        except TrainingInterruptedError as interruption:
            _print_on_first_process(str(interruption))
            raise
        except USER_ERRORS as error:
            if _rank() > 0:
                _leave_to_others()
            is_first = _is_first_to_print(without_store=_rank() == 0)  # which ends with a process that has printed
            if _rank() > 0 and not is_first:
                raise SystemExit(1) from error
            in_training = not isinstance(error, SettingError) and _passed_through_training(error)
            raise SystemExit(f"{sentence(error)} {RESUME}" if in_training else sentence(error)) from error
        except RuntimeError as error:
            _ignore_launcher()
            lost, is_first = _lost_process(str(error)), _is_first_to_print()
            if lost is not None and not is_first:
                _leave_to_others()
                raise SystemExit(1) from error
            if lost is not None:
                raise SystemExit(f"{lost} {RESUME}") from error
            if not re.match(_DEAD_WORKER, str(error)):
                raise
            raise SystemExit(
                f"A process that reads images ended: {' '.join(str(error).split())} If memory was short, lower "
                f"dataloader_num_workers or per_device_train_batch_size. {RESUME}"
            ) from error
        except Exception as error:
            _refuse_long_name(error, _is_first_to_print())
            raise

    return run  # type: ignore[return-value]


@contextmanager
def fail_on_all_ranks(args: TrainingArguments) -> Iterator[None]:
    """Raise on all processes the error that one of them met, if a user can mend it."""
    error: Exception | None = None
    try:
        yield
    except USER_ERRORS as own:
        error = own
    message = first_message(None if error is None else sentence(error), args)
    if error is not None or message is not None:
        raise error or AlbefError(message)


def _refuse_long_name(error: Exception, is_first: bool) -> None:
    """End the process where the error is that no file can have a name, which the first process says."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        name = str(error.filename)
        options = sorted(_options_with(name, error))
        place = f"{', '.join(options)}: the" if options else "The"
        words = f"{place} file name {name[:40]!r}.. of {len(name)} characters is too long: give another one."
        raise SystemExit(words if is_first else 1) from error


def _options_with(path: str, error: Exception) -> set[str]:
    """Return the options whose value holds a path or its longest part, from the arguments that an error passed by."""
    values = (value for frame, _ in traceback.walk_tb(error.__traceback__) for value in frame.f_locals.values())
    given = next((one.given for one in values if isinstance(getattr(one, "given", None), GivenArguments)), None)
    options = {} if given is None else given.fields
    longest = max(path.split(os.sep), key=len)
    return {
        name
        for name, value in options.items()
        for one in (value if isinstance(value, list) else [value])
        if isinstance(one, str) and (longest in one or one == path)
    }


def _passed_through_training(error: Exception) -> bool:
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_code.co_name == "train" and isinstance(frame.f_locals.get("self"), Trainer) for frame in frames)


def sentence(error: Exception) -> str:
    """Return an error's message; of one from a data-loading process, which holds a traceback, its last line."""
    text = str(error).strip()
    if not text.startswith("Caught "):
        return text
    return re.sub(rf"^([\w.]+\.)?{type(error).__name__}: ", "", text.splitlines()[-1])


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _print_on_first_process(text: str) -> None:
    if _rank() == 0:
        print(text, file=sys.stderr)


def _lost_process(text: str) -> str | None:
    """Return a sentence if an error is that of a process whose partner ended, or does not answer."""
    if re.search(_GONE, text):
        return (
            "Another process of this run ended without a message, as one that is killed does: the launcher's lines say "
            "which, and the system's log (dmesg) whether it was for want of memory."
        )
    if re.search(_SILENT, text):
        return (
            "Another process of this run did not answer within --ddp_timeout: look for one that is stopped or hangs, "
            "or give more seconds."
        )
    return None


def _is_first_to_print(without_store: bool = True) -> bool:
    """Note in the launcher's store that this process prints why it ends; return whether it is the first that does.

    `without_store` is what it returns where the store has ended, as when the first machine's processes have.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = torch.distributed.TCPStore(host, port, timeout=timedelta(seconds=GRACE), wait_for_workers=False)
        return bool(store.add(f"albef/ended/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1)
    except (LookupError, ValueError, RuntimeError):  # the store was in a process that has ended
        return without_store


def _ignore_launcher() -> None:
    """Let no SIGTERM, which a launcher sends once a process is lost, come before this one has said why it ends."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _leave_to_others() -> None:
    """Wait for the process that says what is wrong, whose end makes the launcher end this one."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(GRACE)
