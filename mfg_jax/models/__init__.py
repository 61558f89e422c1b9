"""The network, in Flax Linen: no configuration, files or data in here."""

from mfg_jax.models.mfg_net import MFGNet, MFGNetOutput

__all__ = ["MFGNet", "MFGNetOutput"]
