"""The shipped configurations: each loads, passes its checks, and names a protocol whose splits its dataset has."""

import importlib
import pathlib

import pytest

from mfg_jax import config as configs
from mfg_jax.errors import UserError
from mfg_jax.models import MFGNet
from mfg_jax.retrieval.protocols import PROTOCOLS
from tfds_builders import build

NAMES = sorted(
    path.stem
    for path in (pathlib.Path(__file__).parents[1] / "configs").glob("*.py")
    if path.stem not in ("__init__", "default")
)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_configuration_passes_its_checks(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    configs.check(config, devices=1, processes=1)
    MFGNet(num_identities=10, **config.model)
    assert config.data.dataset in build.PACKAGES


def test_every_protocol_of_a_release_has_its_splits():
    for dataset, start in configs.PROTOCOLS_OF.items():
        release = getattr(importlib.import_module(build.PACKAGES[dataset]), "RELEASE", None)
        if release is None or not release.counts:
            continue  # its splits are the user's
        protocols = [protocol for name, protocol in PROTOCOLS.items() if name.startswith(start)]
        assert protocols
        for protocol in protocols:
            assert set(protocol.splits) <= set(release.counts)


def test_resuming_allows_what_changes_no_weight_and_refuses_the_rest():
    saved = {"seed": 0, "train": {"epochs": 10, "batch_size": 32}, "data": {"threads": 2, "height": 64}}
    other = {"seed": 0, "train": {"epochs": 20, "batch_size": 32}, "data": {"threads": 8, "height": 64}}
    configs.check_same_run(saved, other, "runs/x")
    other["data"]["height"] = 96
    del other["seed"]
    with pytest.raises(UserError, match=r"config\.data\.height was 64 and is now 96; config\.seed was 0"):
        configs.check_same_run(saved, other, "runs/x")


def test_the_nearest_field_is_found_by_its_last_part_first():
    known = ["optimizer.base_rate", "optimizer.name", "model.depth", "train.epochs"]
    assert configs.nearest_field(known, "modl.depth") == "model.depth"
    assert configs.nearest_field(known, "optimizer.rate") == "optimizer.base_rate"
    assert configs.nearest_field(known, "train.epoch") == "train.epochs"
