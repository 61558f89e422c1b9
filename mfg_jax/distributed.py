"""Whether and how a job of several processes is started: the cluster it runs on, or what the command line says.

JAX has to be told before it touches a device. `start` decides, lets the processes meet (`mfg_jax.rendezvous`), and
hands over to `jax.distributed.initialize`, which does the rest: on a CPU, JAX then communicates by Gloo, its default.
"""

import dataclasses
import importlib.metadata
import importlib.util
import logging
import os
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import NoReturn

import jax

# JAX says whether a cluster is there, and of how many processes, only by starting; so we ask the part of it that knows.
from jax._src.clusters import ClusterEnv

from mfg_jax import parallel, rendezvous
from mfg_jax.errors import UserError

MODES = ("auto", "on", "off")
# Exit status of a process that ended because another one was lost: starting the job again may help.
LOST_STATUS = 69

_SAME_VERSIONS = ("jax", "jaxlib")
# Launchers whose processes JAX does not recognise (here: Open MPI 5, MPICH), by the variables they set.
_UNKNOWN_LAUNCHERS = (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK"))
# How long an exception waits for the news that another process was lost, which may be what caused it.
_SECONDS_FOR_NEWS = 5.0

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Start:
    """One process of a job, as the launcher or the command line describes it.

    Attributes:
        source: who says so, for messages.
        coordinator: host and port at which process 0 can be reached.
        processes: how many there are.
        process: the number of this one.
        local_devices: the accelerators of the host this process is to use, by number; None for all it sees.
    """

    source: str
    coordinator: tuple[str, int]
    processes: int
    process: int
    local_devices: tuple[int, ...] | None = None


class Job:
    """This process's part in the job; with one process alone, nothing."""

    def __init__(self, meeting: rendezvous.Meeting | None = None):
        """Made by `start`."""
        self._meeting = meeting

    @property
    def prefix(self) -> str:
        """Names the process in an error; empty where there is one alone."""
        if self._meeting is None:
            return ""
        me = self._meeting.me
        return f"process {me.process} of {me.processes}, on {me.host}: "

    def finish(self) -> None:
        """Waits for the other processes to finish as well, and leaves JAX's service."""
        if self._meeting is not None:
            self._meeting.barrier("finish")
            jax.distributed.shutdown()
            self._meeting.leave()

    def fail(self, status: int, reason: str) -> NoReturn:
        """Exits with a status of bad input, having told the other processes, which exit with it too.

        Args:
            status: of the exit.
            reason: one paragraph, which has been shown here.
        """
        if self._meeting is not None:
            self._meeting.fail(f"{self.prefix}{reason}", restart=False)
            _exit_now(status)  # an orderly exit would wait for processes that are ending
        sys.exit(status)

    def fail_unexpectedly(self, error: BaseException) -> None:
        """Tells the other processes of an exception that is nobody's input. Exits, where there are others."""
        if self._meeting is None:
            return
        # A collective operation fails when another process dies. The watch knows better which, and exits.
        threading.Event().wait(_SECONDS_FOR_NEWS)
        traceback.print_exception(error)
        self._meeting.fail(f"{self.prefix}{type(error).__name__}: {error}", restart=False)
        _exit_now(1)


def start(
    mode: str,
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = 300.0,
    settings: Mapping[str, str] | None = None,
) -> Job:
    """Starts this process's part of a job, if it is one of several. To be called before JAX is used.

    Args:
        mode: "auto" starts what the coordinator says, or a recognised cluster of more than one process; "on" demands
            one of these; "off" starts nothing.
        coordinator: HOST:PORT of process 0. This and the next two go together, and take precedence over the cluster.
        num_processes: how many there are.
        process_id: the number of this one, from 0.
        timeout: seconds to wait for the other processes.
        settings: what has to be the same in all of them, beside the versions of JAX; compared.

    Returns:
        The job, to be told of this process's end.

    Raises:
        UserError: these do not fit together, no cluster was found but demanded, or the processes do not come together.
    """
    if mode not in MODES:
        raise ValueError(f"mode is one of {', '.join(MODES)}, not {mode!r}.")
    described = _from_options(coordinator, num_processes, process_id)
    if mode == "off":
        if described is not None:
            raise UserError(
                "--coordinator and --distributed=off contradict each other; leave out one of them."
            )
        return Job()
    if described is None:
        described = detect(timeout, required=mode == "on")
    if described is None or (mode == "auto" and described.processes == 1 and coordinator is None):
        return Job()

    versions = {name: importlib.metadata.version(name) for name in _SAME_VERSIONS}
    me = rendezvous.Member(
        process=described.process,
        processes=described.processes,
        host=socket.gethostname(),
        settings=versions | dict(settings or {}),
    )
    meeting = rendezvous.meet(described.coordinator, me, timeout=timeout, free_port=_free_port)
    meeting.watch(_exit_for_loss)
    host, _ = described.coordinator
    jax.distributed.initialize(
        f"{host}:{meeting.port}",
        described.processes,
        described.process,
        local_device_ids=described.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=max(1, round(timeout)),
    )
    parallel.connect()
    logger.info(
        "Process %d of %d (%s), on %s; process 0 is on %s.",
        *(me.process, me.processes, described.source, me.host, meeting.members[0].host),
    )
    return Job(meeting)


def _from_options(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Start | None:
    """What the three options say; None where none is given."""
    options = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in options.items() if value is None]
    if len(missing) == len(options):
        return None
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError(
            "--coordinator=HOST:PORT, --num_processes=N and --process_id=I are given together, or none of them; "
            f"missing: {', '.join(missing)}."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator={coordinator} is not HOST:PORT, the host of process 0 and a free port there, such as "
            "node1:12345."
        )
    if num_processes < 1:
        raise UserError(f"--num_processes={num_processes}: it is at least 1.")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id} is not one of {num_processes} processes, which are numbered from 0 to "
            f"{num_processes - 1}."
        )
    return Start("by the command line", (host.strip("[]"), int(port)), num_processes, process_id)


