"""MFG-Net on VeRi-776.

    python -m mfg_jax.main --config=configs/veri776.py --config.data.manual_dir=DIR

DIR holds the release as downloaded (docs/datasets.md). The paper's schedule for this dataset is not at hand: epochs,
decay and batch size are our decision, with steps about as many as on VRIC. No accuracy is stated here: we do not have
the images.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(network: str = "mfg") -> ConfigDict:
    """VRIC's recipe, with as many steps on fewer images."""
    config = default.get_config(network)
    config.data.dataset = "veri776"
    config.evaluate.protocol = "veri776"
    config.train.epochs = 60  # ours
    config.optimizer.decay_epochs = (25, 45)  # ours
    config.evaluate.every_epochs = 15
    return config
