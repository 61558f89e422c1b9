"""A trace of some training steps, for TensorBoard's profile plugin or Perfetto."""

import logging
import pathlib
from collections.abc import Sequence

import jax

from mfg_jax.train_step import TrainState

logger = logging.getLogger(__name__)


class StepProfiler:
    """Traces some steps, numbered from the first one of this process, which compiles."""

    def __init__(self, directory: pathlib.Path, steps: Sequence[int], first_step: int, *, active: bool):
        """Traces nothing yet.

        Args:
            directory: where the trace goes.
            steps: the first and the last to trace; empty for none.
            first_step: steps done before this process's first one.
            active: False on processes that are not to write anything.
        """
        self._directory = directory
        self._first: int | None
        self._last: int | None
        self._first, self._last = (
            (first_step + number for number in steps) if steps and active else (None, None)
        )

    def before_step(self, step: int, state: TrainState) -> None:
        """Starts the trace, once what was dispatched before is done."""
        if step == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._directory))

    def after_step(self, step: int, state: TrainState) -> None:
        """Ends the trace."""
        if step == self._last:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            logger.info("Steps %d to %d are traced in %s.", self._first, self._last, self._directory)
