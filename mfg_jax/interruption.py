"""SIGTERM and SIGINT: the first one ends a run in order, a second one at once.

Python runs its signal handlers between two instructions of the main thread, which may be minutes away while XLA
compiles. So the signals are taken by a thread of their own, which can act meanwhile.
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType

# EX_TEMPFAIL of sysexits.h: "a temporary failure; the user is invited to retry". Neither a shell, Python, SLURM nor
# Kubernetes gives it to anything else: 1 and 2 are errors, 126 to 128 the shell's own, above are deaths by a signal.
EXIT_INTERRUPTED = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A run was stopped by a signal, in order; the message says what was saved."""


class Interruption:
    """Takes SIGTERM and SIGINT while it is entered.

    While steps are done, the first signal is only noted, and the loop asks for it. At other times there is nothing to
    lose, and the process exits with `EXIT_INTERRUPTED`. A second signal always ends it, with the status a shell gives
    to a process that a signal ended (130 or 143).
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._lock = threading.RLock()
        self._leave: Callable[[], str] | None = lambda: "nothing had been begun."

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._received is not None

    @property
    def name(self) -> str:
        """Of the signal that came."""
        return "" if self._received is None else self._received.name

    def __enter__(self) -> "Interruption":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._thread = threading.Thread(target=self._watch, name="interruption", daemon=True)
        self._thread.start()
        self._previous_handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._previous_descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self.take_signals()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        self._writer.close()  # ends the thread
        self._thread.join()
        self._reader.close()

    def take_signals(self) -> None:
        """Takes the signals again: `jax.distributed.initialize` installs a handler of its own for SIGTERM."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def leave_at_once(self, leave: Callable[[], str]) -> None:
        """From now on a signal ends the process without waiting for the main thread.

        Args:
            leave: does what is left to do, from another thread, and returns what to tell.
        """
        with self._lock:
            self._leave = leave
            if self._received is not None:
                self._exit(leave)

    def leave_after_step(self) -> None:
        """From now on a signal is noted, and the loop asks for it by `requested`."""
        with self._lock:
            self._leave = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Nothing: the byte that Python wrote to the socket is what counts. Without a handler it would write none."""

    def _watch(self) -> None:
        while received := self._reader.recv(1):
            number = signal.Signals(received[0])
            if number not in _SIGNALS:
                continue
            if self._received is not None:
                _exit_now(128 + number)
            with self._lock:
                self._received = number
                if self._leave is not None:
                    self._exit(self._leave)
                    continue
            _tell(f"{number.name}: finishing the step and saving; once more ends the run at once.")

    def _exit(self, leave: Callable[[], str]) -> None:
        # In a thread, so that a second signal is noticed while it works.
        def work() -> None:
            status = 1
            try:
                _tell(f"{self.name}: {leave()}")
                status = EXIT_INTERRUPTED
            except Exception:
                traceback.print_exc()
            _exit_now(status)

        threading.Thread(target=work, name="leaving").start()


def _tell(text: str) -> None:
    print(f"\n{text}", file=sys.stderr, flush=True)


def _exit_now(status: int) -> None:
    # Input workers would outlive a process that does not exit in order.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)
