"""Trains a round of another volunteer again, for the server to compare.

Everything about it comes from the server: which rounds, frames that lead to what they began
with, what their volunteer had sent before. What it sent of the last round is not told, so the
answer can only come from training. The training thread does that between two rounds of its own.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NotYet
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np

from handcar.data import draws
from handcar.data.blocks import Block, BlockStore
from handcar.errors import Corrupt, DiskFull, HandcarError, MissingLibrary, Problem, RecipeError
from handcar.merging.sketch import sketch
from handcar.protocol.messages import (
    AuditAnswer,
    AuditTask,
    ChunkLink,
    Frame,
    Link,
    Start,
    UpdateAnnouncement,
)
from handcar.volunteer.opentask import OpenTask
from handcar.volunteer.rounds import Errand, Inbox
from handcar.volunteer.talk import Server
from handcar.volunteer.words import duration
from handcar.wire import frames
from handcar.wire.layout import Flat, Layout

if TYPE_CHECKING:
    from handcar.modelfile.trainer import Network, PastRound

log = logging.getLogger(__name__)

LONGEST_S = 240.0
"""Of our own training's time; twice what the server takes such a round to last."""
CHUNKS_FETCHED = 4
LOOK_S = 0.5


class Unable(HandcarError):
    """This machine lacks what it takes."""


class Auditor:
    """Makes audits, one at a time, in a thread that may wait."""

    def __init__(
        self,
        server: Server,
        blocks: BlockStore,
        inbox: Inbox,
        *,
        fetch: Callable[[Link, str], Path],
        came: Callable[[str], None],
    ) -> None:
        """`fetch(link, name)` returns a file of its own; `came` is told of a new chunk."""
        self._server = server
        self._blocks = blocks
        self._inbox = inbox
        self._fetch = fetch
        self._came = came

    def audit(self, id: UUID, task: OpenTask, links: Mapping[str, ChunkLink]) -> str:
        """Train again what is asked, and answer; return what to tell the person.

        Raises HandcarError when there is nobody to answer.
        """
        asked = self._server.audit(id)
        began = time.monotonic()
        try:
            expected = self._trained(id, asked, task, links)
        except (Unable, Corrupt, DiskFull, MissingLibrary, Problem, RecipeError) as error:
            self._server.answer_audit(id, AuditAnswer(reason=str(error)[:500]))
            reason = str(error).rstrip(".")
            return f"A round of another volunteer could not be checked here: {reason}."
        image = sketch(expected, task.layout, bytes.fromhex(asked.key)).astype("<f4")
        text = base64.b64encode(image.tobytes()).decode()
        self._server.answer_audit(id, AuditAnswer(image=text))
        steps = sum(one.steps for one in asked.rounds)
        return (
            f"Checked a round of another volunteer for the server: trained its {steps} steps "
            f"again, in {duration(time.monotonic() - began)}. Your own training is as it was."
        )

    # -- what it takes

    def _trained(
        self, id: UUID, asked: AuditTask, task: OpenTask, links: Mapping[str, ChunkLink]
    ) -> Flat:
        if asked.model_id != task.assignment.id:
            raise Unable(f"it is of {asked.model_id}, and this machine trains another model")
        known = self._chunks(asked, links)
        sent = {
            one.id: self._decoded(self._server.sent_update(id, one), task) for one in asked.updates
        }
        bases = task.keeper.several(
            asked.series,
            {its.base_version for one in asked.rounds for its in one.starts()},
            self._bytes_of,
        )

        def train(network: Network, expect: Callable[[], None]) -> Flat:
            return _train(network, asked, task, _Parts(bases, sent, self._opener(known)), expect)

        return self._wait(Errand(train), asked.seconds_left)

    def _chunks(self, asked: AuditTask, links: Mapping[str, ChunkLink]) -> dict[str, str]:
        """Return the digests of the chunks that recipes name, all of them on disk."""
        digests = {draws.short(digest): digest for digest in links}
        named = {
            one.chunk
            for update in asked.rounds
            for drawn in (update.recipe.drawn if update.recipe else ())
            for one in drawn.chunks
        }
        if unknown := named - digests.keys():
            raise RecipeError(f"no chunk of the data set is named {min(unknown)}")
        known = {name: digests[name] for name in named}
        missing = sorted(set(known.values()) - set(self._blocks.digests()))
        if len(missing) > CHUNKS_FETCHED:
            raise Unable(f"{len(missing)} chunks of its data are not on this machine")
        for digest in missing:
            self._fetch_chunk(links[digest])
        return known

    def _fetch_chunk(self, link: ChunkLink) -> None:
        self._blocks.make_room_for(link.size)
        path = self._fetch(link, "audited")
        try:
            self._blocks.add(link.sha256, path)
        finally:
            path.unlink(missing_ok=True)
        self._came(link.sha256)

    def _bytes_of(self, frame: Frame) -> bytes:
        path = self._fetch(frame, "audited")
        data = path.read_bytes()
        path.unlink(missing_ok=True)
        return data

    def _decoded(self, data: bytes, task: OpenTask) -> Flat:
        return frames.decode_difference(data, task.layout)[1]

    def _opener(self, known: Mapping[str, str]) -> Callable[[str], Block]:
        def open_block(name: str) -> Block:
            return self._blocks.open(known[name])

        return open_block

    # -- the training thread

    def _wait(self, errand: Errand, seconds: float) -> Flat:
        """Have an errand done between two rounds; return what came of it."""
        ends_at = time.monotonic() + seconds
        self._inbox.give(errand)
        while not self._inbox.stop.is_set():
            if time.monotonic() > ends_at and errand.done.cancel():
                raise Unable("no round of its own ended in time")
            try:
                return errand.done.result(timeout=LOOK_S)
            except NotYet:
                continue
            except CancelledError as error:
                raise Unable("it was not begun") from error
        errand.done.cancel()
        raise HandcarError("this program is ending")


