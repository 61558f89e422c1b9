"""A run with a tiny network in it, untrained, and pictures: what tests of loading, commands and export start from."""

import functools
import json
import pathlib

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from configs import synthetic
from mfg_jax import checkpoint, inference, parallel

IDENTITIES = 5


def tiny_config() -> dict:
    """The demo's configuration with a network of some thousand parameters, as JSON values."""
    config = synthetic.get_config()
    config.data.height, config.data.width = 32, 24
    config.model.width, config.model.head_width, config.model.granularities = 8, 8, (1, 2)
    return json.loads(config.to_json())


@functools.cache
def _variables() -> dict:
    config = tiny_config()
    model = inference.rebuild_network({"config": config, "num_identities": IDENTITIES})
    height, width = config["data"]["height"], config["data"]["width"]
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, height, width, 3))
    )
    rng = np.random.default_rng(1)

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        """As the network's own initialisation, without compiling it."""
        if path[-1].key == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape).astype(leaf.dtype)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def see(variables: dict, images: jax.Array) -> dict:
        """Takes a batch into the running statistics."""
        _, changed = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return {**variables, **changed}

    # Statistics as after some training: an embedding then tells one colour from another.
    for _ in range(30):
        variables = see(variables, rng.normal(size=(8, height, width, 3)) + rng.normal(size=(8, 1, 1, 3)))
    return variables


def write_run(workdir: pathlib.Path, config: dict | None = None, step: int = 7) -> pathlib.Path:
    """Writes a run with one checkpoint, from all devices there are."""
    with checkpoint.open_manager(workdir / "checkpoints", keep_latest=1, best_metric=None) as manager:
        checkpoint.save(
            manager,
            step,
            variables=parallel.replicate(_variables(), parallel.make_mesh()),
            optimizer={"count": jnp.zeros((), jnp.int32)},
            description={"config": config or tiny_config(), "num_identities": IDENTITIES},
        )
    return workdir


def write_pictures(folder: pathlib.Path, vehicles: int = 4, each: int = 3) -> pathlib.Path:
    """Writes `folder/<vehicle>/<number>.jpg`: a vehicle is a colour, each picture another stripe across it."""
    rng = np.random.default_rng(0)
    for vehicle in range(vehicles):
        colour = rng.integers(0, 256, 3)
        (folder / f"car {vehicle}").mkdir(parents=True)
        for number in range(each):
            image = np.tile(colour, (60, 80, 1)).astype(np.uint8)
            image[10 * number : 10 * number + 5] = rng.integers(0, 256, 3)
            cv2.imwrite(str(folder / f"car {vehicle}" / f"{number}.jpg"), image)
    return folder
