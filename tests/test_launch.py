"""The files of `launch/`: scripts with stand-ins for the cluster's commands, and the JobSet's structure.

With JOBSET_CRD=FILE, the definition published by kubernetes-sigs/jobset, the JobSet is also held against its schema.
"""

import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from mfg_jax import distributed

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"


class _Commands:
    """A folder of stand-ins, each of which notes how it was called."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._log = folder / "log"
        self._log.touch()
        self.environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}

    def add(self, name: str, body: str = "") -> None:
        path = self._folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {self._log}\n{body}\n')
        path.chmod(0o755)

    def called(self) -> list[str]:
        return self._log.read_text().splitlines()


@pytest.fixture
def commands(tmp_path) -> _Commands:
    """Of SLURM and Google Cloud; `srun` and `gcloud` are added by the tests."""
    made = _Commands(tmp_path)
    for name in ("scontrol", "sleep"):
        made.add(name)
    made.add("squeue", "echo RUNNING")
    return made


def _run(commands: _Commands, script: str, *arguments: str, **environment: str):
    return subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        env=commands.environment | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("status", [69, 75, 137, 143])
def test_slurm_requeues_what_may_go_on(commands, status):
    commands.add("srun", f"exit {status}")
    _run(commands, "slurm.sh", "--config=a b.py", PYTHON="python")
    called = commands.called()
    assert called[0] == "srun --kill-on-bad-exit=1 python -m mfg_jax.main --distributed=on --config=a b.py"
    assert called[2] == "scontrol requeue 7"


@pytest.mark.parametrize(("status", "restarts"), [(0, 0), (1, 0), (134, 0), (75, 20)])
def test_slurm_does_not_requeue_what_is_done_or_would_fail_again(commands, status, restarts):
    commands.add("srun", f"exit {status}")
    finished = _run(commands, "slurm.sh", SLURM_RESTART_COUNT=str(restarts))
    assert finished.returncode == status
    assert not [line for line in commands.called() if line.startswith("scontrol")]


def test_slurm_waits_for_the_tasks_when_all_are_told_to_stop(commands, tmp_path):
    commands.add("srun", f"until [ -e {tmp_path}/saved ]; do /bin/sleep 0.05; done; exit 75")
    process = subprocess.Popen(
        ["bash", LAUNCH / "slurm.sh"], env=commands.environment, stdout=subprocess.DEVNULL
    )
    while not commands.called():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    assert len(commands.called()) == 1
    (tmp_path / "saved").touch()
    process.wait(60)
    assert "scontrol requeue 7" in commands.called()


def test_slurm_does_not_requeue_a_job_that_is_cancelled(commands):
    commands.add("srun", "exit 75")
    commands.add("squeue", "echo COMPLETING")
    assert _run(commands, "slurm.sh").returncode == 75
    assert not [line for line in commands.called() if line.startswith("scontrol")]


def test_tpu_starts_again_what_may_go_on_and_quotes_its_arguments(commands, tmp_path):
    first = f"[ -e {tmp_path}/once ] && exit 0; touch {tmp_path}/once; exit 75"
    commands.add("gcloud", first)
    finished = _run(commands, "tpu.sh", "train", "--config=a b.py", TPU="pod", ZONE="here")
    assert finished.returncode == 0
    runs = [line for line in commands.called() if line.startswith("gcloud")]
    assert len(runs) == 2
    assert runs[0] == runs[1]
    assert runs[0].startswith("gcloud compute tpus tpu-vm ssh pod --zone=here --worker=all --command=")
    assert runs[0].endswith(r"-m mfg_jax.main --distributed=on --config=a\ b.py")


def test_tpu_gives_up_on_bad_input_and_asks_for_what_it_needs(commands):
    commands.add("gcloud", "exit 1")
    assert _run(commands, "tpu.sh", "train", TPU="pod", ZONE="here").returncode == 1
    assert len(commands.called()) == 1
    assert "set ZONE" in _run(commands, "tpu.sh", "train", TPU="pod").stderr
    assert "launch/tpu.sh install" in _run(commands, "tpu.sh", TPU="pod", ZONE="here").stdout


def _documents() -> dict[str, Any]:
    documents = yaml.safe_load_all((LAUNCH / "jobset.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_the_jobset_is_what_jax_detects_and_may_ask_for_it():
    documents = _documents()
    [hosts] = documents["JobSet"]["spec"]["replicatedJobs"]
    job = hosts["template"]["spec"]
    pod = job["template"]["spec"]
    # One job, whose pods are numbered, is what JAX counts.
    assert hosts["replicas"] == 1
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    # Any pod that fails, fails the job, and so starts the JobSet anew; Kubernetes wants Never for a podFailurePolicy.
    assert job["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"
    # What may go on is no bad input.
    [rule] = job["podFailurePolicy"]["rules"]
    assert not {distributed.LOST_STATUS, 75, 137, 143} & set(rule["onExitCodes"]["values"])
    assert rule["onExitCodes"]["containerName"] in [container["name"] for container in pod["containers"]]
    # The calls of jax._src.clusters.k8s_cluster: list pods and services, get the job.
    account = documents["ServiceAccount"]["metadata"]["name"]
    binding, role = documents["RoleBinding"], documents["Role"]
    assert pod["serviceAccountName"] == account
    assert [subject["name"] for subject in binding["subjects"]] == [account]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {("", "pods", "list"), ("", "services", "list"), ("batch", "jobs", "get")} <= allowed


def _violations(value: Any, schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Where a value breaks a structural schema of Kubernetes; a field that the schema lacks counts too."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str):
            yield f"{path}: {value!r} is neither integer nor string"
        return
    if not isinstance(value, kinds[schema["type"]]):
        yield f"{path}: {value!r} is no {schema['type']}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _violations(item, schema["items"], f"{path}[{number}]")
    if isinstance(value, dict) and ("properties" in schema or "additionalProperties" in schema):
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{path}.{name} is missing"
        for name, item in value.items():
            known = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if known is None:
                yield f"{path}.{name} is unknown"
            else:
                yield from _violations(item, known, f"{path}.{name}")


@pytest.mark.skipif(
    "JOBSET_CRD" not in os.environ, reason="JOBSET_CRD does not name the published definition"
)
def test_the_jobset_fits_its_published_schema():
    definition = yaml.safe_load(pathlib.Path(os.environ["JOBSET_CRD"]).read_text())
    jobset = _documents()["JobSet"]
    [version] = [
        version
        for version in definition["spec"]["versions"]
        if f"{definition['spec']['group']}/{version['name']}" == jobset["apiVersion"]
    ]
    schema = version["schema"]["openAPIV3Schema"]
    assert list(_violations(jobset, schema)) == []
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["paralelism"] = 2
    assert list(_violations(jobset, schema)) == [
        ".spec.replicatedJobs[0].template.spec.paralelism is unknown"
    ]
