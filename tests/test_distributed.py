"""What a launcher's environment and the command line say of a job, and what is said where they do not fit together."""

import importlib.util
import os
from importlib.metadata import metadata

import pytest

from mfg_jax import distributed
from mfg_jax.errors import UserError

_SLURM = {
    "SLURM_JOB_ID": "4099",
    "SLURM_STEP_NODELIST": "node[007-009]",
    "SLURM_NTASKS": "6",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
}


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    """The tests themselves may run on one."""
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "PMI_", "KUBERNETES_", "JOB_", "JAX_COORD", "CUDA_", "TPU_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")


def _set(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_slurm_step_is_recognised(monkeypatch):
    _set(monkeypatch, _SLURM)
    start = distributed.detect(1, required=False)
    # JAX's rule: the first node, and a port by the job's number.
    assert start == distributed.Start("by slurm", ("node007", 61440 + 3), 6, 3, (1,))
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "4000")
    assert distributed.detect(1, required=False).coordinator == ("node007", 4000)


def test_open_mpi_is_recognised(monkeypatch):
    _set(
        monkeypatch,
        {
            "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
            "OMPI_COMM_WORLD_SIZE": "4",
            "OMPI_COMM_WORLD_RANK": "2",
            "OMPI_COMM_WORLD_LOCAL_RANK": "0",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
        },
    )
    start = distributed.detect(1, required=False)
    assert (start.coordinator[0], start.processes, start.process) == ("10.96.0.1", 4, 2)
    assert start.local_devices is None  # alone on its host


def test_a_job_of_one_process_is_left_alone(monkeypatch):
    _set(monkeypatch, _SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    assert distributed.detect(1, required=False) is None
    assert distributed.start("auto").prefix == ""
    assert distributed.detect(1, required=True).processes == 1


def test_outside_a_step_slurm_starts_nothing(monkeypatch):
    """A batch script's own shell sees the job's variables, but is no task of it."""
    _set(monkeypatch, {name: value for name, value in _SLURM.items() if name != "SLURM_STEP_NODELIST"})
    assert distributed.detect(1, required=False) is None


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, (2,)),  # a device each
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (2,)),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "2"}, None),  # it is shown its own
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, None),  # a host of its own: all devices
        ({"SLURM_STEP_TASKS_PER_NODE": "4", "JAX_LOCAL_DEVICE_IDS": "0,1"}, None),  # JAX reads it itself
    ],
)
def test_processes_that_share_a_host_take_a_device_each(environment, devices):
    assert distributed._own_devices(2, environment) == devices


def test_a_pod_outside_an_indexed_job_is_no_cluster(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert distributed.detect(1, required=False) is None
    with pytest.raises(UserError, match=r"recognises no cluster .* package kubernetes"):
        distributed.detect(1, required=True)


def test_a_pod_of_an_indexed_job_needs_the_package(monkeypatch):
    _set(monkeypatch, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pod of an indexed Kubernetes job, .*pip install \.\[k8s\]"):
        distributed.start("auto")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (_SLURM | {"SLURM_PROCID": "three"}, r"\(slurm\), but JAX cannot tell its place: ValueError"),
        ({"OMPI_MCA_orte_hnp_uri": "nothing", "OMPI_COMM_WORLD_SIZE": "2"}, r"\(ompi\), but JAX cannot tell"),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, r"one of 2 processes \(PMI_SIZE\), by a launcher"),
    ],
)
def test_a_cluster_that_does_not_tell_enough_is_named(monkeypatch, environment, expected):
    """Rather than as many runs side by side in one work directory as there are processes."""
    _set(monkeypatch, environment)
    with pytest.raises(UserError, match=expected):
        distributed.start("auto")
    assert distributed.start("off").prefix == ""


@pytest.mark.parametrize(
    ("mode", "options", "expected"),
    [
        ("on", {}, "--distributed=on, but JAX recognises no cluster here"),
        ("auto", {"coordinator": "node1:1234"}, "missing: --num_processes, --process_id"),
        ("auto", {"num_processes": 2, "process_id": 0}, "missing: --coordinator"),
        (
            "auto",
            {"coordinator": "node1", "num_processes": 2, "process_id": 0},
            "--coordinator=node1 is not HOST:PORT",
        ),
        ("auto", {"coordinator": "a:70000", "num_processes": 2, "process_id": 0}, "is not HOST:PORT"),
        ("auto", {"coordinator": "a:1", "num_processes": 0, "process_id": 0}, "it is at least 1"),
        ("auto", {"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "numbered from 0 to 1"),
        ("auto", {"coordinator": "a:1", "num_processes": 2, "process_id": -1}, "numbered from 0 to 1"),
        ("off", {"coordinator": "a:1", "num_processes": 2, "process_id": 1}, "contradict each other"),
    ],
)
def test_options_that_do_not_fit_together_are_named(mode, options, expected):
    with pytest.raises(UserError, match=expected):
        distributed.start(mode, **options)


def test_the_extras_are_those_of_the_pinned_jax():
    """`pip install .[cuda]` would otherwise warn, and install no plugin."""
    assert {"cuda13", "tpu", "k8s"} <= set(metadata("jax").get_all("Provides-Extra"))
