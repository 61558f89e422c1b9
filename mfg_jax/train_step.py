"""The training step of one device: augmentation, losses over the global batch, gradients, update."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from mfg_jax import losses, parallel
from mfg_jax.accumulation import gradient_in_slices
from mfg_jax.data.augment import augment, image_keys
from mfg_jax.models import MFGNet
from mfg_jax.moving_average import update_average

Metrics = Mapping[str, Array]
TrainStep = Callable[["TrainState", Mapping[str, Array]], tuple["TrainState", Metrics]]


@flax.struct.dataclass
class TrainState:
    """All that changes from step to step.

    Attributes:
        step: int32 scalar, optimizer steps done.
        params: the network's parameters, float32.
        batch_stats: running means and variances, float32.
        opt_state: the optimizer's state.
        average: moving averages of `variables`; None where none are kept, which leaves the checkpoint's layout as is.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    average: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """What `MFGNet.apply` takes, as training goes on from it."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def evaluated(self) -> dict[str, Any]:
        """What is evaluated, saved as the network and loaded: the averages where they are kept."""
        return self.variables if self.average is None else self.average

    @property
    def unevaluated(self) -> Any:
        """The rest, that only training needs: the optimizer's state and, beside averages, what they are of."""
        if self.average is None:
            return self.opt_state
        return {"opt_state": self.opt_state, "variables": self.variables}

    def restored(self, step: Array, evaluated: Any, unevaluated: Any) -> Self:
        """The state that gave `evaluated` and `unevaluated` at `step`."""
        if self.average is None:
            return dataclasses.replace(self, step=step, opt_state=unevaluated, **evaluated)
        return dataclasses.replace(
            self,
            step=step,
            opt_state=unevaluated["opt_state"],
            average=evaluated,
            **unevaluated["variables"],
        )


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """How the losses are made and summed; the fields are those of `config.loss`."""

    label_smoothing: float
    identity_weight: float
    metric_loss: str
    metric_weight: float
    triplet_margin: float
    triplet_soft_margin: bool
    circle_margin: float
    circle_scale: float


def create_train_state(
    model: MFGNet,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    height: int,
    width: int,
    averaged: bool = False,
) -> TrainState:
    """Initial weights, a function of the seed alone.

    Args:
        model: the network.
        optimizer: from `mfg_jax.optimizer`.
        seed: of the run.
        height: of the images, in pixels.
        width: of the images, in pixels.
        averaged: keep moving averages too.
    """
    image = jnp.zeros((1, height, width, 3), jnp.float32)
    # Runs once, so it is not worth optimising: on a CPU it compiles in a third of the time (3.4 s, not 12 s).
    init = jax.jit(
        model.init, static_argnames="train", compiler_options={"xla_backend_optimization_level": 0}
    )
    variables = init(jax.random.key(seed), image, train=False)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        # A copy: the step consumes its state, and cannot consume one array twice.
        average=jax.tree.map(jnp.copy, variables) if averaged else None,
    )


