"""How the processes of one job meet, and how they notice that one of them is gone.

Process 0 listens at an address all know. The others connect, say who they are, and stay connected to the end. So
whoever is missing, comes twice or believes in another number of processes is named before JAX starts, and a process
that dies is noticed at once: the system closes its connection.

JAX alone ends the process with a stack trace in each of these cases, with a segmentation fault where the port is taken,
and learns of a death by collectives that fail or from heartbeats that stay away for 100 seconds (0.10.2).

The messages are lines of JSON. There is no password: as with JAX's own service, the network has to be a trusted one.
"""

import contextlib
import dataclasses
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from mfg_jax.errors import UserError

_LONGEST_MESSAGE = 2**16
_SECONDS_BETWEEN_TRIES = 0.25
# How long a process that fails waits for the others to have read why.
_SECONDS_TO_SPREAD_THE_WORD = 5.0

Message = dict[str, Any]
# Called in another thread when the job cannot go on: the reason, and whether a restart may help.
OnLoss = Callable[[str, bool], None]


class _Line:
    """A connection that carries one JSON object a line."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._received = b""
        self._waiting: list[Message] = []
        self._sending = threading.Lock()
        # A host that lost its power closes nothing: the system asks after 10 silent seconds, and gives up 15 later.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):  # not on every system
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def fileno(self) -> int:
        return self._connection.fileno()

    def set_timeout(self, seconds: float | None) -> None:
        self._connection.settimeout(seconds)

    def send(self, message: Message) -> None:
        """Sends a message; the other end may be gone, which whoever reads from it is told."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def take_waiting(self) -> list[Message]:
        """What has been received and not been taken."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def receive(self) -> bool:
        """Waits for some bytes; False at the end, or for what is none of our messages."""
        try:
            received = self._connection.recv(_LONGEST_MESSAGE)
        except TimeoutError:
            raise
        except OSError:
            return False
        *lines, self._received = (self._received + received).split(b"\n")
        if not received or len(self._received) > _LONGEST_MESSAGE:
            return False
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            return False
        self._waiting += messages
        return all(isinstance(message, dict) for message in messages)

    def receive_one(self) -> Message | None:
        """Waits for the next message; None at the end."""
        while not self._waiting:
            if not self.receive():
                return None
        return self._waiting.pop(0)

    def end(self) -> None:
        """Sends nothing more; the other end reads that, and closes."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


@dataclasses.dataclass(frozen=True)
class Member:
    """What a process says of itself.

    Attributes:
        process: its number.
        processes: how many there are, as it was told.
        host: the name of its host.
        settings: what has to be the same in all processes, by name.
    """

    process: int
    processes: int
    host: str
    settings: Mapping[str, str]


