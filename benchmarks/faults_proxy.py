"""A proxy in front of a server that listens in, cuts, slows down, refuses, and says it all again.

    with Proxy(("127.0.0.1", 8000)) as proxy:
        join(proxy.url)
        proxy.replay(rng, 5, cut=True)

It moves bytes; requests are told apart only to be remembered.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Self

REMEMBERED = 200
LARGEST = 4 * 1024 * 1024
PIECE = 64 * 1024
QUIET_S = 1.0
FAULT = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

Address = tuple[str, int]


class Proxy:
    """Stands before `target`; all its methods may be called from any thread."""

    def __init__(self, target: Address, *, records: bool = False) -> None:
        self.target = target
        self.requests: deque[bytes] = deque(maxlen=REMEMBERED)
        """Whole HTTP requests that went by, oldest first."""
        self.pause_s = 0.0
        """How long each piece waits before it goes on."""
        self.answers_faults = False
        """Whether every request is answered with 503 instead of being passed on."""
        self._records = records
        self._is_down = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_down = True
        # `close` alone does not wake the thread that accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    @property
    def url(self) -> str:
        """Where to connect instead of to the target."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> int:
        """Reset all connections; return how many they were."""
        with self._lock:
            alive, self._open = self._open, set()
        for one in alive:
            _reset(one)
        return len(alive)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Reset every connection, old and new, for as long as the block runs."""
        self._is_down = True
        try:
            self.cut()
            yield
        finally:
            self._is_down = False

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Answer with 503 for as long as the block runs."""
        self.answers_faults = True
        try:
            self.cut()
            yield
        finally:
            self.answers_faults = False

    @contextmanager
    def slow(self, pause_s: float) -> Iterator[None]:
        """Let every piece wait for as long as the block runs."""
        self.pause_s = pause_s
        try:
            yield
        finally:
            self.pause_s = 0.0

    def replay(self, rng: random.Random, count: int, *, cut: bool) -> int:
        """Send remembered requests again, in any order, several at once; return how many.

        With `cut` each ends somewhere in the middle and its connection is reset.
        """
        known = list(self.requests)
        chosen = rng.sample(known, min(count, len(known)))
        ends = [rng.randrange(1, len(one)) if cut else len(one) for one in chosen]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._say, chosen, ends))
        return len(chosen)

    # -- one connection ------------------------------------------------------------------------

    def _say(self, request: bytes, end: int) -> None:
        with suppress(OSError):
            one = socket.create_connection(self.target, timeout=10)
            one.sendall(request[:end])
            if end < len(request):
                _reset(one)
                return
            one.settimeout(QUIET_S)
            while one.recv(PIECE):
                pass
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._is_down:
                _reset(near)
                continue
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        if self.answers_faults:
            with suppress(OSError):
                near.settimeout(QUIET_S)
                near.recv(PIECE)
                near.sendall(FAULT)
            near.close()
            return
        try:
            far = socket.create_connection(self.target, timeout=10)
        except OSError:
            _reset(near)
            return
        far.settimeout(None)
        with self._lock:
            self._open |= {near, far}
        back = threading.Thread(target=self._carry, args=(far, near, None), daemon=True)
        back.start()
        self._carry(near, far, _Listener(self.requests) if self._records else None)
        back.join()
        with self._lock:
            self._open -= {near, far}
        near.close()
        far.close()

    def _carry(self, source: socket.socket, target: socket.socket, ear: _Listener | None) -> None:
        try:
            while piece := source.recv(PIECE):
                if ear is not None:
                    ear.hear(piece)
                if self.pause_s:
                    time.sleep(self.pause_s)
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            # Neither side waits for the other for ever.
            _reset(source)
            _reset(target)


class _Listener:
    """Finds whole requests in what a client sends."""

    def __init__(self, requests: deque[bytes]) -> None:
        self._requests = requests
        self._heard = bytearray()

    def hear(self, piece: bytes) -> None:
        """Take note of a piece, and of the requests that it completes."""
        self._heard += piece
        while (length := self._length()) is not None and len(self._heard) >= length:
            if length <= LARGEST:
                self._requests.append(bytes(self._heard[:length]))
            del self._heard[:length]

    def _length(self) -> int | None:
        end = self._heard.find(b"\r\n\r\n")
        if end < 0:
            return None
        for line in bytes(self._heard[:end]).split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                return end + 4 + int(value)
        return end + 4


def _reset(one: socket.socket) -> None:
    """Close with RST."""
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
