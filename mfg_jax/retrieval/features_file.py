"""One file of embeddings with their metadata, as Parquet or npz.

Parquet has the columns `name` (string), `id` and `camera` (int64) and `embedding` (list of D float32), one
row an image: the form that DuckDB, pandas, LanceDB, Qdrant, Milvus and others load as it is. npz has the
arrays `names`, `ids`, `cameras`, `features` for plain NumPy. Both keep a free `context` (model, step,
dataset) as JSON.
"""

import dataclasses
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mfg_jax.errors import UserError
from mfg_jax.retrieval.retrieval_set import RetrievalSet

_CONTEXT_KEY = b"mfg_jax"
_ROWS_A_GROUP = 65_536


@dataclasses.dataclass(frozen=True)
class NamedFeatures:
    """What a features file holds.

    Attributes:
        features: Embeddings, identities and cameras.
        names: (N,) name of each image.
        context: What the writer wanted kept: model, step, dataset.
    """

    features: RetrievalSet
    names: Sequence[str]
    context: Mapping[str, Any]


def save_features(
    path: str | os.PathLike[str],
    features: RetrievalSet,
    names: Sequence[str],
    context: Mapping[str, Any] | None = None,
) -> None:
    """Writes a features file, which is complete or not there at all.

    Args:
        path: Ends in .parquet or .npz.
        features: Embeddings, identities and cameras.
        names: (N,) name of each image, such as its file name.
        context: JSON values to keep.

    Raises:
        UserError: The ending is another, or the number of names differs.
    """
    target = pathlib.Path(path)
    if len(names) != len(features):
        raise UserError(f"There are {len(names)} names for {len(features)} embeddings; each image has one.")
    text = json.dumps(dict(context or {}))
    if target.suffix == ".npz":
        with _written_whole(target) as part, part.open("wb") as file:
            np.savez(
                file,
                features=features.features,
                ids=features.ids,
                cameras=features.cameras,
                names=np.array(list(names), dtype=np.str_),
                context=np.array(text),
            )
    elif target.suffix == ".parquet":
        width = features.features.shape[1]
        schema = pa.schema(
            [
                ("name", pa.string()),
                ("id", pa.int64()),
                ("camera", pa.int64()),
                ("embedding", pa.list_(pa.float32(), width)),
            ],
            metadata={_CONTEXT_KEY: text},
        )
        # Embeddings do not compress and have no repeated values; plain bytes are smallest and fastest.
        with (
            _written_whole(target) as part,
            pq.ParquetWriter(part, schema, compression="none", use_dictionary=False) as writer,
        ):
            for start in range(0, len(features), _ROWS_A_GROUP):
                rows = slice(start, start + _ROWS_A_GROUP)
                values = pa.array(np.ascontiguousarray(features.features[rows]).ravel())
                columns = [
                    pa.array(list(names[rows]), pa.string()),
                    pa.array(features.ids[rows]),
                    pa.array(features.cameras[rows]),
                    pa.FixedSizeListArray.from_arrays(values, width),
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    else:
        raise UserError(f"{target}: a features file ends in .parquet or .npz.")


def load_features(path: str | os.PathLike[str]) -> NamedFeatures:
    """Reads a features file.

    Raises:
        UserError: The file is missing, of another kind, or damaged.
    """
    source = pathlib.Path(path)
    if source.suffix not in (".npz", ".parquet"):
        raise UserError(f"{source}: a features file ends in .parquet or .npz.")
    if not source.is_file():
        raise UserError(f"There is no features file {source}.")
    try:
        return _load_npz(source) if source.suffix == ".npz" else _load_parquet(source)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise UserError(
            f"The features file {source} cannot be read ({error}). Expected what `save_features` wrote."
        ) from error


def _load_npz(source: pathlib.Path) -> NamedFeatures:
    with np.load(source, allow_pickle=False) as arrays:
        features = RetrievalSet(arrays["features"], arrays["ids"], arrays["cameras"])
        return NamedFeatures(features, arrays["names"].tolist(), json.loads(str(arrays["context"])))


def _load_parquet(source: pathlib.Path) -> NamedFeatures:
    table = pq.read_table(source)
    embedding = table.column("embedding")
    if not pa.types.is_fixed_size_list(embedding.type):
        raise ValueError(f"the column embedding is {embedding.type}, not lists of one length")
    width = embedding.type.list_size
    features = np.empty((table.num_rows, width), np.float32)
    start = 0
    for chunk in embedding.chunks:
        features[start : start + len(chunk)] = chunk.flatten().to_numpy().reshape(-1, width)
        start += len(chunk)
    labels = [table.column(name).to_numpy() for name in ("id", "camera")]
    context = json.loads((table.schema.metadata or {}).get(_CONTEXT_KEY, b"{}"))
    return NamedFeatures(RetrievalSet(features, *labels), table.column("name").to_pylist(), context)


@contextmanager
def _written_whole(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name to write to, in the target's folder, that becomes the target once all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".features-") as folder:
        part = pathlib.Path(folder) / target.name
        yield part
        os.replace(part, target)
