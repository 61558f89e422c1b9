"""Published names and formats as PyTorch writes them: the same features from the same file, and what is refused."""

import pathlib
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from mfg_jax import weights_file
from mfg_jax.errors import UserError
from mfg_jax.models import MFGNet
from mfg_jax.models.pretrained import load_pretrained

torch = pytest.importorskip("torch", reason="requirements-parity.txt is not installed")
from tests.parity import torch_mfg_net  # noqa: E402

pytestmark = pytest.mark.torch


def _random_resnet(**kind: Any) -> torch.nn.Sequential:
    """ResNet-50 of random values, statistics included."""
    torch.manual_seed(0)
    network = torch_mfg_net.resnet(50, last_stride=1, num_classes=7, **kind)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("bias", "running_mean")):
                tensor.normal_(0, 0.1)
    return network.eval()


def _save(network: torch.nn.Module, form: str, folder: pathlib.Path) -> pathlib.Path:
    """The state dict as one of the files that users have."""
    state = network.state_dict()
    path = folder / f"resnet50.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        save_file({name: tensor.numpy() for name, tensor in state.items()}, path)
    elif form == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        wrapped = {f"module.{name}": torch.nn.Parameter(t) if t.ndim > 1 else t for name, t in state.items()}
        torch.save({"epoch": 90, "state_dict": wrapped, "optimizer": {"state": {}}}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "settings", "form"),
    [
        ({}, {"granularities": (1, 2), "attention": "branch", "branch_from": (3, 1)}, "safetensors"),
        (
            {"se": True},
            {"granularities": (1,), "attention": "block", "branch_from": (4, 0)},
            "training checkpoint",
        ),
        (
            {"ibn": True},
            {"granularities": (1,), "attention": "none", "ibn": True, "branch_from": (3, 2)},
            "legacy",
        ),
    ],
    ids=["resnet50", "se_resnet50", "resnet50_ibn_a"],
)
def test_a_published_file_gives_pytorchs_features_in_every_branch(kind, settings, form, tmp_path):
    network = _random_resnet(**kind)
    weights = weights_file.read(_save(network, form, tmp_path))
    model = MFGNet(num_identities=3, head_width=8, **settings)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.asarray(images))
    fresh = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5, leaf.dtype), dict(shapes))
    variables, report = load_pretrained(fresh, weights.tensors)
    assert {name.split("/")[1][:4] for name, _ in report.initial} <= {"head", "bran"}
    assert len(report.used) + len(report.ignored) == len(network.state_dict())

    @jax.jit
    def stages(variables: Any, images: jax.Array) -> Any:
        _, state = model.apply(
            variables, images, train=False, capture_intermediates=lambda module, _: module.name == "stage4"
        )
        return state["intermediates"]

    captured = jax.tree.leaves(stages(variables, jnp.asarray(images)))
    with torch.no_grad():
        theirs = network[: list(dict(network.named_children())).index("avgpool")](
            torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        )
    theirs = theirs.numpy().transpose(0, 2, 3, 1)
    assert len(captured) == len(settings["granularities"])
    for ours in captured:
        assert ours.shape == (2, 4, 4, 2048)
        assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 1e-4


def _file(path: pathlib.Path, content: Any) -> pathlib.Path:
    torch.save(content, path)
    return path


def test_wrappers_are_opened_and_what_they_hold_besides_is_noted(tmp_path):
    state = {"conv1.weight": torch.ones(2, 3), "version": "1.0"}
    path = _file(tmp_path / "run.pth", {"model": {"state_dict": state, "arch": "resnet50"}, "epoch": 3})
    weights = weights_file.read(path)
    assert set(weights.tensors) == {"conv1.weight"}
    assert set(weights.notes) == {
        "not read: epoch",
        "not read: model: arch",
        "not read: model: state_dict: version, which is a str",
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64"])
def test_numbers_are_read_in_the_precision_they_have(dtype, tmp_path):
    tensor = torch.tensor([[1.5, -2.0], [0.25, 3.0]]).to(getattr(torch, dtype)).t()  # not contiguous
    array = weights_file.read(_file(tmp_path / "a.pth", {"a": tensor})).tensors["a"]
    assert array.dtype == dtype
    np.testing.assert_array_equal(array.astype(np.float64), tensor.double().numpy())


class _Program:
    """A pickle of this makes a directory when it is loaded."""

    def __init__(self, path: pathlib.Path):
        self.path = str(path)

    def __reduce__(self) -> Any:
        return __import__("os").mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_a_program_in_a_file_is_refused_and_not_run(form, tmp_path):
    trap, path = tmp_path / "it_ran", tmp_path / "resnet50.pth"
    content = {"conv1.weight": torch.ones(3), "extra": _Program(trap)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps({"extra": _Program(trap)}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match=r"holds more than weights.*refused and nothing was run"):
        weights_file.read(path)
    assert not trap.exists()
    # The trap is one: PyTorch without the restriction, or pickle itself, walks into it.
    if form == "plain pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert trap.exists()


def test_a_program_under_the_other_formats_name_is_refused_too(tmp_path):
    trap, path = tmp_path / "it_ran", tmp_path / "resnet50.safetensors"
    torch.save({"extra": _Program(trap)}, path)
    with pytest.raises(UserError, match="holds more than weights"):
        weights_file.read(path)
    assert not trap.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_file_is_damaged(legacy, share, tmp_path):
    path = tmp_path / "resnet50.pth"
    torch.save({"a": torch.ones(500)}, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        UserError, match=f"{path} cannot be read as a file of PyTorch: it is damaged, cut short"
    ):
        weights_file.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict: it is list"),
        ({"epoch": 3, "optimizer": {}}, "holds no state dict: it is a mapping of epoch, optimizer"),
        ({"state_dict": {}}, "holds no state dict: it is a mapping of "),
    ],
)
def test_a_file_without_weights_says_what_it_holds(content, message, tmp_path):
    with pytest.raises(UserError, match=message):
        weights_file.read(_file(tmp_path / "a.pth", content))
