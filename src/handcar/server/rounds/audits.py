"""Audits: a round is computed again, from what its volunteer announced of it.

Needs Keras, and runs in the process that has it. What the server lacks for it (a chunk that
can't be reached, bytes that were let go, time) is no fault of the volunteer's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from django.conf import settings

from handcar.data import draws
from handcar.data.blocks import Block, BlockStore
from handcar.errors import Corrupt, HandcarError, Problem, RecipeError, Unreachable
from handcar.files import MB
from handcar.merging import audit as audits
from handcar.protocol.messages import Drawn, Recipe, Start
from handcar.server import blobs
from handcar.server.catalog import links, modelfiles
from handcar.server.catalog.models import Chunk, TrainingModel
from handcar.server.rounds import auditors, checks, liveness, networks, series, services
from handcar.server.rounds.models import FAILED, PASSED, SKIPPED, Update, Version
from handcar.stores import http, reach
from handcar.wire import frames
from handcar.wire.layout import Flat

if TYPE_CHECKING:
    from handcar.modelfile.trainer import Network, PastRound

log = logging.getLogger(__name__)

LONGEST_S = 120.0
"""What an audit may take of the process with Keras."""
BLOCKS_BYTES = 4_000 * MB
PACE: dict[str, float] = {}
"""Seconds a step, as measured in this process, by model."""


class Unable(HandcarError):
    """The server lacks what it takes to compute a round again."""


def judge(update: Update, now: datetime) -> None:
    """Compute a round again; refuse what came out otherwise than it was sent."""
    try:
        layout = modelfiles.layout(update.model.model_file)
        expected = again(update)  # first: it says soonest that there is nothing to compare with
        found = audits.compare(checks.decoded(update), expected, layout)
    except Unable as reason:
        log.info("update %s is not audited: %s", update.pk, reason)
        checks.conclude(update, now, audit=SKIPPED)
        return
    except RecipeError as error:
        _fail(update, f"what was announced of the round can't be: {error}", now)
        return
    if found.passed:
        services.note_audit(update, PASSED)
        liveness.passes(update, liveness.AUDIT, now)
        checks.conclude(update, now, audit=PASSED)
    else:
        _fail(update, found.text, now)


def _fail(update: Update, reason: str, now: datetime) -> None:
    services.note_audit(update, FAILED)
    if liveness.refuses(update, liveness.AUDIT, now):
        services.distrust(update)
        services.refuse(update, reason, now)
    else:
        checks.conclude(update, now, audit=FAILED)


# -- once more -------------------------------------------------------------------------------


def again(update: Update) -> Flat:
    """Return what an honest update of a round says, computed again. Raises Unable, RecipeError."""
    from handcar.modelfile import trainer

    recipe = _recipe(update)
    told = [_own(update, str(id)) for id in recipe.after] + [update]
    recipes = [_recipe(one) for one in told]
    auditors.expect_plausible(update, recipe)
    steps = sum(drawn.steps for one in recipes for drawn in one.drawn)
    _expect_short(update, told, steps)
    model = update.model
    layout = modelfiles.layout(model.model_file)
    network = _network(model.model_file, networks.seed(model))
    _expect_same_chance(network, recipe)
    began = time.monotonic()
    walk = _Walk(model)
    rounds = [_past(one, its, walk) for one, its in zip(told, recipes, strict=True)]
    found = trainer.replay(network, rounds, layout, expect=_not_longer(began))
    PACE[model.pk] = (time.monotonic() - began) / steps
    return found.expected


def _recipe(update: Update) -> Recipe:
    if update.recipe is None:
        raise Unable(f"update {update.pk} says nothing of how it was made")
    return Recipe.model_validate(update.recipe)


def _own(update: Update, id: str) -> Update:
    """Return another update that this volunteer made of the same model."""
    rows = Update.objects.filter(volunteer_id=update.volunteer_id, model_id=update.model_id)
    found = rows.select_related("model").filter(id=id).first()
    if found is None:
        raise RecipeError(f"expected an own update before it, got {id}")
    return found


def _expect_short(update: Update, told: list[Update], steps: int) -> None:
    measured = PACE.get(update.model_id)
    seconds = sum(one.seconds for one in told) if measured is None else steps * measured
    if seconds > LONGEST_S:
        raise Unable(f"it would take about {seconds:.0f} s")


def _expect_same_chance(network: Network, recipe: Recipe) -> None:
    import keras

    if network.draws_by_chance and recipe.backend != keras.backend.backend():
        raise Unable(f"its layers draw otherwise on {recipe.backend} than here")


def _past(update: Update, recipe: Recipe, walk: _Walk) -> PastRound:
    from handcar.modelfile.trainer import PastRound, PastStart

    parts = [(drawn.steps, _batches(update, drawn)) for drawn in recipe.drawn]
    sent = _sent(update)
    starts = [
        PastStart(partial(_weights, update, start, walk), start.steps)
        for start in update.announcement().starts()
    ]
    return PastRound(starts, update.seed, recipe.rate, parts, sent, recipe.update_step)


def _sent(update: Update) -> Flat:
    try:
        return checks.decoded(update)
    except Corrupt as error:
        raise Unable(f"update {update.pk} is no longer here: {error}") from error


class _Walk:
    """The published weights of one version after another: of which the last is remembered."""

    def __init__(self, model: TrainingModel) -> None:
        self._model = model
        self._held: tuple[int, Flat] | None = None

    def to(self, number: int) -> Flat:
        """Return the weights of a version. Raises RecipeError, Corrupt and Problem."""
        version = Version.objects.filter(model=self._model, number=number).first()
        if version is None:
            raise RecipeError(f"expected a version of the model, got {number}")
        weights = series.weights_of(self._model, version, held=self._held)
        self._held = number, weights
        return weights


def _weights(update: Update, start: Start, walk: _Walk) -> Flat:
    """Return the weights that a round started from, or went on from."""
    layout = modelfiles.layout(update.model.model_file)
    try:
        weights = walk.to(start.base_version)
        for id in start.carried:
            weights = frames.apply(_sent(_own(update, str(id))), weights, layout)
    except (Corrupt, Problem) as error:
        raise Unable(str(error)) from error
    return weights


def _not_longer(began: float) -> Callable[[], None]:
    """Return what to ask for each piece of batches: whether it takes too long."""

    def expect() -> None:
        if time.monotonic() - began > 2 * LONGEST_S:
            raise Unable(f"it takes more than {2 * LONGEST_S:.0f} s")

    return expect


def _batches(update: Update, drawn: Drawn) -> Iterator[draws.Batches]:
    open_block = _opener(update.model.dataset_id)
    return draws.replay(drawn, open_block, batch_size=update.model.batch_size)


@lru_cache(maxsize=1)
def _network(model_file: str, seed: int) -> Network:
    from handcar.modelfile.trainer import Network

    return Network(modelfiles.parsed(model_file), modelfiles.layout(model_file), seed=seed)


# -- chunks ----------------------------------------------------------------------------------


def _opener(dataset_id: int) -> Callable[[str], Block]:
    """Return what opens a chunk of a data set by the first digits of its digest."""

    def open_block(digits: str) -> Block:
        rows = Chunk.objects.filter(dataset_id=dataset_id, split="train")
        chunk = rows.filter(digest__startswith=blobs.PREFIX + digits).first()
        if chunk is None:
            raise RecipeError(f"expected a chunk of the data set, got {digits}")
        try:
            return _open(chunk)
        except HandcarError as error:
            raise Unable(f"chunk {digits} could not be had: {error}") from error

    return open_block


def _open(chunk: Chunk) -> Block:
    store = _blocks(settings.HANDCAR_HOME.blocks)
    if chunk.digest in store.digests():
        return store.open(chunk.digest)
    if blobs.present(chunk.digest):
        return store.add(chunk.digest, blobs.read(chunk.digest))
    return store.add(chunk.digest, _fetched(chunk))


def _fetched(chunk: Chunk) -> bytes:
    """Return a chunk from where its owner stores it."""
    from django.utils import timezone

    fault: HandcarError = Unreachable("no link to it is known")
    path = settings.HANDCAR_HOME.uploads / f"{chunk.digest.removeprefix(blobs.PREFIX)}.chunk"
    for url in links.given(chunk.urls, timezone.now()):
        # Of no server's network: an owner's link must not lead to what is private here.
        with reach.client(reach.Reach(""), follow_redirects=True, timeout=30.0) as client:
            try:
                http.fetch(
                    client,
                    url,
                    path=path,
                    size=chunk.size,
                    sha256=chunk.digest,
                    on_bytes=lambda count: None,
                )
                return bytes(path.read_bytes())
            except HandcarError as error:
                fault = error
            finally:
                path.unlink(missing_ok=True)
    raise fault


@lru_cache(maxsize=1)
def _blocks(folder: object) -> BlockStore:
    from pathlib import Path

    return BlockStore(
        Path(str(folder)), budget_bytes=BLOCKS_BYTES, keep_free_bytes=blobs.RESERVE_BYTES
    )