def detect(timeout: float, *, required: bool) -> Start | None:
    """What JAX's cluster detection says: SLURM, Open MPI, Kubernetes or Cloud TPU.

    Args:
        timeout: seconds to look for process 0's host.
        required: a cluster has to be there.

    Raises:
        UserError: a cluster is recognised but does not tell what is needed; or it was required and there is none.
    """
    for cluster in ClusterEnv._cluster_types:
        name = cluster.name or cluster.__name__  # Kubernetes has only the latter
        if cluster.opt_in_only_method or (cluster.__name__ == "K8sCluster" and not _in_numbered_pod()):
            continue
        try:
            if not cluster.is_env_present():
                continue
            processes, process = cluster.get_process_count(), cluster.get_process_id()
            if processes == 1 and not required:
                return None
            address = cluster.get_coordinator_address(
                timeout_secs=max(1, round(timeout)),
                override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"),
            )
            local_process = cluster.get_local_process_id()
        except Exception as error:  # of an API, of environment variables, of a metadata server
            reason = " ".join(str(error).split())
            raise UserError(
                f"This looks like a process on a cluster ({name}), but JAX cannot tell its place: "
                f"{type(error).__name__}: {reason}. Give --coordinator, --num_processes and --process_id, or "
                "--distributed=off to run it alone. docs/cluster.md has more."
            ) from error
        host, _, port = address.rpartition(":")
        return Start(
            f"by {name}",
            (host, int(port)),
            processes,
            process,
            _own_devices(local_process, os.environ),
        )
    for size, rank in _UNKNOWN_LAUNCHERS:
        if os.environ.get(size, "1") != "1":
            raise UserError(
                f"This was started as one of {os.environ[size]} processes ({size}), by a launcher that JAX does not "
                f"recognise. Give --coordinator=HOST:PORT --num_processes=${size} --process_id=${rank}, or "
                "--distributed=off to run it alone."
            )
    if required:
        kubernetes = (
            " In a pod, that needs the package kubernetes (`pip install .[k8s]`) and an indexed Job."
            if "KUBERNETES_SERVICE_HOST" in os.environ
            else ""
        )
        raise UserError(
            "--distributed=on, but JAX recognises no cluster here: no SLURM step (srun), Open MPI, indexed Kubernetes "
            f"job or Cloud TPU.{kubernetes} Start it there, or give --coordinator, --num_processes and --process_id."
        )
    return None


def _in_numbered_pod() -> bool:
    """Whether this is a pod of an indexed Kubernetes job.

    Any pod is one of Kubernetes for JAX, which would ask for the package `kubernetes` in each, and for rights there.

    Raises:
        UserError: the package is missing: JAX would take the pods for single processes.
    """
    if "KUBERNETES_SERVICE_HOST" not in os.environ or "JOB_COMPLETION_INDEX" not in os.environ:
        return False
    if importlib.util.find_spec("kubernetes") is None:
        raise UserError(
            "This is a pod of an indexed Kubernetes job, of which JAX learns more by the package kubernetes, which is "
            "not installed. Add it to the image (`pip install .[k8s]`), or give --coordinator, --num_processes and "
            "--process_id, or --distributed=off to run it alone."
        )
    return True


def _own_devices(local_process: int | None, environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """The accelerators of a process: its own where it shares the host, all of them where it does not.

    JAX's rule is one accelerator for each process of SLURM or Open MPI. That wastes the others of a host with one
    process, and fails where the launcher shows each process no more than its own.
    """
    if local_process is None or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE")
    alone = tasks is not None and tasks.partition("(")[0] == "1"
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    if alone or (shown and "," not in shown):
        return None
    return (local_process,)


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def _exit_for_loss(reason: str, restart: bool) -> None:
    advice = " Start the job again: it continues from its newest checkpoint." if restart else ""
    print(f"error: This process ends because another one did. {reason}{advice}", file=sys.stderr, flush=True)
    _exit_now(LOST_STATUS if restart else 1)


def _exit_now(status: int) -> NoReturn:
    """Ends the process without what Python does at exit: JAX would wait for processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