def make_train_step(
    model: MFGNet,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    weights: LossWeights,
    augmentation: Mapping[str, Any],
    average_decay: float | None = None,
    accumulation_steps: int = 1,
) -> TrainStep:
    """One optimizer step, as each device of the axis `parallel.AXIS` does it.

    Args:
        model: the network, its `axis_name` set to `parallel.AXIS`.
        optimizer: from `mfg_jax.optimizer`.
        seed: of the augmentation.
        weights: of the losses.
        augmentation: the arguments of `mfg_jax.data.augment.augment`.
        average_decay: of the moving averages; None where the state keeps none.
        accumulation_steps: slices that each device's share is processed in (`mfg_jax.accumulation`).

    Returns:
        `(state, batch) -> (state, metrics)`, where the batch holds this device's `image` `(b, H, W, 3)` uint8 and
        `label` `(b,)` int32. State and metrics are the same on every device.
    """

    def train_step(state: TrainState, batch: Mapping[str, Array]) -> tuple[TrainState, Metrics]:
        labels = batch["label"]
        count = labels.shape[0]
        # This device's images are consecutive ones of the global batch.
        first_position = jax.lax.axis_index(parallel.AXIS).astype(jnp.int32) * count
        images = augment(image_keys(seed, state.step, first_position, count), batch["image"], **augmentation)
        # Once: the first convolution uses them twice, for its value and its kernel's gradient.
        images = jax.lax.optimization_barrier(images)

        def forward(params: Any, images: Array) -> tuple[tuple[Array, Array], Any]:
            output, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            return (output.logits, output.triplet_features), updated["batch_stats"]

        def loss_function(outputs: tuple[Array, Array]) -> tuple[Array, Metrics]:
            logits, triplet_features = outputs
            identity_loss = losses.smoothed_cross_entropy(logits, labels, weights.label_smoothing)
            loss = weights.identity_weight * identity_loss
            accuracy = jnp.mean((jnp.argmax(logits, axis=-1) == labels[None]).astype(jnp.float32))
            metrics = {"identity_loss": identity_loss, "accuracy": accuracy}
            if weights.metric_loss != "none" and triplet_features.shape[0] > 0:
                metric_loss = global_metric_loss(triplet_features, labels, first_position, weights)
                loss += weights.metric_weight * metric_loss
                metrics["metric_loss"] = metric_loss
            return loss, metrics | {"loss": loss}

        def loss_at_once(params: Any) -> tuple[Array, tuple[Metrics, Any]]:
            outputs, batch_stats = forward(params, images)
            loss, metrics = loss_function(outputs)
            return loss, (metrics, batch_stats)

        if accumulation_steps == 1:
            gradients, (metrics, batch_stats) = jax.grad(loss_at_once, has_aux=True)(state.params)
        else:
            gradients, (metrics, batch_stats) = gradient_in_slices(
                forward, loss_function, state.params, images, accumulation_steps
            )
        gradients, metrics = jax.lax.pmean((gradients, metrics), parallel.AXIS)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        trained = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if average_decay is not None:
            average = update_average(state.average, trained.variables, average_decay, state.step)
            trained = dataclasses.replace(trained, average=average)
        return trained, metrics

    return train_step


def global_metric_loss(features: Array, labels: Array, first_position: Array, weights: LossWeights) -> Array:
    """The configured metric loss of each of V vectors, its pairs over all devices' images; averaged.

    The gradient of a device's loss reaches other devices' images too, through the gathered candidates: gathering is
    transposed into a sum over devices. The mean over devices of such gradients is the gradient of the global batch.

    Args:
        features: `(V, b, D)` float, this device's.
        labels: `(b,)` integers, this device's.
        first_position: int32 scalar, of this device's first image in the global batch.
        weights: of the losses; `metric_loss` is not "none".

    Returns:
        A float32 scalar; its mean over the devices is the loss of the global batch.
    """
    candidates = jax.lax.all_gather(features, parallel.AXIS, axis=1, tiled=True)
    candidate_ids = jax.lax.all_gather(labels, parallel.AXIS, tiled=True)
    positions = first_position + jnp.arange(labels.shape[0], dtype=jnp.int32)
    pairs = losses.find_pairs(labels, candidate_ids, positions)

    def of_one_vector(anchors: Array, candidates: Array) -> Array:
        match weights.metric_loss:
            case "triplet":
                margin = None if weights.triplet_soft_margin else weights.triplet_margin
                return losses.batch_hard_triplet(anchors, candidates, pairs, margin)
            case "weighted_triplet":
                return losses.weighted_triplet(anchors, candidates, pairs)
            case "circle":
                return losses.circle_loss(
                    anchors, candidates, pairs, weights.circle_margin, weights.circle_scale
                )
        raise ValueError(
            f"metric_loss is one of {', '.join(losses.METRIC_LOSSES)}, not {weights.metric_loss!r}."
        )

    each = [of_one_vector(*vectors) for vectors in zip(features, candidates, strict=True)]
    return jnp.mean(jnp.stack(each))
