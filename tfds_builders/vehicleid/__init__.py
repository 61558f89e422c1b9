"""VehicleID of Peking University, front and rear views of vehicles in a small city."""

from tfds_builders.vehicleid.vehicleid_dataset_builder import RELEASE, Builder, read_annotations

__all__ = ["RELEASE", "Builder", "read_annotations"]
