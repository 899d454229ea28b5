"""Errors of a training that a user can mend, and the end that a signal asks for."""

from __future__ import annotations

import signal

from ..configuration_albef import AlbefError


class SettingError(AlbefError):
    """A setting that cannot be used; the message has the value and the remedy."""


class CheckpointError(AlbefError):
    """A checkpoint that could not be written; the message says what is left and how to go on."""


class PushError(AlbefError):
    """A push that failed; the message says what is safe and how to go on."""


class LossNotFiniteError(AlbefError):
    """A loss that is infinite or not a number; the message has the step and the batch's images."""


class TrainingInterruptedError(SystemExit):
    """Training that was asked to end by SIGTERM, after a checkpoint was written; exit status 143, as of the signal."""

    def __init__(self, message: str) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.message = message

    def __str__(self) -> str:
        return self.message
