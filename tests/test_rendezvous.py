"""The processes of a job meet, wait for one another, and learn what became of each other. Here each is a thread."""

import dataclasses
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mfg_jax import rendezvous
from mfg_jax.errors import UserError


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _members(count: int) -> list[rendezvous.Member]:
    return [rendezvous.Member(i, count, f"host{i}", {"config.seed": "0"}) for i in range(count)]


def _meet(members: list[rendezvous.Member], timeout: float = 20.0) -> list[rendezvous.Meeting | UserError]:
    """What each of the members gets: the meeting, or the error."""
    address = ("localhost", _free_port())

    def one(member: rendezvous.Member) -> rendezvous.Meeting | UserError:
        try:
            return rendezvous.meet(address, member, timeout=timeout, free_port=lambda: 12345)
        except UserError as error:
            return error

    with ThreadPoolExecutor(len(members)) as threads:
        return list(threads.map(one, members))


class _Losses:
    """Notes what the watch of each member reports."""

    def __init__(self, meetings: list[rendezvous.Meeting]):
        self._meetings = meetings
        self._reports: list[list[tuple[str, bool]]] = [[] for _ in meetings]
        self._reported = [threading.Event() for _ in meetings]
        for number, meeting in enumerate(meetings):
            meeting.watch(self._note(number))

    def _note(self, number: int) -> Callable[[str, bool], None]:
        def note(reason: str, restart: bool) -> None:
            self._reports[number].append((reason, restart))
            self._meetings[number].close()  # in earnest, the process ends
            self._reported[number].set()

        return note

    def of(self, number: int) -> list[tuple[str, bool]]:
        assert self._reported[number].wait(20)
        return self._reports[number]

    def nothing(self) -> bool:
        return not any(event.is_set() for event in self._reported)


def test_all_know_who_is_there_and_what_the_first_chose():
    meetings = _meet(_members(4))
    for meeting in meetings:
        assert meeting.port == 12345
        assert {number: member.host for number, member in meeting.members.items()} == {
            i: f"host{i}" for i in range(4)
        }
    losses = _Losses(meetings)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda meeting: meeting.leave(), meetings))
    assert losses.nothing()


def test_nobody_passes_a_barrier_before_all_have_come():
    meetings = _meet(_members(3))
    losses = _Losses(meetings)
    passed = [threading.Event() for _ in meetings]

    def pass_(number: int) -> None:
        meetings[number].barrier("here")
        passed[number].set()

    threads = [threading.Thread(target=pass_, args=(number,)) for number in range(3)]
    for last in (0, 1):
        threads[last].start()
        assert not passed[last].wait(0.2)
    threads[2].start()
    for thread in threads:
        thread.join(20)
    assert all(event.is_set() for event in passed)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda meeting: meeting.leave(), meetings))
    assert losses.nothing()


def test_a_missing_process_is_named_to_all_that_came():
    came = [member for member in _members(4) if member.process != 2]
    for error in _meet(came, timeout=1.0):
        assert isinstance(error, UserError)
        assert "1 of 4 processes had not come" in str(error)
        assert "number 2." in str(error)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"processes": 3}, "host1 was started as one of 3 processes, process 0 on host0 as one of 2"),
        ({"settings": {"config.seed": "1"}}, "config.seed is 0 in process 0 and 1 in process 1"),
        ({"settings": {}}, "config.seed is 0 in process 0 and None in process 1"),
    ],
)
def test_processes_that_were_told_differently_are_named(change, expected):
    first, other = _members(2)
    for error in _meet([first, dataclasses.replace(other, **change)]):
        assert isinstance(error, UserError)
        assert expected in str(error)


def test_a_number_that_comes_twice_is_named_with_its_hosts():
    first, other, third = _members(3)
    outcomes = _meet([first, other, dataclasses.replace(third, process=1)])
    for error in outcomes:
        assert isinstance(error, UserError)
        assert "two processes number 1" in str(error)
        assert "host1" in str(error)
        assert "host2" in str(error)


def test_a_coordinator_that_is_not_there_or_not_ours_is_named():
    address = ("localhost", _free_port())
    member = _members(2)[1]
    with pytest.raises(UserError, match=rf"could not reach process 0 at localhost:{address[1]} within 0.5 "):
        rendezvous.meet(address, member, timeout=0.5, free_port=_free_port)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = ("localhost", server.getsockname()[1])
        with pytest.raises(UserError, match=f"Process 0 cannot listen on port {address[1]}"):
            rendezvous.meet(address, _members(2)[0], timeout=0.5, free_port=_free_port)

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UserError, match="is not process 0 of this job"):
            rendezvous.meet(address, member, timeout=5, free_port=_free_port)
        thread.join()


def test_strangers_at_the_port_are_passed_over():
    first, other = _members(2)
    address = ("localhost", _free_port())
    with ThreadPoolExecutor(2) as threads:
        listening = threads.submit(rendezvous.meet, address, first, timeout=20, free_port=_free_port)
        for bytes_ in (b"", b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"process": 1}\n', b"\n"):
            while True:
                try:
                    stranger = socket.create_connection(address, timeout=20)
                    break
                except ConnectionRefusedError:
                    pass
            with stranger:
                stranger.sendall(bytes_)
        joining = threads.submit(rendezvous.meet, address, other, timeout=20, free_port=_free_port)
        meetings = [listening.result(), joining.result()]
    losses = _Losses(meetings)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda meeting: meeting.leave(), meetings))
    assert losses.nothing()


@pytest.mark.parametrize("dies", [0, 1, 2])
def test_all_learn_of_a_process_that_ends_without_a_word(dies):
    meetings = _meet(_members(3))
    losses = _Losses([meeting for number, meeting in enumerate(meetings) if number != dies])
    meetings[dies].close()
    for survivor in (0, 1):
        [(reason, restart)] = losses.of(survivor)
        assert f"Process {dies} of 3, on host{dies}, has ended without a word" in reason
        assert restart


@pytest.mark.parametrize("fails", [0, 1])
def test_all_learn_why_a_process_gave_up(fails):
    meetings = _meet(_members(3))
    losses = _Losses(meetings)
    meetings[fails].fail("the disk is full", restart=False)
    meetings[fails].close()
    for number in range(3):
        if number != fails:
            assert losses.of(number) == [("the disk is full", False)]
    assert not losses._reports[fails]
