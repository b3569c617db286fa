"""Volunteers that do all that real ones do but train.

Each joins, asks for its assignment, says every minute where it is, takes up each new version by
its delta, and at the end of each round announces an update and sends its bytes. It does what the
server asks: rounds at least as long as `min_seconds`, heartbeats as often as `heartbeat_s`, and
later whatever is answered with `Retry-After`. Like real volunteers it looks a second after an
update whether there is a new version.
"""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from load_http import Answer, Broken, Tally, Visit, request
from load_updates import Updates

GOLDEN = (math.sqrt(5) - 1) / 2
JOINING = 8
"""How many join at once, while the crowd gathers."""
STEPS_A_SECOND = 0.5
ASK_AGAIN_S = 1.0
LATER_S = 15.0
OK = (200, 201, 206)


@dataclass
class Crowd:
    """What all volunteers of a run share."""

    url: str
    model_id: str
    updates: Updates
    every_s: float
    """How long a round is, if the server does not ask for longer ones."""
    batch_size: int
    tally: Tally = field(default_factory=Tally)
    acknowledged: int = 0
    min_seconds: float = 0.0
    members: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def server(self) -> tuple[str, int]:
        """Where the server listens."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    async def grow(self, count: int, most_s: float) -> None:
        """Let so many more join; return when they are all at work, or after so long."""
        gate = asyncio.Semaphore(JOINING)
        first = len(self.members)
        new = [Volunteer(self, number) for number in range(first, first + count)]
        ready = [asyncio.Event() for _ in new]
        tasks = [
            asyncio.create_task(one.live(gate, event))
            for one, event in zip(new, ready, strict=True)
        ]
        self.members += tasks
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                for event in ready:
                    await event.wait()
        for task, event in zip(tasks, ready, strict=True):
            if not event.is_set():
                task.cancel()
                self.members.remove(task)

    async def go(self) -> None:
        """Let everyone end."""
        for member in self.members:
            member.cancel()
        await asyncio.gather(*self.members, return_exceptions=True)


class Volunteer:
    """One of them."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd = crowd
        # Households are 127.x.y.1: no two in one network, as far as the server is concerned.
        self.source = f"127.{1 + number // 250 % 250}.{1 + number % 250}.1"
        self.number = number
        self.phase = number * GOLDEN % 1.0
        self.version = 0
        self.steps = 0
        self.pending: list[str] = []
        self.token = ""
        self.heartbeat_s = 60.0
        self.seconds = crowd.every_s

    async def live(self, gate: asyncio.Semaphore, ready: asyncio.Event) -> None:
        """Join, and go on until cancelled."""
        async with gate:
            while not await self._try(self._join):
                await asyncio.sleep(1.0)
        ready.set()
        loop = asyncio.get_running_loop()
        beats_at = loop.time() + self.phase * self.heartbeat_s
        # The golden ratio again, so that heartbeats and updates of one fall apart.
        sends_at = loop.time() + (self.phase * 1000 % 1.0) * self.seconds
        while True:
            await asyncio.sleep(max(0.0, min(beats_at, sends_at) - loop.time()))
            if sends_at <= beats_at:
                await self._try(self._send)
                sends_at = max(sends_at, loop.time() - self.seconds) + self.seconds
                beats_at = min(beats_at, loop.time() + ASK_AGAIN_S)
            else:
                await self._try(self._beat)
                beats_at = loop.time() + self.heartbeat_s

    # -- what it does

    async def _join(self, visit: Visit) -> None:
        body = {"name": f"load-{self.number}", "client_version": "load"}
        found = await self._json(visit, "join", "POST", "/volunteers", body)
        self.token = found["token"]
        found = await self._json(visit, "model", "GET", f"/model?model_id={self.crowd.model_id}")
        self.version = found["series"]["newest"]
        self.heartbeat_s = found["heartbeat_s"]
        self._heed(found["round"])

    async def _beat(self, visit: Visit) -> None:
        body = {
            "model_id": self.crowd.model_id,
            "version": self.version,
            "step": self.steps,
            "records": self.steps * self.crowd.batch_size,
            "steps_per_second": STEPS_A_SECOND,
            "chunks": 1,
            "pending": self.pending[-64:],
        }
        found = await self._json(visit, "heartbeat", "POST", "/heartbeat", body)
        self.heartbeat_s = found["heartbeat_s"]
        if found["round"] is not None:
            self._heed(found["round"])
        for update in found["updates"]:
            self._hear(update)
        if found["newest"] > self.version:
            await self._follow(visit, found["newest"])

    async def _follow(self, visit: Visit, newest: int) -> None:
        found = await self._json(visit, "series", "GET", f"/series/{self.crowd.model_id}")
        for frame in found["deltas"]:
            if self.version < frame["version"] <= newest:
                await self._fetch(visit, frame["url"], frame["size"])
        self.version = newest

    async def _send(self, visit: Visit) -> None:
        steps = max(1, round(self.seconds * STEPS_A_SECOND))
        digest, data = self.crowd.updates.make(self.version, steps)
        told = {
            "id": str(uuid4()),
            "model_id": self.crowd.model_id,
            "base_version": self.version,
            "seed": self.number,
            "steps": steps,
            "records": steps * self.crowd.batch_size,
            "seconds": self.seconds,
            "chunks": 1,
            "size": len(data),
            "sha256": digest,
        }
        self.steps += steps
        found = await self._json(visit, "announce", "POST", "/updates", told)
        if found["upload_url"]:
            found = await self._upload(visit, found, data)
        if found["state"] in ("received", "checked", "merged"):
            self.crowd.acknowledged += 1
            self.pending.append(told["id"])

    async def _upload(self, visit: Visit, told: dict[str, Any], data: bytes) -> dict[str, Any]:
        head = self._head(
            "PATCH",
            urlsplit(told["upload_url"]).path,
            Content_Type="application/offset+octet-stream",
            Upload_Offset=0,
        )
        return self._read("upload", await visit.ask("upload", head, data))

    async def _fetch(self, visit: Visit, url: str, size: int) -> None:
        parts = urlsplit(url)
        server = (str(parts.hostname), int(parts.port or 80))
        other = visit if server == self.crowd.server else self._visit(server)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        head = request("GET", path, Host=parts.netloc)
        async with other:
            answer = await other.ask("delta", head, keep=False)
        length = int(answer.header(b"content-length") or 0)
        if answer.status not in OK or length != size:
            self.crowd.tally.errors[f"delta: {answer.status}, {length} of {size} bytes"] += 1

    # -- how it hears

    def _heed(self, limits: dict[str, Any]) -> None:
        self.crowd.min_seconds = limits["min_seconds"]
        self.seconds = max(self.crowd.every_s, limits["min_seconds"])

    def _hear(self, update: dict[str, Any]) -> None:
        is_settled = update["state"] in ("merged", "refused", "expired")
        if is_settled and update["id"] in self.pending:
            self.pending.remove(update["id"])

    async def _try(self, do: Any) -> bool:
        """Do something on a connection of its own; say whether it went well."""
        async with self._visit(self.crowd.server) as visit:
            try:
                await do(visit)
            except Broken:
                return False
        return True

    def _visit(self, server: tuple[str, int]) -> Visit:
        return Visit(server, self.source, self.crowd.tally)

    async def _json(
        self, visit: Visit, route: str, method: str, path: str, body: Any = None
    ) -> dict[str, Any]:
        head = self._head(method, f"/api/v1{path}", Content_Type="application/json")
        data = b"" if body is None else json.dumps(body).encode()
        while True:
            answer = await visit.ask(route, head, data)
            if answer.status not in (429, 503) or not answer.header(b"retry-after"):
                return self._read(route, answer)
            self.crowd.tally.later += 1
            visit.close()
            await asyncio.sleep(float(answer.header(b"retry-after") or LATER_S))

    def _head(self, method: str, path: str, **headers: Any) -> bytes:
        host, port = self.crowd.server
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return request(method, path, Host=f"{host}:{port}", **headers)

    def _read(self, route: str, answer: Answer) -> dict[str, Any]:
        if answer.status not in OK:
            text = answer.body[:200].decode(errors="replace")
            self.crowd.tally.errors[f"{route}: {answer.status} {text}"] += 1
            raise Broken(text)
        found: dict[str, Any] = json.loads(answer.body)
        return found
