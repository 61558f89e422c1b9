"""How fast is the training step, beside the same network in PyTorch?

    python -m benchmarks.train_step [--network=demo|resnet50] [--batch=64] [--rounds=5] [--memory]

The step is forward, losses, backward and update; images are on the device, so there is no input pipeline. Ours also
normalises and augments them, as it does in training; PyTorch's gets them normalised. Both run in this process, in
turn, with the same number of threads; the first step of each turn is not timed, as it takes its memory back from the
other program, which no training does. On a CPU in float32, PyTorch's memory format channels last; on a GPU both compute
in bfloat16, and PyTorch's step is compiled (`torch.compile`, autocast).

`GLIBC_TUNABLES=glibc.malloc.hugetlb=1` before the command gives both large pages, as `make demo` has.

`--memory` runs each step in a process of its own and prints the largest resident memory of it, less what was
resident before the network was made.

Floating-point operations are those that PyTorch counts for its convolutions and matrix products, forward and backward,
for both; the peak is the better of the two programs' products of 2,048 x 2,048 matrices.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ml_collections import ConfigDict
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.evaluator_scale import forget_peak_memory, memory
from benchmarks.retrieval_data import interleaved_times
from configs import default, synthetic
from mfg_jax import parallel
from mfg_jax.data.augment import normalise
from mfg_jax.models import MFGNet
from mfg_jax.optimizer import make_optimizer, step_decay_schedule
from mfg_jax.train_step import LossWeights, create_train_state, make_train_step
from tests.parity.torch_losses import training_loss
from tests.parity.torch_mfg_net import MFGNet as TorchMFGNet
from tests.parity.torch_mfg_net import Settings

# Configuration, batch size, identities of the training split: the demo's, and the paper's network with VRIC's.
NETWORKS: dict[str, tuple[Callable[[], ConfigDict], int, int]] = {
    "demo": (synthetic.get_config, 64, 300),
    "resnet50": (default.get_config, 32, 2811),
}


def our_step(
    config: ConfigDict, identities: int, images: np.ndarray, labels: np.ndarray
) -> tuple[Callable[[], object], float]:
    """Our step, compiled, as a function that runs it once; and the seconds that compiling took."""
    mesh = parallel.make_mesh(jax.local_devices()[:1])
    schedule = step_decay_schedule(
        config.optimizer.base_rate, steps_per_epoch=100, decay_epochs=(), decay_factor=1.0
    )
    optimizer = make_optimizer(
        config.optimizer.name,
        schedule,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        clip_norm=config.optimizer.clip_norm,
    )
    model = MFGNet(num_identities=identities, axis_name=parallel.AXIS, **config.model)
    state = create_train_state(model, optimizer, seed=0, height=config.data.height, width=config.data.width)
    state = parallel.replicate(state, mesh)
    batch = parallel.place_batch({"image": images, "label": labels}, mesh)
    step = parallel.map_step(
        make_train_step(
            model,
            optimizer,
            seed=0,
            weights=LossWeights(**config.loss),
            augmentation=dict(config.augment),
        ),
        mesh,
    )
    start = time.perf_counter()
    compiled = step.lower(state, batch).compile()  # type: ignore[attr-defined]
    compile_seconds = time.perf_counter() - start

    def run() -> object:
        nonlocal state
        state, metrics = compiled(state, batch)
        return jax.block_until_ready((state, metrics))

    return run, compile_seconds


def torch_step(
    config: ConfigDict, identities: int, images: np.ndarray, labels: np.ndarray, device: str
) -> tuple[Callable[[], object], float]:
    """PyTorch's step as a function that runs it once, and the operations it counts, in GFLOP."""
    torch.manual_seed(0)
    settings = {name: value for name, value in config.model.items() if name != "dtype"}
    model = TorchMFGNet(Settings(identities, **settings))
    model = model.to(device, memory_format=torch.channels_last)
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": config.optimizer.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer
    if config.optimizer.name == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=config.optimizer.base_rate)
    else:
        optimizer = torch.optim.SGD(
            groups, lr=config.optimizer.base_rate, momentum=config.optimizer.momentum, nesterov=True
        )
    pixels = torch.from_numpy(np.array(normalise(jnp.asarray(images)))).to(device).permute(0, 3, 1, 2)
    targets = torch.from_numpy(labels).long().to(device)

    def loss() -> torch.Tensor:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            output = model(pixels)
        return training_loss(
            output.logits,
            output.triplet_features,
            targets,
            label_smoothing=config.loss.label_smoothing,
            triplet_margin=config.loss.triplet_margin,
        )

    with FlopCounterMode(display=False) as counter:
        loss().backward()
    compute = torch.compile(loss) if device == "cuda" else loss

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        compute().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run, counter.get_total_flops() / 1e9


