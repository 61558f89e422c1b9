"""What a dataset knows of its vehicles besides their identity: colour and type. For reports, never for training."""

from collections.abc import Sequence

import tensorflow_datasets as tfds

from mfg_jax.data.source import Builder
from tfds_builders.progress import progress_bar

# By the name people read, the field of the records.
FIELDS = {"colour": "color", "type": "type"}
_RECORDS_AT_ONCE = 512


def read_attributes(builder: Builder, split: str, indices: Sequence[int]) -> list[dict[str, str]]:
    """Reads the attributes of some images.

    Args:
        builder: Of the dataset.
        split: Its name.
        indices: (N,) places in the split.

    Returns:
        N mappings of the names in `FIELDS` to values; what is not known is left out.
    """
    known = {name: field for name, field in FIELDS.items() if field in builder.info.features}
    if not known:
        return [{} for _ in indices]
    features = tfds.features.FeaturesDict({field: builder.info.features[field] for field in known.values()})
    records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    attributes = []
    with progress_bar(len(indices), f"reading attributes of {split}", delay=1.0, leave=False) as progress:
        for start in range(0, len(indices), _RECORDS_AT_ONCE):
            chunk = [int(index) for index in indices[start : start + _RECORDS_AT_ONCE]]
            for serialised in records.__getitems__(chunk):
                record = features.deserialize_example_np(serialised)
                values = {name: record[field].decode() for name, field in known.items()}
                attributes.append({name: value for name, value in values.items() if value})
            progress.update(len(chunk))
    return attributes
