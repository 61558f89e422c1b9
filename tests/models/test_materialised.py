"""Where the marks are: beside gradients on a CPU, and nowhere else; and that they survive until loops are fused."""

import jax
import jax.numpy as jnp
import pytest

from mfg_jax import parallel
from mfg_jax.models.materialised import materialised


def _value(x):
    return jnp.sum(jnp.tanh(materialised(jnp.sin(x))))


@pytest.mark.parametrize(("platform", "marks"), [("cpu", 2), ("cuda", 0), ("tpu", 0)])
def test_only_gradients_on_a_cpu_are_marked(platform, marks):
    x = jnp.ones((3, 4))

    def marked(function):
        return (
            jax.jit(function)
            .trace(x)
            .lower(lowering_platforms=(platform,))
            .as_text()
            .count("optimization_barrier")
        )

    assert marked(_value) == 0
    assert marked(jax.grad(_value)) == marks


def test_it_changes_no_value_and_no_gradient():
    x = jnp.linspace(-2.0, 2.0, 7)
    plain = jax.value_and_grad(lambda x: jnp.sum(jnp.tanh(jnp.sin(x))))(x)
    for one, other in zip(
        jax.tree.leaves(jax.value_and_grad(_value)(x)), jax.tree.leaves(plain), strict=True
    ):
        assert jnp.array_equal(one, other)


@pytest.mark.parametrize("options", [parallel.CPU_COMPILER_OPTIONS, {}])
def test_the_compiler_keeps_the_marks_when_told_to(options):
    compiled = jax.jit(jax.grad(_value), compiler_options=options).lower(jnp.ones((64, 64))).compile()
    assert ("opt-barrier" in compiled.as_text()) == bool(options)
