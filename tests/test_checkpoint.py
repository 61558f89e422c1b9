"""Checkpoints: what is saved is what comes back, on any devices, whatever the training does meanwhile."""

import pathlib
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


def _random_state(seed: int) -> dict:
    """Arrays that do not compress, so that the files hold data to damage."""
    return {"params": {"kernel": jax.random.normal(jax.random.key(seed), (1000, 10))}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    """Checkpoints of steps 2, 3 and 4."""
    path = tmp_path_factory.mktemp("saved")
    with checkpoint.open_manager(path, keep_latest=3, best_metric=None) as manager:
        for step in (2, 3, 4):
            checkpoint.save(
                manager,
                step,
                variables=_random_state(step),
                optimizer={"momentum": _random_state(10 + step)},
                description={**DESCRIPTION, "saved_at": step},
            )
    return path


def _remove(path: pathlib.Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _empty(path: pathlib.Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def _cut(path: pathlib.Path) -> None:
    path = _largest(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_a_bit(path: pathlib.Path) -> None:
    path = _largest(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _largest(path: pathlib.Path) -> pathlib.Path:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


def _restore_newest(manager: checkpoint.Manager):
    return checkpoint.restore_newest(
        manager,
        variables=_random_state(0),
        optimizer={"momentum": _random_state(0)},
        accept=lambda step, description: None,
    )


DAMAGES = [
    (".", _empty),
    ("variables/d", _remove),
    ("variables/d", _cut),
    ("variables/d", _flip_a_bit),
    ("variables/_METADATA", _cut),
    ("variables/manifest.ocdbt", _cut),
    ("optimizer", _remove),
    ("optimizer/d", _flip_a_bit),
    ("description", _remove),
    ("description/metadata", _cut),
]


# Orbax leaves the coroutines of a restore that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("place", "damage"), DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(saved, tmp_path, caplog, place, damage):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    damage(folder / "step_00000004" / place)
    with checkpoint.open_manager(folder, keep_latest=3, best_metric=None) as manager:
        step, variables, optimizer, description = _restore_newest(manager)
        assert (step, description["saved_at"]) == (3, 3)
        np.testing.assert_array_equal(variables["params"]["kernel"], _random_state(3)["params"]["kernel"])
        momentum = optimizer["momentum"]["params"]["kernel"]
        np.testing.assert_array_equal(momentum, _random_state(13)["params"]["kernel"])
        assert "step_00000004 is damaged or incomplete" in caplog.text
        # It is kept under another name, and its step can be saved again.
        assert (folder / "damaged_step_00000004").is_dir()
        checkpoint.save(
            manager,
            4,
            variables=_random_state(44),
            optimizer={"momentum": _random_state(54)},
            description=DESCRIPTION,
        )
    with checkpoint.open_manager(folder, keep_latest=3, best_metric=None) as manager:
        step, variables, _, _ = _restore_newest(manager)
    assert step == 4
    np.testing.assert_array_equal(variables["params"]["kernel"], _random_state(44)["params"]["kernel"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_where_no_checkpoint_is_whole_nothing_is_touched_and_nothing_starts_anew(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    for step in (2, 3, 4):
        _cut(folder / f"step_{step:08d}" / "optimizer" / "d")
    before = sorted(folder.rglob("*"))
    with (
        checkpoint.open_manager(folder, keep_latest=3, best_metric=None) as manager,
        pytest.raises(UserError, match=r"None of the checkpoints .* can be read \(steps 2, 3, 4\)"),
    ):
        _restore_newest(manager)
    assert sorted(folder.rglob("*")) == before
    # Inference does not need what is damaged here.
    assert checkpoint.load_variables(folder)[2] == 4


def test_nothing_saved_is_nothing_restored(tmp_path):
    with checkpoint.open_manager(tmp_path, keep_latest=1, best_metric=None) as manager:
        assert _restore_newest(manager) is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_loading_passes_over_what_is_damaged_unless_it_is_asked_for(saved, tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    _cut(folder / "step_00000004" / "variables" / "d")
    before = sorted(folder.rglob("*"))
    variables, description, step = checkpoint.load_variables(folder)
    assert (step, description["saved_at"]) == (3, 3)
    np.testing.assert_array_equal(variables["params"]["kernel"], _random_state(3)["params"]["kernel"])
    assert "step_00000004 is damaged or incomplete" in caplog.text
    with pytest.raises(UserError, match=r"step_00000004 is damaged .* Steps found in .*: 2, 3, 4\."):
        checkpoint.load_variables(folder, 4)
    for step in (2, 3):
        _remove(folder / f"step_{step:08d}" / "variables")
    with pytest.raises(UserError, match=r"None of the checkpoints in .* can be read \(steps 2, 3, 4\)"):
        checkpoint.load_variables(folder)
    assert {path for path in before if "variables" not in str(path)} <= set(folder.rglob("*"))


def test_multiples_of_a_step_are_kept_for_good(tmp_path):
    for steps in (range(1, 8), range(8, 12)):
        with checkpoint.open_manager(
            tmp_path, keep_latest=1, best_metric="mAP", keep_every_steps=4
        ) as manager:
            for step in steps:
                _save(manager, step, {"mAP": 0.5 if step == 2 else 0.1})
            manager.wait_until_finished()
            assert sorted(manager.all_steps()) == ([2, 4, 7] if steps[-1] == 7 else [2, 4, 8, 11])


def test_the_best_is_by_the_named_metric_and_may_be_told_after_the_save(tmp_path):
    figures = {
        1: {"mAP": 0.1, "mINP": 0.9},
        2: {"mAP": 0.8, "mINP": 0.1},
        3: None,
        4: {"mAP": 0.3, "mINP": 0.2},
    }
    for metric, best in (("mAP", 2), ("mINP", 1)):
        folder = tmp_path / metric
        with checkpoint.open_manager(folder, keep_latest=1, best_metric=metric) as manager:
            for step, metrics in figures.items():
                _save(manager, step)
                if metrics is not None:
                    checkpoint.add_metrics(manager, step, metrics)
                manager.wait_until_finished()
                assert checkpoint.read_metrics(manager, step) == metrics
        with checkpoint.open_manager(folder, keep_latest=1, best_metric=metric) as manager:
            assert sorted(manager.all_steps()) == [best, 4]


def test_damaged_figures_make_a_checkpoint_one_that_was_not_evaluated(tmp_path, caplog):
    with checkpoint.open_manager(tmp_path, keep_latest=3, best_metric="mAP") as manager:
        for step in (1, 2):
            _save(manager, step, {"mAP": step / 10})
    _cut(tmp_path / "step_00000002" / "metrics" / "metrics")
    with checkpoint.open_manager(tmp_path, keep_latest=3, best_metric="mAP") as manager:
        assert [checkpoint.read_metrics(manager, step) for step in (1, 2)] == [{"mAP": 0.1}, None]
    assert "counts as not evaluated" in caplog.text
    assert checkpoint.load_variables(tmp_path)[2] == 2


def test_what_a_kill_left_half_written_is_removed(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    left = folder / "step_00000005.orbax-checkpoint-tmp"
    shutil.copytree(folder / "step_00000004", left)
    with checkpoint.open_manager(folder, keep_latest=3, best_metric=None) as manager:
        assert _restore_newest(manager)[0] == 4
        checkpoint.save(
            manager,
            5,
            variables=_random_state(5),
            optimizer={"momentum": _random_state(5)},
            description=DESCRIPTION,
        )
    assert not left.exists()


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
