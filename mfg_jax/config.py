"""Checks of a configuration before anything is built, and its comparison with a checkpoint's."""

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mfg_jax.errors import UserError
from mfg_jax.losses import METRIC_LOSSES
from mfg_jax.models.mfg_net import MFGNet, check_attributes
from mfg_jax.models.parts import POOLINGS
from mfg_jax.optimizer import OPTIMIZERS
from mfg_jax.parallel import MAPPINGS
from mfg_jax.projector import MOST_IMAGES
from mfg_jax.retrieval.protocols import PROTOCOLS, get_protocol

# Fields that may differ when a run is resumed: they change where and how fast it runs or what is looked at, but not the
# weights at a given step (another number of devices or mapping changes them by rounding alone).
FREE_ON_RESUME = (
    "config.checkpoint.",
    "config.data.data_dir",
    "config.data.manual_dir",
    "config.data.threads",
    "config.data.workers",
    "config.evaluate.",
    "config.parallel.",
    "config.train.compilation_cache",
    "config.train.epochs",
    "config.train.log_every_steps",
    "config.train.max_steps",
    "config.train.profile_steps",
    "config.train.rematerialise",
)

# The smallest and the largest value of numbers; a field that is not set (None) passes.
_EVALUATION_RANGES = {
    "data.height": (8, math.inf),
    "data.width": (8, math.inf),
    "data.threads": (1, math.inf),
    "data.workers": (0, math.inf),
    "evaluate.batch_size": (1, math.inf),
    "evaluate.seed": (0, math.inf),
    "evaluate.projector_images": (0, MOST_IMAGES),
}
_TRAINING_RANGES = {
    "seed": (0, 2**31 - 1),
    "model.width": (1, math.inf),
    "model.head_width": (0, math.inf),
    "model.attention_reduction": (1, math.inf),
    "train.epochs": (1, math.inf),
    "train.batch_size": (1, math.inf),
    "train.images_per_identity": (2, math.inf),
    "train.accumulation_steps": (1, math.inf),
    "train.max_steps": (1, math.inf),
    "train.log_every_steps": (1, math.inf),
    "augment.flip_probability": (0, 1),
    "augment.crop_padding": (0, math.inf),
    "augment.brightness": (0, 1),
    "augment.contrast": (0, 1),
    "augment.saturation": (0, 1),
    "augment.erase_probability": (0, 1),
    "loss.label_smoothing": (0, 1),
    "loss.identity_weight": (0, math.inf),
    "loss.metric_weight": (0, math.inf),
    "loss.triplet_margin": (0, math.inf),
    "loss.circle_margin": (0, 1),
    "loss.circle_scale": (1, math.inf),
    "optimizer.base_rate": (0, math.inf),
    "optimizer.decay_factor": (0, 1),
    "optimizer.warmup_epochs": (0, math.inf),
    "optimizer.momentum": (0, 1),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.clip_norm": (0, math.inf),
    "optimizer.ema_decay": (0, 1),
    "evaluate.every_epochs": (1, math.inf),
    "checkpoint.every_steps": (1, math.inf),
    "checkpoint.keep_latest": (1, math.inf),
    "checkpoint.keep_every_steps": (1, math.inf),
}

# What `mfg_jax.evaluation.headline` tells of a checkpoint; ranks beyond the gallery's size are not told.
_HEADLINE = ("mAP", "mINP", "CMC@1", "CMC@5", "CMC@10")

# The protocols of each dataset, by the start of their names.
PROTOCOLS_OF = {
    "synthetic_vehicles": "synthetic",
    "vehicle_csv": "csv",
    "vehicleid": "vehicleid-",
    "veri776": "veri776",
    "veri_wild": "veri-wild-",
    "vric": "vric",
}


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping, as `("train.epochs", 40)`."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON values: what is stored beside results and in checkpoints."""
    return json.loads(config.to_json())


