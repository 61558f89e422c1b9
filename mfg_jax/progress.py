"""The line that tells how a training run is going: on a terminal it stays in place, in a log it is a line each time."""

import sys
import time
from collections.abc import Mapping
from typing import TextIO


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
        if self._active:
            end = "" if self._stream.isatty() and step < self._total else "\n"
            start = "\r\033[K" if self._stream.isatty() else ""
            print(start + text, end=end, file=self._stream, flush=True)
        return rate

    def restart(self) -> None:
        """Leaves the time since the last update out of the account: it went into something other than steps."""
        if self._active and self._stream.isatty():
            print(file=self._stream)
        self._since = time.monotonic()


def duration(seconds: float) -> str:
    """`3 h 05 min`, `12 min 40 s` or `7 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