class _Parts:
    """What rounds are made of, beside what was announced of them."""

    def __init__(
        self,
        bases: Mapping[int, Flat],
        sent: Mapping[UUID, Flat],
        open_block: Callable[[str], Block],
    ) -> None:
        self.bases = bases
        self.sent = sent
        self.open_block = open_block

    def weights(self, start: Start, layout: Layout) -> Flat:
        """Return what a round started from. Raises Unable."""
        try:
            weights = self.bases[start.base_version]
            for id in start.carried:
                weights = frames.apply(self.sent[id], weights, layout)
        except KeyError as missing:
            raise Unable(f"the server did not tell of {missing}") from missing
        return weights


def _train(
    network: Network,
    asked: AuditTask,
    task: OpenTask,
    parts: _Parts,
    expect: Callable[[], None],
) -> Flat:
    """Train the rounds again; return what an honest volunteer would have sent of the last."""
    import keras

    from handcar.modelfile import trainer

    backend = asked.rounds[-1].recipe.backend if asked.rounds[-1].recipe else ""
    if network.draws_by_chance and backend != keras.backend.backend():
        raise Unable(f"its layers draw otherwise on {backend} than here")
    ends_at = time.monotonic() + LONGEST_S

    def go_on() -> None:
        expect()
        if time.monotonic() > ends_at:
            raise Unable(f"it takes more than {LONGEST_S:.0f} s")

    rounds = [_past(one, task, parts) for one in asked.rounds]
    return trainer.replay(network, rounds, task.layout, expect=go_on).expected


def _past(one: UpdateAnnouncement, task: OpenTask, parts: _Parts) -> PastRound:
    from handcar.modelfile.trainer import PastRound, PastStart

    recipe = one.recipe
    if recipe is None:
        raise RecipeError(f"update {one.id} does not say how it was made")
    starts = [
        PastStart(partial(parts.weights, its, task.layout), its.steps) for its in one.starts()
    ]
    batch = task.model_file.batch_size
    drawn = [
        (part.steps, draws.replay(part, parts.open_block, batch_size=batch))
        for part in recipe.drawn
    ]
    # Of the last round nothing is told, and nothing asked.
    sent = parts.sent.get(one.id, np.zeros(0, np.float32))
    return PastRound(starts, one.seed, recipe.rate, drawn, sent, recipe.update_step)
