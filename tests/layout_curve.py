"""Training steps on one layout of devices, for `test_layouts.py`. As a program: on a layout of several processes.

python tests/layout_curve.py OUT.npz MAPPING COORDINATOR NUM_PROCESSES PROCESS_ID
"""

import sys

import jax
import numpy as np
import optax
from small_run import NETWORK

from configs import default
from mfg_jax import distributed, parallel, train_step
from mfg_jax.models import MFGNet

MODEL = {"num_identities": 6, "granularities": (1, 2)} | NETWORK
SIZE = 32
BATCH = 8
STEPS = 20
# A rate at which rounding does not grow. On one device, moving every initial weight by one unit in the last place moves
# the loss of the 20th step by 8e-8 of it. At 0.02 it is 2e-2, and there the layouts differ as much, at the same steps.
RATE = 0.002


def batches() -> list[dict[str, np.ndarray]]:
    """Global batches of two images of each of four identities, which lie on different devices of every layout.

    Each identity has a pattern of its own, so that there is something to learn.
    """
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3], np.int32)
    patterns = rng.integers(0, 156, (4, SIZE, SIZE, 3), dtype=np.uint8)
    return [
        {
            "image": patterns[labels] + rng.integers(0, 100, (BATCH, SIZE, SIZE, 3), dtype=np.uint8),
            "label": labels,
        }
        for _ in range(STEPS)
    ]


def run(devices: list[jax.Device], mapping: str) -> dict[str, np.ndarray]:
    """Losses of each step, and the batch statistics after the last.

    Args:
        devices: of all processes; each process feeds its own share of the batches.
        mapping: "shard_map" or "pmap".

    Returns:
        `loss`, `metric_loss`, `gradient_norm` `(STEPS,)` float32, and the leaves of the batch statistics by path.
    """
    model = MFGNet(axis_name=parallel.AXIS, **MODEL)
    optimizer = optax.sgd(RATE, momentum=0.9)
    mesh = parallel.make_mesh(devices)
    config = default.get_config()
    step = parallel.map_step(
        train_step.make_train_step(
            model,
            optimizer,
            seed=3,
            weights=train_step.LossWeights(**config.loss),
            augmentation={**config.augment, "crop_padding": 2},
        ),
        mesh,
        mapping,
    )
    state = parallel.replicate(
        train_step.create_train_state(model, optimizer, seed=3, height=SIZE, width=SIZE), mesh
    )
    share = BATCH // jax.process_count()
    own = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    curve = []
    for batch in batches():
        placed = parallel.place_batch({name: values[own] for name, values in batch.items()}, mesh, mapping)
        state, metrics = step(state, placed)
        curve.append(jax.device_get(metrics))
    result = {
        name: np.array([metrics[name] for metrics in curve])
        for name in ("loss", "metric_loss", "gradient_norm")
    }
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state.batch_stats))
    return result | {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def main() -> None:
    """Runs one process; the first writes."""
    out, mapping, coordinator, num_processes, process_id = sys.argv[1:]
    job = distributed.start(
        "on", coordinator=coordinator, num_processes=int(num_processes), process_id=int(process_id)
    )
    result = run(jax.devices(), mapping)
    if jax.process_index() == 0:
        np.savez(out, **result)
    job.finish()


if __name__ == "__main__":
    main()
