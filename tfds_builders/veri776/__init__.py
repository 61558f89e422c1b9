"""VeRi-776, vehicles of 20 surveillance cameras."""

from tfds_builders.veri776.index_files import compare_index_files
from tfds_builders.veri776.veri776_dataset_builder import RELEASE, Builder, read_annotations

__all__ = ["RELEASE", "Builder", "compare_index_files", "read_annotations"]
