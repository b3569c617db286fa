"""RabbitMQ and Redis as they run here, for tests; and one that takes calls and says nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

RABBITMQ = os.environ.get("HANDCAR_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672//")
REDIS = os.environ.get("HANDCAR_TEST_REDIS", "redis://127.0.0.1:6379/9")


def answers(broker: str) -> bool:
    """Whether a broker is there."""
    from kombu import Connection

    try:
        with Connection(broker, connect_timeout=3) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=3)
    except Exception:
        return False
    return True


@contextmanager
def silent() -> Iterator[str]:
    """A broker's address at which nobody ever answers."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(64)
        yield f"amqp://guest:guest@127.0.0.1:{deaf.getsockname()[1]}//"


class Line:
    """A line to RabbitMQ that can be cut and mended, as if the broker were killed and came back."""

    def __init__(self) -> None:
        parts = urlsplit(RABBITMQ)
        self._to = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self._port = 0
        self._open: list[socket.socket] = []
        self.mend()
        login = parts.netloc.rpartition("@")[0]
        self.address = urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{self._port}"))

    def mend(self) -> None:
        """Take calls, at the same address each time."""
        self._ear = socket.create_server(("127.0.0.1", self._port), backlog=16)
        self._port = self._ear.getsockname()[1]
        threading.Thread(target=self._take, args=(self._ear,), daemon=True).start()

    def cut(self) -> None:
        """Refuse calls, and end those that are going on."""
        for one in (self._ear, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _take(self, ear: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = ear.accept()
                far = socket.create_connection(self._to)
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with suppress(OSError):
        other.shutdown(socket.SHUT_RDWR)
