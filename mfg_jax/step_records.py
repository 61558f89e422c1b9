"""Metrics of single steps, kept until a line of metrics reports their mean, and saved where it is not yet due."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mfg_jax import checkpoint
from mfg_jax.errors import UserError

# In a checkpoint's description: metrics of steps before it that no line of metrics has reported yet.
_UNREPORTED = "unreported_metrics"


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """What is kept of a step until a line of metrics reports it.

    Attributes:
        step: its number, from 1.
        metrics: of the step, on the device until `fetch`.
        images: where this process's share of the batch is in the training split.
    """

    step: int
    metrics: Mapping[str, Any]
    images: Sequence[int] | np.ndarray


def fetch(records: Sequence[StepRecord]) -> list[StepRecord]:
    """The same with their metrics on the host."""
    fetched = jax.device_get([record.metrics for record in records])
    return [
        dataclasses.replace(
            record, metrics={name: value for name, value in metrics.items() if name != "stop"}
        )
        for record, metrics in zip(records, fetched, strict=True)
    ]


def check_finite(records: Sequence[StepRecord], names: Sequence[str], manager: checkpoint.Manager) -> None:
    """Checks the steps that nothing has been saved of yet.

    Args:
        records: from `fetch`.
        names: of all images of the training split.
        manager: of the checkpoints.

    Raises:
        UserError: a loss or gradient is not finite.
    """
    for record in records:
        for name in ("loss", "gradient_norm"):
            if np.isfinite(record.metrics[name]):
                continue
            manager.wait_until_finished()
            last = manager.latest_step()
            good = (
                "no checkpoint had been saved"
                if last is None
                else f"the last good checkpoint is {checkpoint.step_directory(manager, last)}"
            )
            images = ", ".join(str(names[place]) for place in record.images)
            raise UserError(
                f"At step {record.step} the {name.replace('_', ' ')} is {record.metrics[name]}. Training was stopped; "
                f"{good}. A lower config.optimizer.base_rate, a longer config.optimizer.warmup_epochs or "
                "config.optimizer.clip_norm usually helps. Should it come back at the same step, look at its images"
                f"{'' if jax.process_count() == 1 else ' (those of this process)'}: {images}."
            )


def mean_metrics(records: Sequence[StepRecord]) -> dict[str, float]:
    """The mean of each metric over steps from `fetch`."""
    return {name: float(np.mean([record.metrics[name] for record in records])) for name in records[0].metrics}


def with_unreported(description: Mapping[str, Any], records: Sequence[StepRecord]) -> dict[str, Any]:
    """A checkpoint's description, and in it the metrics of steps from `fetch` that no line has reported yet."""
    unreported = [
        {"step": record.step, **{name: float(value) for name, value in record.metrics.items()}}
        for record in records
    ]
    return {**description, _UNREPORTED: unreported}


def without_unreported(description: Mapping[str, Any]) -> dict[str, Any]:
    """The description that was given to `with_unreported`."""
    return {name: value for name, value in description.items() if name != _UNREPORTED}


def read_unreported(description: Mapping[str, Any]) -> list[StepRecord]:
    """The steps that were given to `with_unreported`, without their images: they were checked before."""
    return [
        StepRecord(
            saved["step"],
            {name: np.float32(value) for name, value in saved.items() if name != "step"},
            images=[],
        )
        for saved in description.get(_UNREPORTED, [])
    ]
