"""Weights of the Flax network under the names and in the layouts of `torch_mfg_net`, for tests of parity."""

import re
from typing import Any

import jax
import numpy as np
import torch

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_RENAMED = (
    (r"^trunk/stem/conv/", "trunk/conv1/"),
    (r"^trunk/stem/norm/", "trunk/bn1/"),
    (r"/matmul/", "/"),
    (r"/stage(\d)/block(\d+)/", r"/layer\1/\2/"),
    (r"^branch([^/]+)/", r"branches/\1/"),
    (r"^head([^/]+)/", r"heads/\1/"),
    (r"/shortcut_conv/", "/downsample/0/"),
    (r"/shortcut_norm/", "/downsample/1/"),
    (r"/attention/squeeze/", "/se/fc1/"),
    (r"/attention/excite/", "/se/fc2/"),
    (r"/norm1/instance/", "/bn1/IN/"),
    (r"/norm1/batch/", "/bn1/BN/"),
    (r"/norm(\d?)/", r"/bn\1/"),
)


def to_torch(tree: Any) -> dict[str, np.ndarray]:
    """A tree of parameters, gradients or batch statistics as `{PyTorch's name: array in PyTorch's layout}`."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        *module, kind = [entry.key for entry in path]
        name = "/".join([*module, ""])
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        name = name.replace("/", ".") + _LEAVES[kind]
        array = np.asarray(leaf)
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2:
            array = array.T
            # A 1x1 convolution, unless it is a head's.
            array = array if name.startswith("heads.") else array[:, :, None, None]
        leaves[name] = array
    return leaves


def load_into(network: torch.nn.Module, params: Any, batch_stats: Any) -> None:
    """Gives `network` the Flax network's weights; every tensor of either has to have its counterpart in the other."""
    state = {name: torch.tensor(array) for name, array in (to_torch(params) | to_torch(batch_stats)).items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    # PyTorch counts batches, which Flax does not, and has a bias in the BNNeck, which stays zero.
    missing = [name for name in missing if not re.search(r"num_batches_tracked$|^heads\..*\.bn\.bias$", name)]
    if missing or unexpected:
        raise ValueError(f"Without a counterpart: in PyTorch {missing}; in Flax {unexpected}.")
