"""What does saving cost the steps around it, in time and memory? The demo's network, saved as often as the demo is.

    python -m benchmarks.checkpointing [--rounds=5]

Blocks of as many steps as lie between two saves, with one save at their start, take turns with blocks without any.
"""

import argparse
import pathlib
import tempfile
import time

import jax
import numpy as np

from benchmarks.leaks import resident_mebibytes
from configs import synthetic
from mfg_jax import checkpoint, parallel
from mfg_jax.models import MFGNet
from mfg_jax.optimizer import make_optimizer
from mfg_jax.train_step import LossWeights, create_train_state, make_train_step

IDENTITIES = 300


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    config = synthetic.get_config()
    steps = config.checkpoint.every_steps
    mesh = parallel.make_mesh()
    model = MFGNet(num_identities=IDENTITIES, axis_name=parallel.AXIS, **config.model)
    optimizer = make_optimizer(
        config.optimizer.name, lambda step: 1e-4, momentum=0.9, weight_decay=0.0, clip_norm=None
    )
    size = {"height": config.data.height, "width": config.data.width}
    state = parallel.replicate(create_train_state(model, optimizer, seed=0, **size), mesh)
    step = parallel.map_step(
        make_train_step(
            model, optimizer, seed=0, weights=LossWeights(**config.loss), augmentation=dict(config.augment)
        ),
        mesh,
    )
    rng = np.random.default_rng(0)
    count = config.train.batch_size
    batch = parallel.place_batch(
        {
            "image": rng.integers(0, 256, (count, size["height"], size["width"], 3), dtype=np.uint8),
            "label": np.repeat(np.arange(count // 4, dtype=np.int32), 4),
        },
        mesh,
    )
    for _ in range(3):
        state, metrics = step(state, batch)
    jax.block_until_ready(state)
    saved = {"variables": state.variables, "optimizer": state.opt_state}
    mebibytes = sum(x.nbytes for x in jax.tree.leaves(saved)) / 2**20
    del saved

    seconds: dict[bool, list[float]] = {False: [], True: []}
    calls, done, memory = [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        checkpoint.open_manager(pathlib.Path(folder), keep_latest=2, best_metric=None) as manager,
    ):
        for number in range(2 * options.rounds):
            saves = number % 2 == 1
            begun = time.perf_counter()
            if saves:
                checkpoint.save(
                    manager,
                    number,
                    variables=state.variables,
                    optimizer=state.opt_state,
                    description={},
                )
                calls.append(time.perf_counter() - begun)
            written = not saves
            for _ in range(steps):
                state, metrics = step(state, batch)
                jax.block_until_ready(metrics)
                if not written and not manager.is_saving_in_progress():
                    done.append(time.perf_counter() - begun)
                    written = True
            seconds[saves].append(time.perf_counter() - begun)
            memory.append(resident_mebibytes())
    plain, saving = np.array(seconds[False]), np.array(seconds[True])
    extra = saving - plain
    print(
        f"{mebibytes:.1f} MiB of parameters, statistics and optimizer state; {jax.devices()[0].device_kind}"
    )
    print(f"step: {1000 * np.median(plain) / steps:.1f} ms (median of {len(plain)} blocks)")
    print(f"the call returns after {1000 * np.median(calls):.0f} ms; written after {np.median(done):.2f} s")
    print(
        f"a block with a save takes {1000 * np.median(extra):+.0f} ms "
        f"(rounds: {', '.join(f'{1000 * x:+.0f}' for x in extra)}), "
        f"{100 * np.median(extra) / np.median(plain):+.2f} % of its {steps} steps"
    )
    print("resident memory after each block, MiB:", *(f"{value:.0f}" for value in memory))


if __name__ == "__main__":
    main()
