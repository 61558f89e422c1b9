"""Distances between embeddings, in pieces that are the same whatever the size of the pieces.

The order of a ranking is the order of ``|g|^2 - 2 q.g``: the squared Euclidean distance less ``|q|^2``, which is the
same for all items of one ranking. It is computed at full float32 precision on every backend; the default of a
GPU or TPU is TF32 or bfloat16 and reorders near ties.

*Reproducibility.* A float32 dot product depends on the order of its additions, and a matrix library chooses that
order by the shape of the matrices. So two equal gallery images could be at two distances, depending on where in
which block they stand. On the CPU, XLA's kernel adds in one order for every matrix whose sides are multiples of
`_CPU_ROW_STEP` and `_CPU_COLUMN_STEP` (checked bit by bit in tests/retrieval/test_distance.py), so matrices are
padded to such multiples. Of other backends nothing is assumed: there each product has one and the same shape.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

FloatArray = npt.NDArray[np.float32]

_CPU_ROW_STEP = 64
_CPU_COLUMN_STEP = 64
_CPU_BLOCK_VALUES = 2**23  # values of a distance block: 32 MiB, which the last-level cache about holds
_TILE_BYTES = 2**26  # of gallery features on one device at a time
_ACCELERATOR_ROWS = 512
_ACCELERATOR_COLUMNS = 4096


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices a gallery is split over, and the shapes of the products computed there."""

    mesh: Mesh

    @property
    def count(self) -> int:
        """Number of devices."""
        return self.mesh.size

    @property
    def on_cpu(self) -> bool:
        """Whether the host's own processor computes."""
        return self.mesh.devices.flat[0].platform == "cpu"

    @property
    def pair_block(self) -> tuple[int, int]:
        """Rows and columns of the small blocks in which the distances of chosen pairs are computed."""
        return (
            (_CPU_ROW_STEP, 8 * _CPU_COLUMN_STEP)
            if self.on_cpu
            else (_ACCELERATOR_ROWS, _ACCELERATOR_COLUMNS)
        )

    @property
    def first(self) -> "Devices":
        """The first of the devices alone."""
        return Devices(Mesh(self.mesh.devices[:1], ("gallery",)))

    def query_rows(self, queries: int, block_size: int | None) -> int:
        """Rows of a block of queries, padding included, when at most `block_size` of `queries` are wanted."""
        if not self.on_cpu:
            return _ACCELERATOR_ROWS
        return _round_up(min(queries, block_size or 2048), _CPU_ROW_STEP)

    def gallery_columns(self, rows: int, gallery: int, width: int) -> int:
        """Gallery items of a tile, padding and all devices included, for `rows` queries and a gallery's size."""
        if not self.on_cpu:
            return _ACCELERATOR_COLUMNS * self.count
        most = max(_CPU_COLUMN_STEP, min(_CPU_BLOCK_VALUES // rows, _TILE_BYTES // (4 * width))) * self.count
        tiles = -(-gallery // most)
        return _round_up(-(-gallery // tiles), _CPU_COLUMN_STEP * self.count)

    def put_queries(self, features: FloatArray, rows: int) -> jax.Array:
        """(N, D) queries on every device, padded with zeros to `rows`."""
        return jax.device_put(_pad(features, rows, 0), NamedSharding(self.mesh, P()))

    def put_gallery(
        self, features: FloatArray, norms: FloatArray, columns: int
    ) -> tuple[jax.Array, jax.Array]:
        """(N, D) gallery features and their (N,) squared norms, split over the devices, padded to `columns`.

        Padding is infinitely far from everything.
        """
        sharding = NamedSharding(self.mesh, P("gallery"))
        return (
            jax.device_put(_pad(features, columns, 0), sharding),
            jax.device_put(_pad(norms, columns, np.inf), sharding),
        )


def use_devices(devices: Sequence[jax.Device] | None) -> Devices:
    """Devices to compute on.

    Args:
        devices: Any devices of one kind. None means all local accelerators or, where there are none, one CPU
            device, which uses every core anyway.
    """
    if devices is None:
        devices = jax.local_devices()
        devices = devices[:1] if devices[0].platform == "cpu" else devices
    return Devices(Mesh(np.array(devices), ("gallery",)))


@functools.partial(jax.jit, static_argnames="mesh")
def ranking_distances(
    query: jax.Array, gallery: jax.Array, gallery_norms: jax.Array, *, mesh: Mesh
) -> jax.Array:
    """Squared Euclidean distances less the query's own squared norm.

    Args:
        query: (Q, D) float32, on every device of `mesh`.
        gallery: (G, D) float32, split over `mesh`.
        gallery_norms: (G,) float32 squared norms, split likewise.
        mesh: One axis named "gallery".

    Returns:
        (Q, G) float32, split over `mesh` by columns.
    """
    return jax.shard_map(
        block_distances, mesh=mesh, in_specs=(P(), P("gallery"), P("gallery")), out_specs=P(None, "gallery")
    )(query, gallery, gallery_norms)


def block_distances(query: jax.Array, gallery: jax.Array, gallery_norms: jax.Array) -> jax.Array:
    """`ranking_distances` of one device: (Q, D), (G, D), (G,) -> (Q, G), all float32."""
    products = jax.lax.dot_general(
        query, gallery, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST
    )
    # Doubling is exact, so fusing it into a multiply-add or not cannot change the result.
    return gallery_norms[None, :] - jnp.float32(2) * products


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _pad(values: FloatArray, length: int, fill: float) -> FloatArray:
    if len(values) == length:
        return np.ascontiguousarray(values)
    padded = np.empty((length, *values.shape[1:]), np.float32)
    padded[len(values) :] = fill
    padded[: len(values)] = values
    return padded
