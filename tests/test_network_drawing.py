"""The drawing shows the shapes that the network's own code gives."""

import pathlib

import pytest

from configs import vric
from mfg_jax.models import MFGNet
from mfg_jax.network_drawing import draw, network_shapes


def test_the_papers_network_is_drawn_with_its_shapes():
    config = vric.get_config()
    shapes = network_shapes(MFGNet(num_identities=5, **config.model), 256, 256)
    assert [layer.shape for layer in shapes.trunk] == [
        (64, 64, 64),
        (64, 64, 256),
        (32, 32, 512),
        (16, 16, 1024),
    ]
    assert [layer.name for layer in shapes.branches[2].layers] == [
        "stage 3\nblocks 2–6",
        "stage 4\nblocks 1–3",
        "channel\nattention",
    ]
    assert [len(branch.vectors) for branch in shapes.branches] == [1, 3, 4]
    assert shapes.embedding == sum(width for branch in shapes.branches for _, width in branch.vectors) == 2048


@pytest.mark.parametrize("network", ["mfg", "pcb", "global"])
def test_every_named_network_can_be_drawn(network, tmp_path: pathlib.Path):
    model = MFGNet(num_identities=5, **vric.get_config(network).model)
    draw(network_shapes(model, 256, 256), tmp_path / "network.svg")
    text = (tmp_path / "network.svg").read_text()
    assert text.count("<path") > 20