def peak_gflops(device: str) -> float:
    """GFLOP/s of a large matrix product in the type the networks compute in, the better of the two programs."""
    size = 2_048 if device == "cpu" else 8_192
    ours = jnp.ones((size, size), jnp.float32 if device == "cpu" else jnp.bfloat16)
    theirs = torch.ones(
        (size, size), dtype=torch.float32 if device == "cpu" else torch.bfloat16, device=device
    )
    product = jax.jit(jnp.matmul)

    def run_theirs() -> None:
        torch.matmul(theirs, theirs)
        if device == "cuda":
            torch.cuda.synchronize()

    times = interleaved_times(
        {"ours": lambda: product(ours, ours).block_until_ready(), "theirs": run_theirs}, 5
    )
    return 2 * size**3 / min(min(seconds) for seconds in times.values()) / 1e9


def peak_memory(options: argparse.Namespace, name: str) -> float:
    """GiB of resident memory that the step of one of the two takes, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.train_step",
        f"--network={options.network}",
        f"--only={name}",
    ]
    if options.batch:
        command.append(f"--batch={options.batch}")
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(printed.splitlines()[-1])


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=sorted(NETWORKS), default="demo")
    parser.add_argument("--batch", type=int, help="images; by default the configuration's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="peak memory too; takes as long again")
    parser.add_argument("--only", choices=("ours", "PyTorch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    get_config, batch, identities = NETWORKS[options.network]
    config = get_config()
    batch = options.batch or batch
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    if device == "cuda":
        config.model.dtype = "bfloat16"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, config.data.height, config.data.width, 3), np.uint8)
    labels = np.repeat(np.arange(-(-batch // 4)), 4)[:batch].astype(np.int32)

    if options.only:
        before = memory("VmRSS")
        if options.only == "ours":
            run, _ = our_step(config, identities, images, labels)
        else:
            run, _ = torch_step(config, identities, images, labels, device)
        forget_peak_memory()
        for _ in range(3):
            run()
        print((memory("VmHWM") - before) / 1024)
        return

    print(
        f"{options.network}, {batch} images of {config.data.width} x {config.data.height}, {config.model.dtype}, "
        f"{jax.devices()[0].device_kind}, {torch.get_num_threads()} threads"
    )
    ours, compile_seconds = our_step(config, identities, images, labels)
    theirs, gflop = torch_step(config, identities, images, labels, device)
    work = {"ours": ours, "PyTorch": theirs}
    seconds = interleaved_times(work, options.rounds, settle=1)
    peak = peak_gflops(device)
    print(f"ours compiles in {compile_seconds:.0f} s; {gflop:.1f} GFLOP a step; peak {peak:.0f} GFLOP/s")
    print(f"{'':<10}{'s/step':>8}{'median':>8}{'images/s':>10}{'GFLOP/s':>9}{'of peak':>9}{'GiB':>7}")
    for name, times in seconds.items():
        best = min(times)
        rate = gflop / best
        memory_column = f"{peak_memory(options, name):>7.2f}" if options.memory else ""
        print(
            f"{name:<10}{best:>8.3f}{np.median(times):>8.3f}{batch / best:>10.1f}{rate:>9.0f}{rate / peak:>9.2f}"
            f"{memory_column}"
        )
    best_ratio = min(seconds["PyTorch"]) / min(seconds["ours"])
    turns = np.median(np.divide(seconds["PyTorch"], seconds["ours"]))
    print(
        f"ours / PyTorch, images/s: {best_ratio:.2f} by the best steps, {turns:.2f} by the median of the turns"
    )


if __name__ == "__main__":
    main()
