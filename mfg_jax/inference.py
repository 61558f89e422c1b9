"""A trained network, loaded from its checkpoint: for notebooks and programs. Needs none of the training code."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from mfg_jax import checkpoint, embedding, parallel, weights_file
from mfg_jax.data.images import decode, resize
from mfg_jax.errors import UserError
from mfg_jax.models import MFGNet

Paths = Sequence[str | os.PathLike[str]]


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A network and its weights.

    Attributes:
        config: the configuration it was trained with, as JSON values.
        variables: parameters and batch statistics, as `MFGNet.apply` takes them.
        step: optimizer steps that led to them.
        model: the Flax module.
        mesh: the devices it runs on.
        forward: `(variables, (B, H, W, 3) uint8) -> (B, D) float32`, compiled.
    """

    config: Mapping[str, Any]
    variables: Any
    step: int
    model: MFGNet
    mesh: Mesh
    forward: embedding.Forward

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width, in pixels, that images are brought to."""
        return self.config["data"]["height"], self.config["data"]["width"]

    def embed(self, images: np.ndarray | Paths, batch_size: int = 32) -> np.ndarray:
        """Embeds images.

        Args:
            images: `(N, H, W, 3)` uint8 RGB of any size, or the paths of N image files.
            batch_size: images at once; rounded up to a multiple of the number of devices.

        Returns:
            `(N, D)` float32 of unit norm, for Euclidean distance.

        Raises:
            UserError: an array is of another shape or type, or a file is not an image.
        """
        if isinstance(images, np.ndarray) and (
            images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8
        ):
            raise UserError(
                f"Images are an array (N, H, W, 3) of uint8 RGB; got {images.shape} of {images.dtype}. One image is "
                "`image[None]`; a float image in [0, 1] is `(255 * image).round().astype('uint8')`."
            )
        if isinstance(images, str | os.PathLike):
            raise UserError(f"Give a list of paths, not one: embed([{str(images)!r}]).")
        if len(images) == 0:
            raise UserError("There are no images to embed.")
        batch_size = -(-batch_size // self.mesh.size) * self.mesh.size

        def batches() -> Iterator[np.ndarray]:
            for start in range(0, len(images), batch_size):
                batch = np.zeros((batch_size, *self.image_size, 3), np.uint8)
                for row, image in enumerate(images[start : start + batch_size]):
                    batch[row] = self._prepare(image)
                yield batch

        return embedding.embed(
            self.forward, self.variables, batches(), len(images), self.mesh, "embedding images"
        )

    def _prepare(self, image: np.ndarray | str | os.PathLike[str]) -> np.ndarray:
        if isinstance(image, np.ndarray):
            return resize(image, *self.image_size)
        path = pathlib.Path(image)
        try:
            return decode(path.read_bytes(), *self.image_size)
        except (OSError, ValueError) as error:
            raise UserError(f"The image {path} cannot be read: {error}") from error


def rebuild_network(description: Mapping[str, Any]) -> MFGNet:
    """The network that a checkpoint's description tells of."""
    settings = dict(description["config"]["model"])
    # JSON knows lists alone, and a module's attributes have to be hashable.
    granularities = tuple(tuple(g) if isinstance(g, list) else g for g in settings.pop("granularities"))
    branch_from = tuple(settings.pop("branch_from"))
    return MFGNet(
        num_identities=description["num_identities"],
        granularities=granularities,
        branch_from=branch_from,
        **settings,
    )


def load(workdir: str | os.PathLike[str], step: int | None = None) -> Embedder:
    """Loads a trained network, whatever number of devices it was trained on.

    Args:
        workdir: of a run, such as "runs/vric", or a `.safetensors` file exported from one (`mfg_jax.weights_file`).
        step: which checkpoint; None for the newest.

    Raises:
        UserError: there is no such checkpoint.
    """
    path = pathlib.Path(workdir)
    if path.suffix == ".safetensors":
        variables, description, step = weights_file.load_exported(path)
    else:
        variables, description, step = checkpoint.load_variables(path / "checkpoints", step)
    model = rebuild_network(description)
    mesh = parallel.make_mesh()
    return Embedder(
        config=description["config"],
        variables=parallel.replicate(variables, mesh),
        step=step,
        model=model,
        mesh=mesh,
        forward=embedding.make_forward(model, mesh),
    )
