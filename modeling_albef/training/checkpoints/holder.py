"""Who holds the lock of an output folder, and whether that process still lives."""

from __future__ import annotations

import json
import os
import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    host: str  # name of the machine, for people
    machine: str  # within which process ids mean something
    pid: int
    birth: str  # when the process started: ids are used again
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def current(cls) -> Holder:
        """Return this process."""
        return cls(socket.gethostname(), _this_machine(), os.getpid(), _birth(os.getpid()))

    @classmethod
    def from_text(cls, text: str) -> Holder:
        """Return who wrote the text of a lock; of a text that is damaged, a process of another machine."""
        try:
            values = json.loads(text)
            host, machine, birth = (str(values[name]) for name in ("host", "machine", "birth"))
            return cls(host, machine, int(values["pid"]), birth, str(values["token"]))
        except (ValueError, LookupError, TypeError, RecursionError):
            return cls("an unknown machine", "", 0, "")

    def has_ended(self) -> bool:
        """Whether this process of this machine does not live any more; a zombie does not."""
        if not psutil.pid_exists(self.pid):
            return True
        with suppress(psutil.Error):
            if psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE:
                return True
        return _birth(self.pid) not in ("", self.birth)

    def __str__(self) -> str:
        where = "this machine" if self.machine == _this_machine() else self.host
        return f"process {self.pid} on {where}" if self.pid else f"a process on {where}"


def _this_machine() -> str:
    """Return what tells machines, their boots and their containers apart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _birth(pid: int) -> str:
    """Return when a process started, in ticks since the machine did; empty where that cannot be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, LookupError):
        return ""
