"""Checkpoints: what is saved is what comes back, on any devices, whatever the training does meanwhile."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfg_jax import checkpoint, parallel
from mfg_jax.errors import UserError

DESCRIPTION = {"config": {"model": {"depth": 10}}, "num_identities": 3}


def _state(value: float, devices: int = 1, size: int = 1000) -> dict:
    mesh = parallel.make_mesh(jax.devices()[:devices])
    tree = {"params": {"kernel": jnp.full((size, 10), value)}, "batch_stats": {"mean": jnp.full(3, value)}}
    return parallel.replicate(tree, mesh)


def _save(manager: checkpoint.Manager, step: int, metrics: dict | None = None, devices: int = 1) -> None:
    state = _state(float(step), devices)
    checkpoint.save(
        manager,
        step,
        variables=state,
        optimizer={"momentum": state},
        description=DESCRIPTION,
        metrics=metrics,
    )


def test_what_is_saved_comes_back_on_other_devices(tmp_path):
    with checkpoint.open_manager(tmp_path, keep_latest=1, best_metric=None) as manager:
        _save(manager, 7, devices=4)
        manager.wait_until_finished()
        target = _state(0.0, devices=2)
        variables, optimizer = checkpoint.restore(
            manager, 7, variables=target, optimizer={"momentum": target}
        )
        assert checkpoint.read_description(manager, 7) == DESCRIPTION
    for tree in (variables, optimizer["momentum"]):
        np.testing.assert_array_equal(tree["params"]["kernel"], np.full((1000, 10), 7.0))
        assert len(tree["params"]["kernel"].sharding.device_set) == 2


def test_loading_needs_no_target_and_one_device(tmp_path):
    with checkpoint.open_manager(tmp_path, keep_latest=2, best_metric=None) as manager:
        _save(manager, 1, devices=8)
        _save(manager, 2, devices=8)
    variables, description, step = checkpoint.load_variables(tmp_path)
    assert (step, description) == (2, DESCRIPTION)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], [2.0, 2.0, 2.0])
    assert len(variables["params"]["kernel"].sharding.device_set) == 1
    assert checkpoint.load_variables(tmp_path, 1)[2] == 1


def test_the_newest_and_the_best_are_kept(tmp_path):
    scores = [0.1, 0.9, None, 0.3, None, 0.2, None]
    for steps in ([1, 2, 3], [4, 5, 6, 7]):  # as a run that was stopped and resumed
        with checkpoint.open_manager(tmp_path, keep_latest=2, best_metric="mAP") as manager:
            for step in steps:
                score = scores[step - 1]
                _save(manager, step, None if score is None else {"mAP": score})
            manager.wait_until_finished()
            assert sorted(manager.all_steps()) == sorted({2, *steps[-2:]})
            assert manager.latest_step() == steps[-1]


def test_a_save_in_the_background_is_of_the_state_it_was_given(tmp_path):
    """The step that follows overwrites the donated arrays while they are being written."""
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = _state(5.0, size=2_000_000)
    with checkpoint.open_manager(tmp_path, keep_latest=1, best_metric=None) as manager:
        checkpoint.save(
            manager, 1, variables=state, optimizer={"count": jnp.zeros(())}, description=DESCRIPTION
        )
        for _ in range(20):
            state = update(state)
        jax.block_until_ready(state)
    assert float(state["params"]["kernel"][0, 0]) == 25.0
    variables, _, _ = checkpoint.load_variables(tmp_path)
    assert np.ptp(variables["params"]["kernel"]) == 0.0
    assert float(variables["params"]["kernel"][0, 0]) == 5.0


# Orbax leaves the coroutines of a restore that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("lost", ["variables/_METADATA", "variables/d", "description", "."])
def test_a_damaged_checkpoint_is_named_with_the_others(tmp_path, lost):
    with checkpoint.open_manager(tmp_path, keep_latest=2, best_metric=None) as manager:
        _save(manager, 3)
        _save(manager, 4)
    path = tmp_path / "step_00000004" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (tmp_path / "step_00000004").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"step 4 .* is damaged or incomplete .* the other steps there: 3\."):
        checkpoint.load_variables(tmp_path, 4)
    assert checkpoint.load_variables(tmp_path, 3)[2] == 3


def test_a_missing_checkpoint_names_what_is_there(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        checkpoint.load_variables(tmp_path / "nowhere")
    with checkpoint.open_manager(tmp_path, keep_latest=2, best_metric=None) as manager:
        _save(manager, 3)
        _save(manager, 4)
    with pytest.raises(UserError, match=r"the checkpoint of step 5\. Steps found there: 3, 4\."):
        checkpoint.load_variables(tmp_path, 5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"does not hold a checkpoint\. Steps found there: none\."):
        checkpoint.load_variables(tmp_path / "empty")
