"""Networks by name: MFG-Net, its parts taken away one by one, and the field's baselines, as settings of the same code.

The name follows a configuration's path: `--config=configs/vric.py:pcb`. The recipe around the network stays that of the
configuration, so that a comparison compares networks.
"""

from typing import Any

NETWORKS: dict[str, dict[str, Any]] = {
    # The defaults of configs/default.py: the paper's network as we read it.
    "mfg": {},
    # MFG-Net without attention. Its branches are those of MGN (Wang et al., ACM MM 2018), whose heads differ a little:
    # MGN's metric loss works on the vectors after their normalisation.
    "mgn": {"attention": "none"},
    # One global vector with attention.
    "attention": {"granularities": (1,)},
    # The strong baseline, BoT (Luo et al., CVPRW 2019): the pooled vector itself, and a BNNeck.
    "global": {
        "granularities": (1,),
        "attention": "none",
        "pooling": "average",
        "head_width": 0,
    },
    # PCB (Sun et al., ECCV 2018): six stripes of one map, no global vector, identity loss alone.
    "pcb": {
        "granularities": (6,),
        "branch_globals": False,
        "branch_from": (5, 0),
        "attention": "none",
        "pooling": "average",
        "triplet_vectors": "none",
    },
    # SE-ResNet-50 as its trunk: attention in every residual block, published weights exist.
    "mfg_se": {"attention": "block"},
    # ResNet-50-IBN-a as its trunk, likewise.
    "mfg_ibn": {"ibn": True},
}
