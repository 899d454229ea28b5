"""The lock of an output folder: one run at a time writes there.

`run.lock` says which process of which machine holds it. On the same machine it is asked whether that process still
lives, so a lock that SIGKILL left behind is taken over at once. A process of another machine, which cannot be asked, is
alive as long as it touches its lock; clocks, which may differ, are not compared.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from transformers import TrainingArguments
from transformers.utils import logging

from ..errors import SettingError
from .holder import Holder
from .processes import first_message, gathered

logger = logging.get_logger(__name__)

LOCK_FILE = "run.lock"
BEAT = 10.0  # seconds between two signs of life of a process that holds a lock
SILENCE = 60.0  # seconds without one after which a process of another machine has ended
LAST_BREATH = 2.0  # seconds that a process which was just killed may take to end
VISIBLE = 10.0  # seconds in which other machines see a new file of a folder that they share
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def _within(seconds: float, is_so: Callable[[], bool]) -> bool:
    """Wait until something is so, and return whether it became so in time."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)
    return True


class OutputLock:
    """The lock of an output folder, held from `acquire` to `release`."""

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = folder, folder.absolute()
        self.path = self.folder / LOCK_FILE
        self.holder = Holder.current()
        self._text = json.dumps(asdict(self.holder))
        self._aside = self.folder / f"{LOCK_FILE}.{self.holder.token}"
        self._made: Path | None = None  # the folder, if it was not there
        self._released = threading.Event()

    def acquire(self) -> None:
        """Take the lock, also one whose holder has ended; a SettingError names a holder that lives."""
        try:
            if not self.folder.exists():
                self.folder.mkdir(parents=True)
                self._made = self.folder
            while not self._create():
                found = self._read()
                if found is not None:
                    self._refuse_if_held(*found)
                    self._take_away(found[0])
        except OSError as error:
            room = "Make room, or give" if error.errno in FULL_DISK else "Give"
            raise SettingError(
                f"The output folder {self.name} cannot be written ({error.strerror}): {room} another --output_dir."
            ) from error
        for left in self.folder.glob(f"{LOCK_FILE}.*"):  # of starts that were killed
            left.unlink(missing_ok=True)
        threading.Thread(target=self._beat, daemon=True, name="lock of the output folder").start()

    def _read(self) -> tuple[str, float] | None:
        """Return text and time of the lock; None where there is none. Opening it asks a file server anew."""
        try:
            with self.path.open(encoding="utf-8", errors="replace") as file:
                return file.read(10_000), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None

    def _create(self) -> bool:
        """Write the lock where there is none; return whether it is this one's. It is never there half-written."""
        if self._read() is not None:
            return False
        self._aside.write_text(self._text, encoding="utf-8")
        try:
            os.link(self._aside, self.path)
        except FileExistsError:
            pass  # it may be ours: a file server that is asked twice says so
        except OSError:  # a file system without links
            with suppress(FileExistsError), self.path.open("x", encoding="utf-8") as file:
                file.write(self._text)
        finally:
            self._aside.unlink(missing_ok=True)
        return self.is_held()

    def _refuse_if_held(self, text: str, touched: float) -> None:
        holder = Holder.from_text(text)
        if holder.machine == self.holder.machine:
            if _within(LAST_BREATH, holder.has_ended):
                return
        else:
            logger.warning(
                f"The lock of {self.name} is of {holder}: looking for {SILENCE:.0f} seconds whether that still lives."
            )
            if not _within(SILENCE, lambda: self._read() != (text, touched)) or self._read() is None:
                return
        raise SettingError(
            f"The output folder {self.name} is in use by {holder}: wait until that run has ended, or give another "
            "--output_dir."
        )

    def _take_away(self, text: str) -> None:
        """Remove the lock of a process that has ended, unless another start was faster and has its own there."""
        with suppress(FileNotFoundError):
            self.path.rename(self._aside)
            if self._aside.read_text(encoding="utf-8", errors="replace")[:10_000] != text:
                with suppress(FileExistsError):
                    os.link(self._aside, self.path)
            self._aside.unlink()

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            with suppress(OSError):
                if self.is_held():
                    os.utime(self.path)

    def is_held(self) -> bool:
        """Whether the lock is there and is this one's."""
        found = self._read()
        return found is not None and found[0] == self._text

    def taker(self) -> Holder | None:
        """Return who holds the lock if another does; a lock that is gone is written again."""
        if self.is_held() or (self.folder.is_dir() and self._create()):
            return None
        found = self._read()
        return None if found is None else Holder.from_text(found[0])

    def release(self) -> None:
        """Remove the lock, and the folder if the lock was all it ever held."""
        self._released.set()
        if self.holder.pid != os.getpid():  # in a fork
            return
        with suppress(OSError):
            if self.is_held():
                self.path.unlink()
            if self._made is not None:
                self._made.rmdir()


