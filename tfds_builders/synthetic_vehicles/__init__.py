"""Synthetic vehicles: a renderer, a TFDS builder, and releases in the official on-disk forms."""

from tfds_builders.synthetic_vehicles.synthetic_vehicles_dataset_builder import (
    Builder,
    SyntheticVehiclesConfig,
)

__all__ = ["Builder", "SyntheticVehiclesConfig"]
