"""What the compiler of a GPU or TPU is given for the training step, which needs neither to be looked at."""

import collections
import functools
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
import pytest
from small_run import NETWORK

from configs import default
from mfg_jax import parallel, train_step
from mfg_jax.models import MFGNet

BATCH, SIZE = 8, 48


@functools.cache
def _program(platform: str, dtype: str) -> str:
    """The training step in StableHLO."""
    config = default.get_config()
    model = MFGNet(num_identities=5, axis_name=parallel.AXIS, dtype=dtype, **NETWORK)
    optimizer = optax.sgd(0.1, momentum=0.9)
    variables = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3))
    )
    state = train_step.TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        opt_state=jax.eval_shape(optimizer.init, variables["params"]),
        **variables,
    )
    batch = {
        "image": jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    }
    step = train_step.make_train_step(
        model,
        optimizer,
        seed=0,
        weights=train_step.LossWeights(**config.loss),
        augmentation=dict(config.augment),
    )
    mapped = parallel.map_step(step, parallel.make_mesh(jax.devices()[:1]))
    return mapped.trace(state, batch).lower(lowering_platforms=(platform,)).as_text()  # type: ignore[attr-defined]


def _operand_types(program: str, operation: str) -> Mapping[str, int]:
    """How often the operation takes operands of which type."""
    operands = re.findall(rf"stablehlo\.{operation}.*: \(tensor<(?:\d+x)*(\w+)>", program)
    return collections.Counter(operands)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_every_convolution_and_product_of_the_network_is_in_bfloat16(platform):
    exact, rounded = _program(platform, "float32"), _program(platform, "bfloat16")
    convolutions = _operand_types(exact, "convolution")
    assert set(convolutions) == {"f32"}
    assert _operand_types(rounded, "convolution") == {"bf16": convolutions["f32"]}

    products = _operand_types(rounded, "dot_general")
    assert sum(products.values()) == _operand_types(exact, "dot_general")["f32"]
    # Grey in the augmentation, and the distances of each granularity's triplets.
    assert products["f32"] == 1 + 3


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_distances_of_the_loss_are_not_rounded_where_products_are(platform):
    exact = re.findall(
        r"stablehlo\.dot_general.*precision = \[HIGHEST, HIGHEST\]", _program(platform, "bfloat16")
    )
    assert len(exact) == 3


@pytest.mark.parametrize(("platform", "marked"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_only_a_cpu_is_kept_from_fusing(platform, marked):
    barriers = _program(platform, "float32").count("optimization_barrier")
    # One for the augmented images, everywhere.
    assert (barriers > 1) == marked
    assert barriers >= 1
