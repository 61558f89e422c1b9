"""From images to embeddings: what evaluation during training and a loaded checkpoint share."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from mfg_jax import parallel
from mfg_jax.data.augment import normalise
from mfg_jax.models import MFGNet, MFGNetOutput
from tfds_builders.progress import progress_bar

Variables = Any
Forward = Callable[[Variables, Array], Array]


def make_forward(model: MFGNet, mesh: Mesh, *, flip: bool = False) -> Forward:
    """Compiles the network for inference.

    Args:
        model: the network.
        mesh: the devices to spread a batch over.
        flip: average the embeddings of an image and of its mirror image, and bring the mean back to unit norm.

    Returns:
        `(variables, (B, H, W, 3) uint8) -> (B, D) float32` of unit norm.
    """

    def run(variables: Variables, pixels: Array) -> Array:
        return cast(MFGNetOutput, model.apply(variables, pixels, train=False)).embedding

    def forward(variables: Variables, images: Array) -> Array:
        pixels = normalise(images)
        embedding = run(variables, pixels)
        if flip:
            both = embedding + run(variables, pixels[:, :, ::-1])
            embedding = both / jnp.sqrt(jnp.maximum(jnp.sum(both**2, axis=-1, keepdims=True), 1e-12))
        return embedding

    return parallel.map_forward(forward, mesh)


def embed(
    forward: Forward,
    variables: Variables,
    batches: Iterable[np.ndarray],
    count: int,
    mesh: Mesh,
    description: str,
) -> np.ndarray:
    """Embeds batches of images, with progress.

    Args:
        forward: from `make_forward`.
        variables: the network's.
        batches: this process's shares of the batches, all of one size.
        count: how many images there are; what the last batch holds beyond them is dropped.
        mesh: that of `forward`.
        description: of the progress bar.

    Returns:
        `(count, D)` float32.
    """
    embeddings: list[np.ndarray] = []
    previous: Array | None = None
    quiet = jax.process_index() != 0
    with progress_bar(count, description, delay=5.0, leave=False, disable=quiet) as progress:
        for images in batches:
            current = forward(variables, parallel.place_batch(images, mesh))
            # Fetch a batch late, so that the device works while the host decodes.
            if previous is not None:
                embeddings.append(np.asarray(previous))
                progress.update(len(previous))
            previous = current
        if previous is not None:
            embeddings.append(np.asarray(previous))
    return np.concatenate(embeddings)[:count]
