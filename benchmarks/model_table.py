"""Parameters, multiply-adds and embedding size of each network, from shapes alone, in seconds.

    python -m benchmarks.model_table [--config=configs/vric.py] [--height=256] [--width=256]

The networks are those of configs/networks.py within one configuration, then the demo's. Multiply-adds are those of the
convolutions and matrix products that embed one image (twice as many floating-point operations); the classifiers, which
only training needs, are counted apart.
"""

import argparse
import dataclasses
import pathlib
import runpy
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import synthetic
from configs.networks import NETWORKS
from mfg_jax.models import MFGNet
from mfg_jax.models.cost import count_multiply_adds, count_parameters

# One classifier's classes, for the column of classifiers; VRIC's training split.
IDENTITIES = 2811


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one network costs.

    Attributes:
        parameters: trained numbers of all that makes the embedding.
        classifier_parameters: of the classifiers besides.
        multiply_adds: to embed one image.
        embedding_size: numbers in an embedding.
    """

    parameters: int
    classifier_parameters: int
    multiply_adds: int
    embedding_size: int


def cost_of(model: MFGNet, height: int, width: int) -> Cost:
    """The cost of a network at an image size in pixels."""
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)

    def initialise(image: jax.Array) -> Any:
        return model.init(jax.random.key(0), image, train=False)

    def forward(variables: Any, image: jax.Array) -> Any:
        return model.apply(variables, image, train=False)

    variables = jax.eval_shape(initialise, image)
    heads = [
        head.get("classify", {}) for name, head in variables["params"].items() if name.startswith("head")
    ]
    classifiers = count_parameters(heads)
    return Cost(
        parameters=count_parameters(variables["params"]) - classifiers,
        classifier_parameters=classifiers,
        # A classifier without bias takes one multiply-add for each of its parameters.
        multiply_adds=count_multiply_adds(forward, variables, image) - classifiers,
        embedding_size=jax.eval_shape(forward, variables, image).embedding.shape[-1],
    )


def table(rows: Sequence[tuple[str, ConfigDict]]) -> str:
    """The costs of named configurations' networks as text."""
    lines = [
        f"{'network':12}{'image':>10}{'parameters':>13}{'classifiers':>13}{'multiply-adds':>15}{'embedding':>11}"
    ]
    lines.append("-" * len(lines[0]))
    for name, config in rows:
        height, width = config.data.height, config.data.width
        cost = cost_of(MFGNet(num_identities=IDENTITIES, **config.model), height, width)
        lines.append(
            f"{name:12}{f'{height}x{width}':>10}{cost.parameters / 1e6:>11.3f} M"
            f"{cost.classifier_parameters / 1e6:>11.3f} M{cost.multiply_adds / 1e9:>13.3f} G{cost.embedding_size:>11}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--config", type=pathlib.Path, default=pathlib.Path("configs/vric.py"))
    parser.add_argument("--height", type=int, help="pixels; by default the configuration's")
    parser.add_argument("--width", type=int)
    options = parser.parse_args(arguments)
    get_config = runpy.run_path(str(options.config))["get_config"]
    rows = []
    for name in NETWORKS:
        config = get_config(name)
        config.data.height = options.height or config.data.height
        config.data.width = options.width or config.data.width
        rows.append((name, config))
    print(table([*rows, ("demo", synthetic.get_config())]))
    print(f"\nClassifiers of {IDENTITIES:,} identities.")


if __name__ == "__main__":
    main(sys.argv[1:])
