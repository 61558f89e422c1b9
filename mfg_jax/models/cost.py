"""What a network costs: parameters and multiply-adds, from shapes alone; nothing is computed or compiled."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count_parameters(params: Any) -> int:
    """How many numbers a tree of arrays, or of their shapes, holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def count_multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-adds of the convolutions and matrix products that a function traces to.

    This is what the literature gives as the "FLOPs" of ResNet-50 at 224 pixels, 4.1 G; in floating-point operations it
    is twice that. Normalisation, pooling and activations are left out, as is usual; products with padding are counted.

    Args:
        function: of arrays; called with abstract ones. Loops whose length depends on data are not looked into.
        *arguments: arrays, or trees of `jax.ShapeDtypeStruct`.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            kernel = _shape(equation.invars[1])
            out_features = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            total += math.prod(_shape(equation.outvars[0])) * math.prod(kernel) // out_features
        elif name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            left = _shape(equation.invars[0])
            inner = math.prod(left[axis] for axis in contracted)
            total += math.prod(_shape(equation.outvars[0])) * inner
        else:
            # Functions called within, such as jit's; a scan runs its body many times.
            times = parameters.get("length", 1) if name == "scan" else 1
            for value in parameters.values():
                inner_jaxpr = value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
                if isinstance(inner_jaxpr, core.Jaxpr):
                    total += times * _count(inner_jaxpr)
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape
