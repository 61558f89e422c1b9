"""MFG-Net on VehicleID.

    python -m mfg_jax.main --config=configs/vehicleid.py --config.data.manual_dir=DIR

and for the larger test sets, after training:

    python -m mfg_jax.main --config=configs/vehicleid.py --config.data.manual_dir=DIR --mode=evaluate \
        --config.evaluate.protocol=vehicleid-1600

DIR holds the release as downloaded (docs/datasets.md). Ten seeded draws: one random image of each identity is the
gallery, the others are queries; mean and standard deviation. The paper's schedule for this dataset is not at hand:
epochs and decay are our decision. No accuracy is stated here: we do not have the images.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(network: str = "mfg") -> ConfigDict:
    """VRIC's recipe, with fewer epochs of twice as many images."""
    config = default.get_config(network)
    config.data.dataset = "vehicleid"
    config.evaluate.protocol = "vehicleid-800"
    config.train.epochs = 30  # ours
    config.optimizer.decay_epochs = (12, 22)  # ours
    return config
