"""VRIC, Vehicle Re-Identification in Context."""

from tfds_builders.vric.vric_dataset_builder import RELEASE, Builder, read_annotations

__all__ = ["RELEASE", "Builder", "read_annotations"]
