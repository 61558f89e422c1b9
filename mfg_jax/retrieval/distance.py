"""Distances between embeddings, in pieces that are the same whatever the size of the pieces.

The order of a ranking is the order of ``|g|^2 - 2 q.g``: the squared Euclidean distance less ``|q|^2``, which
is the same for all items of one ranking. It is computed at full float32 precision on every backend; the
default of a GPU or TPU is TF32 or bfloat16 and reorders near ties.

*Reproducibility.* A float32 dot product depends on the order of its additions, and a matrix library chooses
that order by the shape of the matrices. So two equal gallery images could be at two distances, depending on
where in which block they stand. On the CPU, XLA's kernel adds in one order for every matrix whose sides are
multiples of `_CPU_ROW_STEP` and `_CPU_COLUMN_STEP` (checked bit by bit in tests/retrieval/test_distance.py),
so matrices are padded to such multiples. Of other backends nothing is assumed: there each product has one and
the same shape.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mfg_jax.errors import UserError
from mfg_jax.retrieval.retrieval_set import FloatArray, IntArray

_CPU_ROW_STEP = 64
_CPU_COLUMN_STEP = 64
_CPU_BLOCK_VALUES = 2**23  # distances of a tile: 32 MiB, of which two exist at a time
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
        """Gallery items of a tile, padding and all devices included, for `rows` queries and a gallery's
        size.
        """
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


def checked_squared_norms(features: FloatArray, name: str, first_row: int = 0) -> FloatArray:
    """Squared norm of each embedding, and with it the check that every number is usable.

    Args:
        features: (N, D) float32; may be memory-mapped.
        name: What the error message calls the set.
        first_row: Number of the first row, for the error message.

    Returns:
        (N,) float32.

    Raises:
        UserError: A feature is NaN or infinite, or so large that its square is.
    """
    norms = np.empty(len(features), np.float32)
    step = max(1, _TILE_BYTES // (16 * features.shape[1]))

    def fill(start: int) -> None:
        part = features[start : start + step]
        with np.errstate(over="ignore", invalid="ignore"):
            np.einsum("nd,nd->n", part, part, out=norms[start : start + step])

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(fill, range(0, len(features), step)))
    # A quarter of the largest float, so that |q|^2 + |g|^2 - 2 q.g stays finite as well.
    usable = norms < np.finfo(np.float32).max / 4
    if not usable.all():
        row = int(np.argmin(usable))
        bad = features[row][~np.isfinite(features[row])]
        reason = f"holds {bad[0]}" if len(bad) else "is so large that distances overflow float32"
        raise UserError(
            f"Row {first_row + row} of the {name} features {reason}; {int((~usable).sum())} of "
            f"{len(features)} rows cannot be used, because distances to them would mean nothing. Look at "
            "these images, or at the checkpoint they were embedded with."
        )
    return norms


def pair_distances(
    use: Devices,
    query: FloatArray,
    gallery: FloatArray,
    norms: FloatArray,
    row: IntArray,
    item: IntArray,
    first: IntArray,
) -> FloatArray:
    """Distances of chosen pairs, to the bit those that `ranking_distances` gives for whole tiles.

    Args:
        use: One device.
        query: (Q, D) float32.
        gallery: (G, D) float32.
        norms: (G,) float32 squared norms.
        row: (P,) query of each pair, ascending.
        item: (P,) gallery image of each pair.
        first: (Q + 1,) the pairs of query i are first[i]:first[i + 1].

    Returns:
        (P,) float32.
    """
    values = np.empty(len(row), np.float32)
    rows, columns = use.pair_block
    for start in range(0, len(query), rows):
        here = slice(first[start], first[min(start + rows, len(query))])
        items, position = np.unique(item[here], return_inverse=True)
        local_row = row[here] - start
        if not len(items):
            continue
        query_block = use.put_queries(query[start : start + rows], rows)
        block = np.concatenate(
            [
                np.asarray(
                    ranking_distances(
                        query_block, *use.put_gallery(gallery[part], norms[part], columns), mesh=use.mesh
                    )
                )
                for part in np.split(items, range(columns, len(items), columns))
            ],
            axis=1,
        )
        values[here] = block[local_row, position]
    return values


@dataclasses.dataclass(frozen=True)
class Tile:
    """A tile's distances on one device: items start:start + values.shape[1] of the gallery."""

    start: int
    values: FloatArray  # (Q, columns) float32, without the padding

    @property
    def stop(self) -> int:
        """The item after the last."""
        return self.start + self.values.shape[1]


def gallery_parts(
    use: Devices, rows: int, gallery: FloatArray, norms: FloatArray | None
) -> Iterator[tuple[int, jax.Array, jax.Array]]:
    """The gallery, part by part, on the devices.

    Args:
        use: Devices to put it on.
        rows: Rows of the query block it is to meet.
        gallery: (G, D) float32; may be memory-mapped.
        norms: (G,) float32 squared norms; None computes (and checks) them part by part.

    Yields:
        The part's first item, its features and its squared norms.
    """
    columns = use.gallery_columns(rows, len(gallery), gallery.shape[1])
    for start in range(0, len(gallery), columns):
        part = gallery[start : start + columns]
        known = None if norms is None else norms[start : start + columns]
        part_norms = checked_squared_norms(part, "gallery", start) if known is None else known
        yield start, *use.put_gallery(part, part_norms, columns)


def distance_tiles(
    use: Devices, rows: int, query: FloatArray, gallery: FloatArray, norms: FloatArray | None
) -> Iterator[Tile]:
    """Distances of a block of queries to the whole gallery, tile by tile, on the host.

    Args:
        use: Devices to compute on.
        rows: Rows of the block, padding included.
        query: (Q, D) float32, Q at most `rows`.
        gallery: (G, D) float32; may be memory-mapped.
        norms: (G,) float32 squared norms; None computes (and checks) them tile by tile.

    Yields:
        The tiles of one device after the other, in gallery order.
    """
    query_block = use.put_queries(query, rows)

    def on_host(start: int, values: jax.Array) -> Iterator[Tile]:
        for shard in sorted(values.addressable_shards, key=lambda shard: shard.index[1].start or 0):
            first = start + (shard.index[1].start or 0)
            if first < len(gallery):
                yield Tile(first, np.asarray(shard.data)[: len(query), : len(gallery) - first])

    waiting: tuple[int, jax.Array] | None = None
    for start, features, part_norms in gallery_parts(use, rows, gallery, norms):
        # The next step is launched before the caller gets, and works on, the one that is done.
        launched = ranking_distances(query_block, features, part_norms, mesh=use.mesh)
        if waiting is not None:
            yield from on_host(*waiting)
        waiting = (start, launched)
    if waiting is not None:
        yield from on_host(*waiting)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _pad(values: FloatArray, length: int, fill: float) -> FloatArray:
    if len(values) == length:
        return np.ascontiguousarray(values)
    padded = np.empty((length, *values.shape[1:]), np.float32)
    padded[len(values) :] = fill
    padded[: len(values)] = values
    return padded
