"""The line that tells how a training run is going: on a terminal it stays in place, in a log it is a line each time."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TextIO


class ProgressLine:
    """Reports steps, loss, learning rate, images per second and the time left."""

    def __init__(
        self,
        *,
        first_step: int,
        total_steps: int,
        steps_per_epoch: int,
        batch_size: int,
        active: bool = True,
        stream: TextIO = sys.stderr,
    ):
        """Starts the clock.

        Args:
            first_step: steps done before.
            total_steps: steps of the whole run.
            steps_per_epoch: steps of an epoch.
            batch_size: images of a step, over all devices.
            active: False on processes that are not to write anything.
            stream: where to write.
        """
        self._total, self._per_epoch, self._batch_size = total_steps, steps_per_epoch, batch_size
        self._active, self._stream = active, stream
        self._step = first_step
        self._since = time.monotonic()
        self._live = ""  # what stands on the terminal's last line, and no newline after it
        self._header = ""  # of the rows printed last

    def update(self, step: int, scalars: Mapping[str, float]) -> float:
        """Reports on the steps since the last call.

        Args:
            step: steps done.
            scalars: `loss` and `learning_rate` are shown.

        Returns:
            Images per second since the last call or `restart`.
        """
        now = time.monotonic()
        seconds_per_step = (now - self._since) / max(1, step - self._step)
        self._step, self._since = step, now
        rate = self._batch_size / seconds_per_step
        epoch, epochs = (step - 1) // self._per_epoch + 1, -(-self._total // self._per_epoch)
        text = (
            f"epoch {epoch}/{epochs}  step {step}/{self._total}  loss {scalars['loss']:.4f}  "
            f"rate {scalars['learning_rate']:.2e}  {rate:,.1f} images/s  "
            f"{duration((self._total - step) * seconds_per_step)} left"
        )
        if not self._stream.isatty():
            self._write(text + "\n")
        else:
            self._live = text
            self._write(f"\r\033[K{text}")
        return rate

    def row(self, header: str, row: str) -> None:
        """Writes a row of a table; on a terminal above the line, which stays the last.

        There the rows follow each other, and the header comes once. In a log other lines come between, and it comes
        with each row.

        Args:
            header: of the table, a line without its end.
            row: likewise.
        """
        if not self._stream.isatty():
            self._write(f"{header}\n{row}\n")
            return
        heading = "" if header == self._header else f"{header}\n"
        self._header = header
        self._write(f"\r\033[K{heading}{row}\n{self._live}")

    def restart(self) -> None:
        """Leaves the time since the last update out of the account: it went into something other than steps."""
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What is written next starts a line of its own.
        if self._live:
            self._write("\n")

    def _write(self, text: str) -> None:
        if self._active:
            print(text, end="", file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """`3 h 05 min`, `12 min 40 s` or `7 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
