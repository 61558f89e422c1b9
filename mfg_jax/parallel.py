"""The only place that maps a step over devices.

A step is written for one device, with one named axis: it averages gradients and batch statistics over the axis and
gathers embeddings along it. `map_step` then runs it on every device of a mesh, either by `jit(shard_map)` or, on
request, by `jax.pmap`. The two give the same numbers; across processes `pmap` converts every leaf of the state at
every step, which costs several times as much (13 ms against 1.4 ms, two processes, 480 leaves).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "devices"
MAPPINGS = ("shard_map", "pmap")

# For training on a CPU (docs/performance.md, "Training step"; ResNet-50's step takes a third of the time with both).
CPU_COMPILER_OPTIONS = {
    # What XLA leaves to YNNPACK: products and reductions, which run on all threads there. Not convolutions: those of
    # small maps it runs on one thread alone.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
    # What removes the marks of mfg_jax/models/materialised.py before operations are fused.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}

Tree = Any


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis over the given devices, by default all devices of all processes."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (AXIS,))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Puts the same arrays on every device of the mesh."""
    if jax.process_count() > 1:
        tree = jax.device_get(tree)  # JAX copies no array from one host's device to another's
    return jax.device_put(tree, NamedSharding(mesh, P()))


def place_batch(batch: Tree, mesh: Mesh, mapping: str = "shard_map") -> Tree:
    """Spreads a batch over the mesh along its first axis.

    Args:
        batch: arrays whose first axis is this process's share of the global batch, a multiple of its number of devices.
        mesh: of all processes' devices.
        mapping: what the step was mapped by.

    Returns:
        What the mapped step takes: global arrays, or with "pmap" arrays of a leading axis of local devices.
    """
    if mapping == "pmap":
        local = len(mesh.local_devices)
        return jax.tree.map(lambda x: x.reshape(local, x.shape[0] // local, *x.shape[1:]), batch)
    sharding = NamedSharding(mesh, P(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def map_step(
    step: Callable[[Tree, Tree], tuple[Tree, Tree]], mesh: Mesh, mapping: str = "shard_map"
) -> Callable[[Tree, Tree], tuple[Tree, Tree]]:
    """Maps a training step over the mesh's devices.

    Args:
        step: `(state, batch) -> (state, metrics)` for one device and its share of the batch; the results have to be the
            same on every device (reduced over `AXIS`).
        mesh: the devices.
        mapping: "shard_map" or "pmap".

    Returns:
        The same function of a replicated state, which it consumes, and a batch from `place_batch`.

    Raises:
        ValueError: the mapping is neither.
    """
    if mapping == "pmap":
        return jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=(None, None),
            devices=mesh.devices.tolist(),
        )
    if mapping == "shard_map":
        mapped = jax.shard_map(
            step, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=(P(), P()), check_vma=False
        )
        platform = mesh.devices.flat[0].platform
        # jax.pmap takes no such options.
        return jax.jit(
            mapped, donate_argnums=0, compiler_options=CPU_COMPILER_OPTIONS if platform == "cpu" else None
        )
    raise ValueError(f"mapping is one of {', '.join(MAPPINGS)}, not {mapping!r}.")


def map_forward(forward: Callable[[Tree, Tree], Tree], mesh: Mesh) -> Callable[[Tree, Tree], Tree]:
    """Maps an inference function `(variables, batch) -> outputs` over the mesh's devices.

    The outputs are gathered: every process sees those of the whole global batch, along the first axis.
    """
    replicated, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    return jax.jit(forward, in_shardings=(replicated, split), out_shardings=replicated)


def all_processes(value: bool) -> bool:
    """Whether `value` is true in every process: each has to call this, and waits for the others."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.asarray(value)).all())


def connect() -> None:
    """Lets all devices of all processes communicate once. To be called when the processes are in step.

    Gloo, on CPUs, gives processes 30 seconds to connect when they first communicate, and 30 minutes from then on. The
    first step of a training comes after its compilation, which may take longer in one process than in another.
    """
    if jax.process_count() == 1:
        return
    mesh = make_mesh()
    add = jax.shard_map(lambda x: jax.lax.psum(x, AXIS), mesh=mesh, in_specs=P(AXIS), out_specs=P())
    own = np.ones(len(mesh.local_devices), np.float32)
    jax.block_until_ready(jax.jit(add)(place_batch(own, mesh)))
    all_processes(True)


def gather_from_processes(values: np.ndarray) -> np.ndarray:
    """Stacks the processes' arrays, which are of one shape and type, along a new first axis, to the bit."""
    if jax.process_count() == 1:
        return values[None]
    # As bytes: JAX would make float32 of float64.
    raw = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(raw))
    return np.frombuffer(gathered.tobytes(), values.dtype).reshape(jax.process_count(), *values.shape)


@contextlib.contextmanager
def first_process_ahead() -> Iterator[None]:
    """The other processes wait at its beginning until the first has come to its end. Each has to enter it."""
    if jax.process_index() > 0:
        all_processes(True)
    yield
    if jax.process_index() == 0:
        all_processes(True)
