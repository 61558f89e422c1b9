"""The learning-rate schedule and the Optax chain, from explicit arguments."""

from collections.abc import Sequence

import jax
import optax

OPTIMIZERS = ("sgd", "adam", "adamw")


def step_decay_schedule(
    base_rate: float,
    *,
    steps_per_epoch: int,
    decay_epochs: Sequence[int],
    decay_factor: float,
    warmup_epochs: float = 0.0,
) -> optax.Schedule:
    """The rate starts at `base_rate` and is multiplied by `decay_factor` after each of `decay_epochs`.

    Epochs are counted from 1, as the paper does: with `decay_epochs=(15, 30)` the first fifteen epochs run at the
    base rate. The steps of an epoch e (from 0) are those in `[e * steps_per_epoch, (e + 1) * steps_per_epoch)`.

    Args:
        base_rate: learning rate before any decay.
        steps_per_epoch: optimizer steps of one epoch.
        decay_epochs: after how many epochs to decay, ascending.
        decay_factor: by how much, each time.
        warmup_epochs: over how many epochs the rate first rises linearly from a hundredth of what it would be.

    Returns:
        A function from the step to the rate.
    """
    decayed = optax.piecewise_constant_schedule(
        base_rate, {epoch * steps_per_epoch: decay_factor for epoch in decay_epochs}
    )
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    if warmup_steps == 0:
        return decayed
    warmup = optax.linear_schedule(0.01, 1.0, warmup_steps)
    return lambda step: decayed(step) * warmup(step)


def decays(params: optax.Params) -> optax.Params:
    """True for the leaves that weight decay applies to: kernels, but no biases and no normalisation scales."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float,
    clip_norm: float | None,
) -> optax.GradientTransformation:
    """Builds the Optax chain: clip, decay weights, step.

    Args:
        name: "sgd" (with Nesterov momentum) and "adam" add the decay to the gradient, as `torch.optim.SGD` and
            `torch.optim.Adam` do; with "adamw" it is decoupled (Loshchilov and Hutter, ICLR 2019): each step takes
            `rate * weight_decay` of the kernel off, as `torch.optim.AdamW`. The three mean different things by one
            coefficient: Adam's step divides the decay by the gradient's size, AdamW's does not.
        schedule: from step to learning rate.
        momentum: of SGD; Adam's own are 0.9 and 0.999.
        weight_decay: coefficient, on kernels alone.
        clip_norm: the gradient's global norm is clipped to this; None for no clipping.

    Raises:
        ValueError: the name is none of these.
    """
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm is not None else []
    decay = optax.add_decayed_weights(weight_decay, mask=decays)
    if name == "sgd":
        return optax.chain(*clip, decay, optax.sgd(schedule, momentum=momentum, nesterov=True))
    if name == "adam":
        return optax.chain(*clip, decay, optax.adam(schedule))
    if name == "adamw":
        return optax.chain(*clip, optax.adamw(schedule, weight_decay=weight_decay, mask=decays))
    raise ValueError(f"The optimizer is one of {', '.join(OPTIMIZERS)}, not {name!r}.")
