"""One household's internet line, as a TCP proxy that is slow and fails on command.

    with ThrottledLink(("127.0.0.1", 8000), up_bits_per_s=1e6, down_bits_per_s=16e6) as link:
        join(link.url)

Up is from whoever connects to the link towards its target, down is the way back. All
connections share the two rates, taking turns piece by piece. One thread moves all bytes,
however many connections there are; the other methods may be called from any thread.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import random
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Self, TypeVar

PIECE_S = 0.01
"""A piece is what the line carries in this time, so that connections alternate smoothly."""
SMALLEST_PIECE = 256
LARGEST_PIECE = 64 * 1024
BURST_S = 0.05
"""How much idle time the line makes up for: more than a thread oversleeps."""
RECEIVE_BUFFER = 64 * 1024
"""What a sender gets rid of beyond the rate; the system's default would hide megabytes."""
QUEUE_BYTES = 4 * 1024 * 1024
"""On the way in one direction of one connection: bounds the memory of a long, fast line."""
COMMAND_S = 10.0

Address = tuple[str, int]
Result = TypeVar("Result")


class ThrottledLink:
    """A line to `target` that is as slow as told, and can be cut.

    Rates are bits per second, None for as fast as it goes. `latency_s` is one way; with an
    `rng` each piece takes between half and one and a half times as long, never overtaking.
    """

    def __init__(
        self,
        target: Address,
        *,
        up_bits_per_s: float | None,
        down_bits_per_s: float | None,
        latency_s: float = 0.0,
        rng: random.Random | None = None,
    ) -> None:
        self.target = target
        self._reactor = _Reactor()
        self._up = _Line(self._reactor, up_bits_per_s, _Delay(latency_s, rng))
        self._down = _Line(self._reactor, down_bits_per_s, _Delay(latency_s, rng))
        self._connections: set[_Connection] = set()
        self._drop_after: int | None = None
        self._listener: socket.socket | None = _listen(0)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._reactor.start()
        self._reactor.do(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._reactor.do(self._refuse)
        self._reactor.stop()

    @property
    def url(self) -> str:
        """Where to connect instead of to the target."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def bytes_up(self) -> int:
        """Bytes handed to the target so far."""
        return self._up.passed

    @property
    def bytes_taken_up(self) -> int:
        """Bytes that the line took up so far, those included that a reset lost on the way."""
        return self._up.taken

    @property
    def bytes_down(self) -> int:
        """Bytes handed back so far."""
        return self._down.passed

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    def cut(self) -> int:
        """Reset all connections at once, and return how many they were; new ones may come."""
        return self._reactor.do(self._cut)

    def down(self) -> None:
        """Cut, and refuse new connections until `restore`."""
        self._reactor.do(self._refuse)

    def restore(self) -> None:
        """Take connections again, at the same address."""
        self._reactor.do(self._listen)

    def drop_after(self, n_bytes: int) -> None:
        """Let the next connection carry `n_bytes` up, then reset it."""

        def note() -> None:
            self._drop_after = n_bytes

        self._reactor.do(note)

    # -- on the reactor's thread ----------------------------------------------------------

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = _listen(self.port)
        self._reactor.watch(self._listener, selectors.EVENT_READ, self._accept)

    def _refuse(self) -> None:
        if self._listener is not None:
            self._reactor.forget(self._listener)
            self._listener.close()
            self._listener = None
        self._cut()

    def _cut(self) -> int:
        alive = list(self._connections)
        for connection in alive:
            connection.reset()
        return len(alive)

    def _accept(self, _events: int) -> None:
        if self._listener is None:  # closed by an earlier event of the same turn
            return
        try:
            near, _ = self._listener.accept()
        except OSError:  # gone before we came to it
            return
        far = _connect(self.target)
        if far is None:
            _reset(near)
            return
        near.setblocking(False)
        connection = _Connection(self, near, far, self._drop_after)
        self._drop_after = None
        connection.start()


class _Delay:
    """How long a piece travels."""

    def __init__(self, latency_s: float, rng: random.Random | None) -> None:
        self.latency_s = latency_s
        self.rng = rng

    def next_s(self) -> float:
        factor = self.rng.uniform(0.5, 1.5) if self.rng else 1.0
        return self.latency_s * factor


class _Line:
    """One direction of the line: the rate that all connections share, a token bucket.

    `free_at` is when the last piece has left it; it may lie up to BURST_S in the past.
    """

    def __init__(self, reactor: _Reactor, bits_per_s: float | None, delay: _Delay) -> None:
        self.bytes_per_s = None if bits_per_s is None else bits_per_s / 8
        self.piece = _piece(self.bytes_per_s)
        self.delay = delay
        self.passed = 0
        self.taken = 0
        self._reactor = reactor
        self._free_at = 0.0
        self._waiting: deque[_Pipe] = deque()

    def give_turn(self, pipe: _Pipe) -> None:
        """Let `pipe` take a piece now, or when its turn comes."""
        if not self._waiting and self._free_at <= time.monotonic():
            pipe.take_piece()
            return
        pipe.wait()
        self._waiting.append(pipe)
        if len(self._waiting) == 1:
            self._reactor.at(self._free_at, self._go_on)

    def carry(self, size: int) -> float:
        """Put `size` bytes on the line, and return when they arrive."""
        now = time.monotonic()
        self.taken += size
        if self.bytes_per_s is None:
            return now + self.delay.next_s()
        self._free_at = max(self._free_at, now - BURST_S) + size / self.bytes_per_s
        return max(self._free_at, now) + self.delay.next_s()

    def _go_on(self) -> None:
        while self._waiting and self._free_at <= time.monotonic():
            self._waiting.popleft().take_piece()
        if self._waiting:
            self._reactor.at(self._free_at, self._go_on)


class _Pipe:
    """One direction of one connection: from `source` over the line to `target`."""

    def __init__(
        self, connection: _Connection, line: _Line, source: _End, target: _End, budget: int | None
    ) -> None:
        self.connection = connection
        self.line = line
        self.source = source
        self.target = target
        self.budget = budget
        """Bytes that may still pass before the connection is reset; None for all."""
        self.finished = False
        self._waiting = False
        self._travelling: deque[tuple[float, bytes]] = deque()
        """When each piece arrives, and its bytes; none at the end of the stream."""
        self._travelling_bytes = 0
        self._ended = False

    def readable(self) -> None:
        """Bytes, an end or an error wait at the source."""
        self.line.give_turn(self)

    def wait(self) -> None:
        """Leave what is at the source where it is until `take_piece`."""
        self._waiting = True
        self.source.want(read=False)

    def take_piece(self) -> None:
        """Read a piece and send it on its way."""
        self._waiting = False
        if self.connection.closed:
            return
        try:
            piece = self.source.socket.recv(self.line.piece)
        except BlockingIOError:
            self._go_on_reading()
            return
        except OSError:
            self.connection.reset()
            return
        self._ended = not piece
        self._send_off(piece)
        self._go_on_reading()

    def deliver(self) -> None:
        """Hand over what has arrived."""
        while not self.connection.closed and self._travelling:
            arrives_at, piece = self._travelling[0]
            if arrives_at > time.monotonic():
                return
            if not self._hand_over(piece):
                return
        self._go_on_reading()

    def _send_off(self, piece: bytes) -> None:
        before = self._travelling[-1][0] if self._travelling else 0.0
        arrives_at = max(self.line.carry(len(piece)), before)
        self._travelling.append((arrives_at, piece))
        self._travelling_bytes += len(piece)
        self.connection.reactor.at(arrives_at, self.deliver)

    def _go_on_reading(self) -> None:
        room = self._travelling_bytes < QUEUE_BYTES
        self.source.want(read=room and not self._ended and not self._waiting)

    def _hand_over(self, piece: bytes) -> bool:
        """Give a piece to the target, and say whether it took all of it."""
        if not piece:
            self._travelling.popleft()
            self._finish()
            return True
        try:
            sent = self.target.socket.send(piece[: self.budget])
        except BlockingIOError:
            sent = 0
        except OSError:
            self.connection.reset()
            return False
        self._note_sent(sent, piece)
        return sent == len(piece)

    def _note_sent(self, sent: int, piece: bytes) -> None:
        arrived_at, _ = self._travelling.popleft()
        if sent < len(piece):
            self._travelling.appendleft((arrived_at, piece[sent:]))
        self.target.want(write=sent < len(piece))
        self._travelling_bytes -= sent
        self.line.passed += sent
        if self.budget is not None:
            self.budget -= sent
            if self.budget == 0:
                self.connection.reset()

    def _finish(self) -> None:
        self.finished = True
        with suppress(OSError):  # the target went first
            self.target.socket.shutdown(socket.SHUT_WR)
        self.connection.close_if_finished()


class _End:
    """A socket, and what we want to hear of it."""

    def __init__(self, reactor: _Reactor, sock: socket.socket) -> None:
        self.socket = sock
        self.heard: Callable[[int], None]
        self._reactor = reactor
        self._read = False
        self._write = False

    def want(self, *, read: bool | None = None, write: bool | None = None) -> None:
        """Hear of bytes to read, or of room to write, from now on or no more."""
        before = (self._read, self._write)
        self._read = self._read if read is None else read
        self._write = self._write if write is None else write
        if (self._read, self._write) == before or self.socket.fileno() < 0:
            return
        events = selectors.EVENT_READ * self._read | selectors.EVENT_WRITE * self._write
        self._reactor.watch(self.socket, events, self.heard)


class _Connection:
    """Two sockets and the two pipes between them."""

    def __init__(
        self, link: ThrottledLink, near: socket.socket, far: socket.socket, budget_up: int | None
    ) -> None:
        self.reactor = link._reactor
        self.closed = False
        self._all = link._connections
        self._near, self._far = _End(self.reactor, near), _End(self.reactor, far)
        self._up = _Pipe(self, link._up, self._near, self._far, budget_up)
        self._down = _Pipe(self, link._down, self._far, self._near, None)

    def start(self) -> None:
        """Begin to carry bytes."""
        self._all.add(self)
        self._near.heard = lambda events: self._heard(events, self._up, self._down)
        self._far.heard = lambda events: self._heard(events, self._down, self._up)
        for end in (self._near, self._far):
            end.want(read=True)
        if self._up.budget == 0:
            self.reset()

    def reset(self) -> None:
        """Close both ends with RST."""
        self._close(_reset)

    def close_if_finished(self) -> None:
        """Close both ends once both directions have ended."""
        if self._up.finished and self._down.finished:
            self._close(socket.socket.close)

    def _heard(self, events: int, out: _Pipe, back: _Pipe) -> None:
        if events & selectors.EVENT_WRITE:
            back.deliver()
        if events & selectors.EVENT_READ and not self.closed:
            out.readable()

    def _close(self, close: Callable[[socket.socket], None]) -> None:
        if self.closed:
            return
        self.closed = True
        self._all.discard(self)
        for end in (self._near, self._far):
            self.reactor.forget(end.socket)
            close(end.socket)


class _Reactor:
    """The thread that moves the bytes: sockets that are ready, times that have come, commands."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._times: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._commands: deque[Callable[[], None]] = deque()
        self._bell, self._door = socket.socketpair()
        self._door.setblocking(False)
        self._running = True
        self._thread = threading.Thread(target=self._run, name="throttled link", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.watch(self._door, selectors.EVENT_READ, lambda _events: self._obey())
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self.do(self._end)
        self._thread.join(COMMAND_S)
        self._selector.close()
        self._bell.close()
        self._door.close()

    def do(self, command: Callable[[], Result]) -> Result:
        """Run `command` on the thread; wait for what it returns or raises."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(command())
            except Exception as error:
                future.set_exception(error)

        self._commands.append(run)
        self._bell.send(b"!")
        return future.result(COMMAND_S)

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call `call` once `when` (of the monotonic clock) has come."""
        heapq.heappush(self._times, (when, next(self._order), call))

    def watch(self, sock: socket.socket, events: int, heard: Callable[[int], None]) -> None:
        """Call `heard(events)` whenever one of `events` is there; of 0, never again."""
        if events == 0:
            self.forget(sock)
        elif sock.fileno() in self._selector.get_map():
            self._selector.modify(sock, events, heard)
        else:
            self._selector.register(sock, events, heard)

    def forget(self, sock: socket.socket) -> None:
        """Hear no more of `sock`, if we did."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def _end(self) -> None:
        self._running = False

    def _run(self) -> None:
        while self._running:
            for key, events in self._selector.select(self._pause_s()):
                # An earlier event of this turn may have closed it.
                if key.fileobj.fileno() >= 0:  # type: ignore[union-attr]
                    key.data(events)
            self._call_due()

    def _pause_s(self) -> float | None:
        return max(0.0, self._times[0][0] - time.monotonic()) if self._times else None

    def _call_due(self) -> None:
        now = time.monotonic()
        while self._times and self._times[0][0] <= now:
            heapq.heappop(self._times)[2]()

    def _obey(self) -> None:
        with suppress(BlockingIOError):
            self._door.recv(4096)
        while self._commands:
            self._commands.popleft()()


def _piece(bytes_per_s: float | None) -> int:
    if bytes_per_s is None:
        return LARGEST_PIECE
    return max(SMALLEST_PIECE, min(LARGEST_PIECE, int(bytes_per_s * PIECE_S)))


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Before listen: what is accepted inherits it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    listener.bind(("127.0.0.1", port))
    listener.listen(512)
    listener.setblocking(False)
    return listener


def _connect(target: Address) -> socket.socket | None:
    """Begin to connect; None when the target refuses at once."""
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    far = socket.socket(family)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    far.setblocking(False)
    if far.connect_ex(target) in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
        return far
    far.close()
    return None


def _reset(sock: socket.socket) -> None:
    """Close with RST: a linger of zero seconds."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
