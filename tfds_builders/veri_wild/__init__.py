"""VERI-Wild, vehicles of 174 surveillance cameras over a month."""

from tfds_builders.veri_wild.veri_wild_dataset_builder import RELEASE, Builder, read_annotations

__all__ = ["RELEASE", "Builder", "read_annotations"]
