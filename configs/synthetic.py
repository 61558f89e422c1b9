"""A small MFG-Net on the built-in synthetic vehicles: the demo, made for two CPU cores.

    python -m mfg_jax.main --config=configs/synthetic.py

Needs no download: the dataset is drawn on first use. The network and all of its parts are the same code as for VRIC;
only depth, width and image size are smaller, and the schedule is shorter.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(network: str = "mfg") -> ConfigDict:
    """The default configuration, made small."""
    config = default.get_config(network)
    config.data.dataset = "synthetic_vehicles"
    config.data.height = 64
    config.data.width = 64

    config.model.depth = 10
    config.model.width = 16
    config.model.stem_stride = 2
    if config.model.head_width:
        config.model.head_width = 64

    config.train.epochs = 18
    config.train.batch_size = 64
    config.train.log_every_steps = 25
    config.augment.crop_padding = 4
    config.optimizer.name = "adamw"
    config.optimizer.base_rate = 2e-3
    config.optimizer.decay_epochs = (11, 15)
    config.optimizer.warmup_epochs = 1.0

    # Every third epoch, half a minute: a save costs a quarter of a second (docs/performance.md, "Saving").
    config.checkpoint.every_steps = 225

    config.evaluate.protocol = "synthetic"
    config.evaluate.batch_size = 64
    config.evaluate.every_epochs = 6
    config.evaluate.untrained = True
    return config
