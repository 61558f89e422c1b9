"""MFG-Net on your own pictures.

    python -m mfg_jax.main --config=configs/custom.py --config.data.manual_dir=DIR

DIR holds a folder for each vehicle, or a manifest `manifest.csv` (docs/datasets.md). The recipe is ours: a few thousand
pictures, smaller images and AdamW, which needs less tuning.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(network: str = "mfg") -> ConfigDict:
    """The default network, on a schedule for a small set."""
    config = default.get_config(network)
    config.data.dataset = "vehicle_csv"
    config.evaluate.protocol = "csv"
    config.optimizer.name = "adamw"
    config.optimizer.base_rate = 3.5e-4  # ours
    config.optimizer.warmup_epochs = 2.0  # ours
    return config