_held: dict[Path, OutputLock] = {}  # of this process, by their folders


def lock_output(args: TrainingArguments, is_shared: bool) -> None:
    """Lock the output folder until `unlock_afterwards` or the process ends; all processes must call it.

    Each process that writes checkpoints holds a lock: the first one or, with `save_on_each_node`, the first of each
    machine. Where this process holds it already nothing happens.

    Args:
        args: `output_dir`, `save_on_each_node`, and the processes.
        is_shared: Whether the processes of all machines write there, as a training does.

    Raises:
        SettingError: On all processes: another run is using the folder, it cannot be written, or machines have
            folders of their own where they are to share one, and the other way round.
    """
    folder, is_first = Path(str(args.output_dir)), args.process_index == 0
    token, problem = None, None
    try:
        token = hold_output(folder) if is_first else None
    except SettingError as error:
        problem = str(error)
    token, problem = gathered((token, problem), args)[0]
    if problem is None and not is_first and is_shared:
        problem = _other_machine(folder, str(token), args)
    if (problem := first_message(problem, args)) is not None:
        raise SettingError(problem)


def _other_machine(folder: Path, token: str, args: TrainingArguments) -> str | None:
    """Look whether this process sees the folder of the first one, as it should; return what is wrong."""
    who = f"Process {args.process_index} on {socket.gethostname()}"
    if not args.save_on_each_node:
        if not _within(VISIBLE, lambda: _has_lock(folder, token)):
            return (
                f"{who} does not see the files of process 0 in output_dir ({folder.absolute()}): give a folder that "
                "all machines share, or --save_on_each_node true."
            )
    elif args.should_save:
        if _has_lock(folder, token):
            return f"{who} shares output_dir ({folder.absolute()}) with process 0: leave save_on_each_node out."
        try:
            hold_output(folder)
        except SettingError as error:
            return str(error)
    return None


def hold_output(folder: Path) -> str:
    """Lock an output folder for this process and return the lock's token; holding it twice changes nothing."""
    lock = _held.get(folder.absolute())
    if lock is None or lock.holder.pid != os.getpid():
        lock = OutputLock(folder)
        lock.acquire()
        _held[folder.absolute()] = lock
    return lock.holder.token


@contextmanager
def unlock_afterwards() -> Iterator[None]:
    """Unlock at the end the output folders that were locked meanwhile."""
    before = set(_held)
    try:
        yield
    finally:
        for folder in set(_held) - before:
            _held.pop(folder).release()


@atexit.register
def _release_all() -> None:
    for lock in _held.values():
        lock.release()


def lost_lock(folder: Path) -> str | None:
    """Return a sentence if a lock that this process took is another's now; None where all is well."""
    lock = _held.get(folder.absolute())
    if lock is None or (taker := lock.taker()) is None:
        return None
    return f"The output folder {folder} was taken over by {taker}: let one run go on alone."


def _has_lock(folder: Path, token: str) -> bool:
    """Whether the lock with this token is in a folder, as this process sees it."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return bool(json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))["token"] == token)
    return False
