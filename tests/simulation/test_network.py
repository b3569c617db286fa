"""The link carries every byte, as slowly as told, and fails on command.

Times are compared as ratios, or with bounds that a busy machine keeps.
"""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from handcar.simulation.network import ThrottledLink

KB = 1024


class Target:
    """A server that answers each connection with `answer(its socket)`, on a thread of its own."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = ("127.0.0.1", self.listener.getsockname()[1])
        self.received: list[bytes] = []
        self._answer = answer
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self.listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(ConnectionError):
            self._answer(sock)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], Target]]:
    targets: list[Target] = []

    def start(answer: Callable[[socket.socket], None]) -> Target:
        targets.append(Target(answer))
        return targets[-1]

    yield start
    for target in targets:
        target.close()


def read_all(sock: socket.socket) -> bytes:
    pieces = []
    while piece := sock.recv(64 * KB):
        pieces.append(piece)
    return b"".join(pieces)


def echo_when_done(sock: socket.socket) -> None:
    sock.sendall(read_all(sock))


def count(sock: socket.socket) -> None:
    sock.sendall(str(len(read_all(sock))).encode())


def send_as_asked(sock: socket.socket) -> None:
    sock.sendall(bytes(int(sock.makefile().readline())))


def link_to(target: Target, **options: Any) -> ThrottledLink:
    return ThrottledLink(
        target.address, **{"up_bits_per_s": None, "down_bits_per_s": None} | options
    )


def connect(link: ThrottledLink) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=20)


def ask(link: ThrottledLink, data: bytes) -> bytes:
    with connect(link) as sock:
        sock.sendall(data)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:  # the reset may have come first
            raise ConnectionResetError from error
        return read_all(sock)


def seconds(call: Callable[[], Any]) -> float:
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come true within 10 s")


# -- bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [None, 80e6])
def test_every_byte_comes_through_both_ways_and_is_counted(serve, rate):
    data = random.Random(1).randbytes(3_000_001)
    with link_to(serve(echo_when_done), up_bits_per_s=rate, down_bits_per_s=rate) as link:
        assert hashlib.sha256(ask(link, data)).digest() == hashlib.sha256(data).digest()
        assert (link.bytes_up, link.bytes_down) == (len(data), len(data))


def test_pieces_that_are_late_by_chance_keep_their_order(serve):
    data = random.Random(2).randbytes(100_000)
    jitter = random.Random(3)
    with link_to(serve(echo_when_done), up_bits_per_s=8e6, latency_s=0.05, rng=jitter) as link:
        assert ask(link, data) == data


def test_the_answer_still_comes_after_the_question_has_ended(serve):
    with link_to(serve(count)) as link:
        assert ask(link, bytes(12_345)) == b"12345"


def test_a_slow_reader_loses_nothing(serve):
    with link_to(serve(send_as_asked)) as link, connect(link) as sock:
        sock.sendall(b"20000000\n")
        time.sleep(0.3)
        assert len(read_all(sock)) == 20_000_000


# -- rates -----------------------------------------------------------------------------------


def test_twice_the_bytes_take_about_twice_as_long(serve):
    with link_to(serve(count), up_bits_per_s=2e6) as link:
        once = seconds(lambda: ask(link, bytes(100_000)))
        twice = seconds(lambda: ask(link, bytes(200_000)))
    assert 0.3 < once < 0.8
    assert 1.5 < twice / once < 2.7


def test_up_and_down_have_rates_of_their_own(serve):
    with link_to(serve(send_as_asked), up_bits_per_s=1e5, down_bits_per_s=8e6) as link:
        took = seconds(lambda: ask(link, b"200000\n"))
    assert 0.12 < took < 0.6


def test_connections_share_one_rate_and_take_turns(serve):
    with link_to(serve(count), up_bits_per_s=4e6) as link, ThreadPoolExecutor(4) as pool:
        alone = seconds(lambda: ask(link, bytes(100_000)))
        begin = time.monotonic()
        jobs = [pool.submit(seconds, lambda: ask(link, bytes(100_000))) for _ in range(4)]
        took = [job.result() for job in jobs]
        together = time.monotonic() - begin
    assert 2.5 < together / alone < 6
    assert min(took) > 0.5 * max(took)


def test_latency_is_paid_once_each_way(serve):
    with link_to(serve(count), latency_s=0.15) as link:
        assert 0.28 < seconds(lambda: ask(link, bytes(50_000))) < 0.7


# -- faults ----------------------------------------------------------------------------------


def test_cut_resets_what_is_open_and_lets_new_connections_in(serve):
    with link_to(serve(count), up_bits_per_s=1e5) as link:
        with connect(link) as sock:
            sock.sendall(bytes(50_000))
            until(lambda: link.bytes_up > 0)
            assert link.cut() == 1
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert link.connections == 0
        assert ask(link, b"abc") == b"3"


def test_cut_is_felt_by_the_target_too(serve):
    felt = threading.Event()

    def answer(sock: socket.socket) -> None:
        try:
            read_all(sock)
        except ConnectionResetError:
            felt.set()

    with link_to(serve(answer)) as link, connect(link) as sock:
        sock.sendall(b"x")
        until(lambda: link.bytes_up == 1)
        link.cut()
        assert felt.wait(10)


def test_a_line_that_is_down_refuses_until_it_is_restored(serve):
    with link_to(serve(count)) as link:
        link.down()
        with pytest.raises(ConnectionRefusedError):
            connect(link)
        link.down()
        link.restore()
        assert ask(link, b"abc") == b"3"


def test_going_down_resets_what_is_open(serve):
    with link_to(serve(count)) as link, connect(link) as sock:
        until(lambda: link.connections == 1)
        link.down()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


@pytest.mark.parametrize("allowed", [0, 1, 70_000])
def test_drop_after_lets_exactly_so_many_bytes_up_once(serve, allowed):
    with link_to(serve(count), up_bits_per_s=50e6) as link:
        link.drop_after(allowed)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            ask(link, bytes(200_000))
        assert link.bytes_up == allowed
        assert ask(link, bytes(200_000)) == b"200000"


def test_a_target_that_is_away_looks_like_a_reset(serve):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with (
            ThrottledLink(bound.getsockname(), up_bits_per_s=None, down_bits_per_s=None) as link,
            pytest.raises(ConnectionResetError),
        ):
            ask(link, b"abc")


def test_a_target_that_resets_resets_its_caller(serve):
    def answer(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with link_to(serve(answer)) as link, connect(link) as sock:
        sock.sendall(b"abc")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        until(lambda: link.connections == 0)


# -- many ------------------------------------------------------------------------------------


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts sockets under /proc")
def test_hundreds_of_connections_leave_no_socket_and_no_thread(serve):
    target = serve(count)
    before = (open_files(), threading.active_count())
    with link_to(target, up_bits_per_s=20e6, latency_s=0.001) as link:
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda n: ask(link, bytes(n)), range(400)))
        half_sent = [connect(link) for _ in range(20)]
        until(lambda: link.connections == 20)
        assert link.cut() == 20
        for sock in half_sent:
            sock.close()
    assert answers == [str(n).encode() for n in range(400)]
    until(lambda: (open_files(), threading.active_count()) == before)


def test_leaving_closes_everything(serve):
    with link_to(serve(count)) as link:
        sock = connect(link)
        until(lambda: link.connections == 1)
    with sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(link)


def test_the_address_is_one_that_a_client_can_use(serve):
    with link_to(serve(count)) as link:
        assert link.url == f"http://127.0.0.1:{link.port}"
