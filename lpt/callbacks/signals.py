"""What asks a command to stop: SIGTERM, Ctrl-C, and SIGHUP, which a terminal sends when it is closed."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Mapping
from typing import Any

STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
Handler = Callable[[int, Any], None]


class Stopped(BaseException):
    """A signal asked the run to end; what is on disk continues it."""


class Finished(Stopped):
    """A signal asked the run to end when nothing was left but to write its results, and they are written."""


def on_stop(handler: Handler) -> dict[int, Any]:
    """Call `handler` at each of `STOPS` from now on, but leave a SIGHUP that `nohup` ignores; returns those before."""

    def hang_up(number: int, frame: Any) -> None:
        _leave_terminal()
        handler(number, frame)

    before = handlers()
    for number, old in before.items():
        if number != getattr(signal, "SIGHUP", None):
            signal.signal(number, handler)
        elif old is not signal.SIG_IGN:
            signal.signal(number, hang_up)
    return before


def handlers() -> dict[int, Any]:
    """What is called at each of `STOPS` at present."""
    return {number: signal.getsignal(number) for number in STOPS}


def restore(handlers: Mapping[int, Any]) -> None:
    """What `on_stop` gave."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def late() -> bool:
    """Whether a stop was asked for after the run's last checkpoint; the run is finished all the same."""
    handler = signal.getsignal(signal.SIGTERM)
    return isinstance(handler, Stopping) and handler.done and handler.came


class Stopping:
    """The handler around a fit: it raises `Stopped`, but takes note only once the run is `done`.

    Lightning puts it back before a fit's last callbacks run, so what it does cannot be left to another handler.
    """

    def __init__(self) -> None:
        self.done = self.came = False

    def __call__(self, number: int, frame: Any) -> None:
        self.came = True
        if not self.done:
            raise Stopped


def _leave_terminal() -> None:
    """What is printed to a terminal from now on goes nowhere: one that is gone answers with an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    os.close(nowhere)
