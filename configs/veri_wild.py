"""MFG-Net on VERI-Wild, which is beyond the paper.

    python -m mfg_jax.main --config=configs/veri_wild.py --config.data.manual_dir=DIR

and for the larger test sets, after training:

    python -m mfg_jax.main --config=configs/veri_wild.py --config.data.manual_dir=DIR --mode=evaluate \
        --config.evaluate.protocol=veri-wild-5000

DIR holds the release as downloaded (docs/datasets.md). All of the recipe is our decision. No accuracy is stated here:
we do not have the images.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(network: str = "mfg") -> ConfigDict:
    """VRIC's recipe, with larger batches and fewer epochs of five times as many images."""
    config = default.get_config(network)
    config.data.dataset = "veri_wild"
    config.evaluate.protocol = "veri-wild-3000"
    config.train.batch_size = 128  # ours
    config.train.epochs = 30  # ours
    config.optimizer.base_rate = 0.04  # ours: in proportion to the batch
    config.optimizer.warmup_epochs = 1.0  # ours
    config.optimizer.decay_epochs = (12, 22)  # ours
    config.evaluate.batch_size = 128
    return config
