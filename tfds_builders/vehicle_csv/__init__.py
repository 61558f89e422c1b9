"""One's own pictures: a CSV or Parquet manifest, or a folder for each identity."""

from tfds_builders.vehicle_csv.vehicle_csv_dataset_builder import RELEASE, Builder, read_annotations

__all__ = ["RELEASE", "Builder", "read_annotations"]