def nearest_field(known: Sequence[str], unknown: str) -> str:
    """The one of the known dotted names that is most like `unknown`; the part after the last dot counts most."""
    leaf = unknown.rpartition(".")[2]

    def likeness(name: str) -> tuple[bool, bool, float]:
        known_leaf = name.rpartition(".")[2]
        return (
            known_leaf == leaf,
            leaf in known_leaf or known_leaf in leaf,
            difflib.SequenceMatcher(None, name, unknown).ratio(),
        )

    return max(known, key=likeness)


def check(config: ConfigDict, devices: int, processes: int) -> None:
    """Checks what the types of the fields cannot.

    Args:
        config: with the fields of `configs/default.py`.
        devices: how many the batches are spread over, all processes together.
        processes: how many run.

    Raises:
        UserError: naming the first field that cannot be used, and values that can.
    """
    check_evaluation(config, devices, processes)
    _check_model(config.model)
    _check_ranges(config, _TRAINING_RANGES)
    batch_size, per_identity = config.train.batch_size, config.train.images_per_identity
    unit = math.lcm(devices, per_identity)
    fitting = max(unit * max(1, round(batch_size / unit)), 2 * per_identity)
    if batch_size % per_identity or batch_size // per_identity < 2:
        raise UserError(
            f"config.train.batch_size is {batch_size}, which is not two or more identities of "
            f"config.train.images_per_identity = {per_identity} images each. Use {fitting}, or another number of "
            "images."
        )
    _check_shared("train.batch_size", batch_size, devices, processes, fitting)
    _check_one_of("loss.metric_loss", config.loss.metric_loss, METRIC_LOSSES)
    shares = devices * config.train.accumulation_steps
    if batch_size % shares:
        raise UserError(
            f"config.train.batch_size is {batch_size}, which cannot be divided equally among {devices} device(s) with "
            f"config.train.accumulation_steps = {config.train.accumulation_steps} slices each. Use a multiple of "
            f"{math.lcm(shares, per_identity)}, or fewer slices."
        )
    _check_one_of("optimizer.name", config.optimizer.name, OPTIMIZERS)
    _check_one_of("parallel.mapping", config.parallel.mapping, MAPPINGS)
    _check_one_of("checkpoint.best_metric", config.checkpoint.best_metric, _HEADLINE)
    traced = tuple(config.train.profile_steps)
    if traced and (
        len(traced) != 2
        or any(not isinstance(step, int) for step in traced)
        or not 2 <= traced[0] <= traced[1]
    ):
        raise UserError(
            f"config.train.profile_steps is {traced}; it is the first and the last step to trace, counted from the "
            "start of the process, whose first step compiles: (10, 15). Empty, (), for none."
        )
    epochs = list(config.optimizer.decay_epochs)
    if epochs != sorted(set(epochs)) or any(not isinstance(epoch, int) or epoch < 1 for epoch in epochs):
        raise UserError(
            f"config.optimizer.decay_epochs is {tuple(epochs)}; it is whole epochs of 1 or more, ascending: (15, 30)."
        )


def check_evaluation(config: ConfigDict, devices: int, processes: int) -> None:
    """Checks what evaluating a checkpoint needs; arguments and errors as in `check`."""
    for name in ("data.dataset", "evaluate.protocol"):
        if _field(config, name) is None:
            raise UserError(
                f"config.{name} is not set. Start from a configuration that names its dataset, such as "
                f"configs/vric.py or configs/synthetic.py, or give --config.{name}=NAME."
            )
    _check_protocol(config.data.dataset.partition("/")[0], get_protocol(config.evaluate.protocol).name)
    _check_ranges(config, _EVALUATION_RANGES)
    size = config.evaluate.batch_size
    _check_shared("evaluate.batch_size", size, devices, processes, max(1, round(size / devices)) * devices)


