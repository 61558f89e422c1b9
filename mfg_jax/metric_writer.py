"""Scalars of a run as JSON lines and as TensorBoard events, and pictures as the latter. Only process 0 writes."""

import json
import math
import pathlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import cv2
from tensorboardX import SummaryWriter

from mfg_jax.errors import UserError


class MetricWriter:
    """Writes to `metrics.jsonl` and `tensorboard/` under a work directory.

    On a resumed run, the lines of steps that are done again are cut off first, so that each step stands there once.
    """

    def __init__(self, workdir: pathlib.Path, *, first_step: int = 0, active: bool = True):
        """Opens the files.

        Args:
            workdir: of the run.
            first_step: steps after this one will be written; older lines are kept.
            active: False on processes that are not to write anything.
        """
        self._lines = None
        if not active:
            return
        path = workdir / "metrics.jsonl"
        # A run that starts anew does its step 0, the evaluation of the untrained network, again as well.
        kept = [line for line in read_metrics(workdir) if first_step and line["step"] <= first_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(path)
        self._lines = path.open("a", buffering=1)
        purged = first_step + 1 if first_step else 0
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=purged)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step; a value that is not finite becomes null in the JSON line."""
        if self._lines is None:
            return
        finite = {name: float(value) if math.isfinite(value) else None for name, value in scalars.items()}
        self._lines.write(json.dumps({"step": step, **finite}) + "\n")
        for name, value in scalars.items():
            self._events.add_scalar(name, float(value), step)

    def write_image(self, step: int, name: str, path: pathlib.Path) -> None:
        """Shows a picture in TensorBoard.

        Args:
            step: optimizer steps done.
            name: what it is called there.
            path: of a PNG or JPEG.

        Raises:
            UserError: the file is missing or is no picture.
        """
        if self._lines is None:
            return
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise UserError(
                f"The picture {path}, which an evaluation drew, cannot be read. Evaluate again (--mode=evaluate)."
            )
        self._events.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        """Writes what is still in memory."""
        if self._lines is not None:
            self._lines.flush()
            self._events.flush()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            self._lines.close()
            self._events.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, oldest first; none where there is no such file.

    A last line cut short by a kill is left out.

    Raises:
        UserError: a line is not one of ours.
    """
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    # What follows the last newline is empty, or a line that was being written.
    metrics = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            metrics.append(json.loads(line))
            metrics[-1]["step"]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}, line {number}: {line[:80]!r} is not a line of metrics, which is a JSON object with a step. "
                "Remove the line, or move the file away to start a new one."
            ) from error
    return metrics
