"""MFG-Net on VRIC, by the paper's recipe.

    python -m mfg_jax.main --config=configs/vric.py --config.data.manual_dir=DIR

DIR holds the release as downloaded (docs/datasets.md). Without the option it is looked for in TFDS's usual place.

From the paper: the rate is multiplied by 0.1 after epochs 15 and 30, training ends with epoch 40, batches of 32 for
training and testing, CMC and mAP by VRIC's own protocol. No accuracy is stated here: we do not have the images.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(network: str = "mfg") -> ConfigDict:
    """The default configuration is VRIC's recipe; this names the dataset and the protocol."""
    config = default.get_config(network)
    config.data.dataset = "vric"
    config.evaluate.protocol = "vric"
    return config
