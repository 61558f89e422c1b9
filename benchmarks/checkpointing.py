"""What does saving cost the steps around it, in time and memory? The demo's network, saved as often as the demo is.

    python -m benchmarks.checkpointing [--saves=20]

A save takes a moment of the loop's own time, and then works beside the steps, which it slows down on a CPU. Its cost is
the time from the call to the end of the steps that follow it, less what as many steps take without: ten steps, three
times as long as writing lasts. Ten steps without one come in between. The median of all saves is compared with the
steps that lie between two saves of the demo.
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

IDENTITIES, STEPS = 300, 10


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--saves", type=int, default=20)
    options = parser.parse_args()
    config = synthetic.get_config()
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
    calls, written, memory = [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        checkpoint.open_manager(pathlib.Path(folder), keep_latest=2, best_metric=None) as manager,
    ):
        for number in range(2 * options.saves):
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
            done = not saves
            for _ in range(STEPS):
                state, metrics = step(state, batch)
                jax.block_until_ready(metrics)
                if not done and not manager.is_saving_in_progress():
                    written.append(time.perf_counter() - begun)
                    done = True
            seconds[saves].append(time.perf_counter() - begun)
            memory.append(resident_mebibytes())
    plain = float(np.median(seconds[False]))
    costs = 1000 * (np.array(seconds[True]) - plain)
    between = config.checkpoint.every_steps * plain / STEPS
    low, middle, high = np.percentile(costs, [25, 50, 75])
    print(
        f"{mebibytes:.1f} MiB of parameters, statistics and optimizer state; {jax.devices()[0].device_kind}"
    )
    print(f"step: {1000 * plain / STEPS:.1f} ms (median of {options.saves} times {STEPS})")
    print(
        f"the call returns after {1000 * np.median(calls):.0f} ms; written after {np.median(written):.2f} s "
        f"({len(written)} of {options.saves} within {STEPS} steps)"
    )
    print(
        f"a save costs {middle:.0f} ms (median; quartiles {low:.0f} and {high:.0f}), {middle / between / 10:.2f} % "
        f"of the {config.checkpoint.every_steps} steps between two of the demo's"
    )
    print(
        f"resident memory, MiB: {memory[0]:.0f} at first, {memory[-1]:.0f} at last, {max(memory):.0f} at most"
    )


if __name__ == "__main__":
    main()