class Meeting:
    """The connections of one process of a job: to process 0, or of process 0 to all others.

    Attributes:
        me: this process.
        members: all processes, by number.
        port: what process 0 chose for all.
    """

    def __init__(self, me: Member, members: Mapping[int, Member], lines: Mapping[int, _Line], port: int):
        """Made by `meet`."""
        self.me, self.members, self.port = me, members, port
        self._lines = dict(lines)
        self._change = threading.Condition()
        # All of these under the condition.
        self._arrived: dict[str, set[int]] = {}
        self._passed: set[str] = set()
        self._left: set[int] = set()  # in good order, or having said why not
        self._closed: set[int] = set()
        self._ending = False  # this process itself gives up, and minds no others any more

    def watch(self, on_loss: OnLoss) -> None:
        """Watches over the other processes from now on, in a thread.

        Args:
            on_loss: called once, in that thread, when a process has ended before its time or has failed.
        """
        for line in self._lines.values():
            line.set_timeout(None)
        threading.Thread(target=self._watch, args=(on_loss,), name="watch", daemon=True).start()

    def barrier(self, name: str) -> None:
        """Waits until all processes have come to the barrier of this name, however long that takes."""
        if self.me.process == 0:
            self._arrive(name, 0)
        else:
            self._lines[0].send({"arrived": name})
        with self._change:
            self._change.wait_for(lambda: name in self._passed)

    def fail(self, reason: str, restart: bool) -> None:
        """Tells the other processes that this one gives up, and waits until they have ended.

        Args:
            reason: one paragraph.
            restart: whether it may go better when the job is started again.
        """
        with self._change:
            self._ending = True
        others = self._tell_others(reason, restart)
        if self.me.process == 0:
            # With process 0 ends JAX's service, at which the others would abort.
            with self._change:
                self._change.wait_for(lambda: self._closed >= others, timeout=_SECONDS_TO_SPREAD_THE_WORD)

    def leave(self) -> None:
        """Ends the watch in good order: first the others, then process 0."""
        with self._change:
            self._ending = bool(self.me.process)
        if self.me.process:
            self._lines[0].send({"leaves": True})
        with self._change:
            self._change.wait_for(lambda: self._closed >= self._lines.keys(), timeout=30)
        self.close()

    def close(self) -> None:
        """Closes the connections without a word, as the end of the process does."""
        for line in self._lines.values():
            line.close()

    def _watch(self, on_loss: OnLoss) -> None:
        """Reads until all connections are closed, or one of them before its time."""
        with selectors.DefaultSelector() as selector:
            for process, line in self._lines.items():
                selector.register(line, selectors.EVENT_READ, process)
            loss: tuple[str, bool] | None = None
            while loss is None and selector.get_map():
                for key, _ in selector.select():
                    open_still = self._lines[key.data].receive()
                    loss = loss or self._take_messages(key.data)
                    if not open_still:
                        selector.unregister(key.fileobj)
                        loss = loss or self._close(key.data)
            if loss is None:
                return
            others = self._tell_others(*loss) if self.me.process == 0 else set()
            deadline = time.monotonic() + _SECONDS_TO_SPREAD_THE_WORD
            while not self._closed >= others and (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    if not self._lines[key.data].receive():
                        selector.unregister(key.fileobj)
                        self._close(key.data)
        with self._change:
            if self._ending:
                return
        on_loss(*loss)

    def _take_messages(self, process: int) -> tuple[str, bool] | None:
        """Does what the messages of a process say; returns why it gives up, if it does, and whether to restart."""
        for message in self._lines[process].take_waiting():
            if "arrived" in message:
                self._arrive(str(message["arrived"]), process)
            elif "failed" in message:
                with self._change:
                    self._left.add(process)
                return str(message["failed"]), bool(message.get("restart"))
            with self._change:
                if "passed" in message:
                    self._passed.add(str(message["passed"]))
                elif "leaves" in message:
                    self._left.add(process)
                    self._lines[process].end()  # which it waits for
                self._change.notify_all()
        return None

    def _close(self, process: int) -> tuple[str, bool] | None:
        """Notes that a connection is closed; returns what it means where the process had not said that it leaves."""
        with self._change:
            self._closed.add(process)
            self._change.notify_all()
            if self._ending or process in self._left:
                return None
        return (
            f"Process {process} of {self.me.processes}, on {self.members[process].host}, has ended without a word: it "
            "was killed, ran out of memory, or its host or network is gone.",
            True,
        )

    def _arrive(self, name: str, process: int) -> None:
        with self._change:
            arrived = self._arrived.setdefault(name, set())
            arrived.add(process)
            if len(arrived) == self.me.processes:
                self._passed.add(name)
                for line in self._lines.values():
                    line.send({"passed": name})
                self._change.notify_all()

    def _tell_others(self, reason: str, restart: bool) -> set[int]:
        """Tells all that are still there; returns who that is."""
        with self._change:
            others = self._lines.keys() - self._left - self._closed
        for process in others:
            self._lines[process].send({"failed": reason, "restart": restart})
        return others


def meet(
    address: tuple[str, int],
    me: Member,
    *,
    timeout: float,
    free_port: Callable[[], int],
) -> Meeting:
    """Waits until all processes are there.

    Args:
        address: host and port at which process 0 listens.
        me: this process.
        timeout: seconds.
        free_port: gives process 0 the port it is to tell the others.

    Returns:
        The meeting, of which all processes know the members and the port.

    Raises:
        UserError: in every process that was reached, where one is missing, comes twice, or was told otherwise.
    """
    deadline = time.monotonic() + timeout
    if me.process == 0:
        return _receive_all(address, me, timeout, deadline, free_port)
    return _join(address, me, timeout, deadline)


def _receive_all(
    address: tuple[str, int], me: Member, timeout: float, deadline: float, free_port: Callable[[], int]
) -> Meeting:
    host, port = address
    members: dict[int, Member] = {0: me}
    lines: dict[int, _Line] = {}
    try:
        server = _listen(host, port)
    except OSError as error:
        raise UserError(
            f"Process 0 cannot listen on port {port}: {error.strerror}. Give --coordinator a port that is free on the "
            "host of process 0, or end what uses this one, such as an earlier run."
        ) from error
    with server:
        try:
            while len(members) < me.processes:
                _receive_one(server, me, members, lines, deadline)
        except TimeoutError:
            missing = sorted(set(range(me.processes)) - members.keys())
            absence = UserError(
                f"After {timeout:g} seconds {len(missing)} of {me.processes} processes had not come to {host}:{port}: "
                f"number {', '.join(map(str, missing[:10]))}{', ...' if len(missing) > 10 else ''}. Start each with "
                "the same --coordinator and --num_processes, and see their logs; or allow more by "
                "--distributed_timeout."
            )
            _refuse_all(lines, absence)
            raise absence from None
        except UserError as error:
            _refuse_all(lines, error)
            raise
    chosen = free_port()
    hosts = [members[process].host for process in range(me.processes)]
    for line in lines.values():
        line.send({"hosts": hosts, "port": chosen})
    return Meeting(me, members, lines, chosen)


def _receive_one(
    server: socket.socket, me: Member, members: dict[int, Member], lines: dict[int, _Line], deadline: float
) -> None:
    """Waits for one connection; that of another process joins `members` and `lines`."""
    server.settimeout(max(0.01, deadline - time.monotonic()))
    line = _Line(server.accept()[0])
    # Whoever connects and says nothing must not hold up the others for long.
    line.set_timeout(5.0)
    try:
        message = line.receive_one()
        if message is None:
            raise ValueError
        member = Member(**message)
        _check_member(member, me, members)
    except (TypeError, ValueError, TimeoutError):  # a port scanner, or a process that gave up meanwhile
        line.close()
    except UserError as error:
        line.send({"refused": str(error)})
        line.close()
        raise
    else:
        members[member.process], lines[member.process] = member, line


def _refuse_all(lines: Mapping[int, _Line], error: UserError) -> None:
    for line in lines.values():
        line.send({"refused": str(error)})
        line.close()


def _check_member(member: Member, me: Member, members: Mapping[int, Member]) -> None:
    if member.processes != me.processes:
        raise UserError(
            f"Process {member.process} on {member.host} was started as one of {member.processes} processes, process 0 "
            f"on {me.host} as one of {me.processes}. Give all the same --num_processes."
        )
    if member.process in members:
        raise UserError(
            f"There are two processes number {member.process}: on {members[member.process].host} and on {member.host}. "
            f"Give each its own --process_id, from 0 to {me.processes - 1}."
        )
    if not 0 < member.process < me.processes:
        raise ValueError
    names = sorted(me.settings.keys() | member.settings.keys())
    different = [
        f"{name} is {me.settings.get(name)} in process 0 and {member.settings.get(name)} in process {member.process}"
        for name in names
        if me.settings.get(name) != member.settings.get(name)
    ]
    if different:
        shown = "; ".join(different[:3]) + ("; ..." if len(different) > 3 else "")
        raise UserError(
            f"The processes of a job need the same software and settings, but {shown} (on {member.host})."
        )


def _join(address: tuple[str, int], me: Member, timeout: float, deadline: float) -> Meeting:
    host, port = address
    while True:
        left = deadline - time.monotonic()
        try:
            connection = socket.create_connection(address, timeout=max(0.01, min(left, 10.0)))
            break
        except OSError as error:
            if left < _SECONDS_BETWEEN_TRIES:
                raise UserError(
                    f"Process {me.process} could not reach process 0 at {host}:{port} within {timeout:g} seconds "
                    f"({error.strerror or error}). Check that process 0 was started, that it runs on that host, and "
                    "that the port is open between the hosts; or allow more by --distributed_timeout."
                ) from error
            time.sleep(_SECONDS_BETWEEN_TRIES)
    line = _Line(connection)
    line.send(dataclasses.asdict(me))
    # Process 0 keeps to its own time, so this is only for one that hangs.
    line.set_timeout(max(0.01, deadline - time.monotonic()) + _SECONDS_TO_SPREAD_THE_WORD)
    try:
        message = line.receive_one()
    except TimeoutError:
        message = None
    if message is not None and "refused" in message:
        line.close()
        raise UserError(str(message["refused"]))
    if message is None or not {"hosts", "port"} <= message.keys():
        line.close()
        raise UserError(
            f"What answers at {host}:{port} is not process 0 of this job, or it ended while process {me.process} "
            "waited for the others. See its log, and check --coordinator."
        )
    members = {
        process: dataclasses.replace(me, process=process, host=str(name))
        for process, name in enumerate(message["hosts"])
    }
    return Meeting(me, members, {0: line}, int(message["port"]))


def _listen(host: str, port: int) -> socket.socket:
    """Listens at the port, on the loopback alone where the host is that, else on all of the host's addresses."""
    if host in ("localhost", "127.0.0.1"):
        return socket.create_server(("127.0.0.1", port))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
