"""Keeping what feeds the products of a network out of other operations' loops, on a CPU.

XLA computes a value again wherever it is used if that saves storing it. On a CPU that goes wrong beside convolutions
and matrix products: their gradients need their operands transposed, and the loop that transposes takes in all that the
operand was made by (batch normalisation, ReLU, the addition of a block), runs through its maps in the order of the
transposed one, and once more for every user (docs/performance.md, "Training step").
"""

import jax
from jax import Array, lax


@jax.custom_vjp
def materialised(x: Array) -> Array:
    """`x`; where gradients are taken on a CPU, it and its gradient are arrays in memory, computed once.

    It holds where the compiler is told to leave such marks in place (`mfg_jax.parallel.CPU_COMPILER_OPTIONS`). Where
    there is no gradient it is nothing at all, so that inference and every exporter of networks see plain operations.

    Args:
        x: any array.

    Returns:
        The same.
    """
    return x


def _barrier(x: Array) -> Array:
    # Elsewhere XLA does well to fuse.
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)


def _forward(x: Array) -> tuple[Array, None]:
    return _barrier(x), None


def _backward(_: None, dy: Array) -> tuple[Array]:
    return (_barrier(dy),)


materialised.defvjp(_forward, _backward)