def _check_model(model: ConfigDict) -> None:
    _check_one_of("model.stem_stride", model.stem_stride, (2, 4))
    _check_one_of("model.last_stride", model.last_stride, (1, 2))
    _check_one_of("model.pooling", model.pooling, POOLINGS)
    _check_one_of("model.dtype", model.dtype, ("float32", "bfloat16"))
    parts = model.granularities
    grids = (
        [_grid(part) for part in parts] if isinstance(parts, Sequence) and not isinstance(parts, str) else []
    )
    if not grids or None in grids or len(set(grids)) != len(grids):
        raise UserError(
            f"config.model.granularities is {parts!r}; it is one or more different whole numbers of stripes or "
            "(rows, columns) of a grid, 1 for the global branch: (1, 2, 3) or (1, (2, 2))."
        )
    place = model.branch_from
    if len(place) != 2 or any(type(number) is not int for number in place):
        raise UserError(f"config.model.branch_from is {place!r}; it is (stage, block), such as (3, 1).")
    try:
        check_attributes(MFGNet(num_identities=1, **model))
    except ValueError as error:
        raise UserError(f"config.model.{error}") from error


def _grid(part: Any) -> tuple[int, int] | None:
    """Rows and columns of an entry of `model.granularities`; None where it is none."""
    sides = part if isinstance(part, list | tuple) else (part, 1)
    if len(sides) == 2 and all(type(side) is int and side >= 1 for side in sides):
        return tuple(sides)
    return None


def _check_ranges(config: ConfigDict, ranges: Mapping[str, tuple[float, float]]) -> None:
    for name, (lowest, highest) in ranges.items():
        value = _field(config, name)
        if value is not None and not lowest <= value <= highest:
            bound = f"at least {lowest:g}" if highest == math.inf else f"from {lowest:g} to {highest:g}"
            raise UserError(f"config.{name} is {value}; it has to be {bound}.")


def _check_one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise UserError(f"config.{name} is {value!r}; it is one of {', '.join(map(str, allowed))}.")


def _check_shared(name: str, size: int, devices: int, processes: int, fitting: int) -> None:
    if size % devices:
        raise UserError(
            f"config.{name} is {size}, which cannot be divided equally among {devices} devices of {processes} "
            f"process(es). Use a multiple of {devices}, such as {fitting}."
        )


def _field(config: ConfigDict, name: str) -> Any:
    group, _, field = name.rpartition(".")
    return config[group][field] if group else config[field]


def _check_protocol(dataset: str, protocol: str) -> None:
    """A result under the name of another dataset's protocol would mislead whoever reads it."""
    if dataset in PROTOCOLS_OF and not protocol.startswith(PROTOCOLS_OF[dataset]):
        fitting = [name for name in PROTOCOLS if name.startswith(PROTOCOLS_OF[dataset])]
        raise UserError(
            f"config.evaluate.protocol = {protocol!r} does not belong to the dataset {dataset!r}; its "
            f"{'protocol is' if len(fitting) == 1 else 'protocols are'} {', '.join(fitting)}."
        )


def check_same_run(saved: Mapping[str, Any], current: Mapping[str, Any], workdir: str) -> None:
    """Checks that a checkpoint belongs to this run, so that resuming continues it.

    Args:
        saved: the description stored in the checkpoint: `config`, and what it says of the training images.
        current: the one of the run asked for, likewise.
        workdir: where the checkpoint is, for the message.

    Raises:
        UserError: a field that decides the weights differs.
    """
    before, now = dict(flatten(saved)), dict(flatten(current))
    different = [
        f"{name} was {before.get(name, 'not there')!r} and is now {now.get(name, 'not there')!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(FREE_ON_RESUME)
    ]
    if different:
        shown = "; ".join(different[:5]) + ("; ..." if len(different) > 5 else "")
        raise UserError(
            f"{workdir} holds checkpoints of another run: {shown}. Give another --workdir to start a new run, or the "
            "configuration and data of before to resume the old one. Nothing was changed."
        )
