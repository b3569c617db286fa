"""What was drawn can be drawn again on any machine, and what can't have been is refused."""

from __future__ import annotations

import numpy as np
import pytest

from handcar.data.blocks import Block
from handcar.data.draws import Trail, replay
from handcar.data.order import Sampler
from handcar.errors import RecipeError
from handcar.protocol import limits
from handcar.protocol.messages import Drawn

BATCH = 4
NAMES = [f"{n:016x}" for n in range(3)]


def open_block(name: str) -> Block:
    number = NAMES.index(name.removeprefix("sha256:"))
    x = np.arange(10) + 10 * number
    return Block(f"sha256:{NAMES[number]}", 10, {"x": x.astype(np.float32), "y": x})


def drawn(batches: int = 5, **changed: object) -> Drawn:
    sampler = Sampler(open_block, batch_size=BATCH, seed=7, open_blocks=2)
    for name in NAMES:
        sampler.add(f"sha256:{name}")
    trail = Trail(7)
    trail.add(sampler.draw(batches), 0, batches)
    found = trail.drawn()
    assert found is not None
    return found.model_copy(update=changed)


def records(told: Drawn) -> list[int]:
    return (
        np.concatenate([y for _, y in replay(told, open_block, batch_size=BATCH)]).ravel().tolist()
    )


def test_the_records_of_a_seed_are_the_same_on_every_machine_and_with_every_numpy():
    # If these ever change, audits of those who have another NumPy go wrong.
    assert records(drawn())[:6] == [9, 0, 17, 12, 11, 10]


def test_a_recipe_takes_some_hundred_bytes():
    assert len(drawn().model_dump_json()) < 400


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"draw": 3}, "expected an open chunk at draw 3"),
        ({"steps": 6}, "expected 6 batches"),
        ({"chunks": ()}, "expected an open chunk"),
        ({"pieces": ((1, 1),)}, "expected 5 batches, got pieces of 1"),
    ],
)
def test_what_cant_have_been_drawn_is_refused(changed: dict[str, object], says: str):
    with pytest.raises(RecipeError, match=says):
        records(drawn(**changed))


def test_more_records_than_a_chunk_has_are_refused():
    first, *others = drawn().chunks
    with pytest.raises(RecipeError, match="has 10 records, of which 10 were taken"):
        records(drawn(chunks=(first.model_copy(update={"taken": 10}), *others)))


def test_a_round_over_more_chunks_than_a_recipe_may_name_has_none():
    sampler = Sampler(open_block, batch_size=BATCH, seed=7)
    sampler.add(f"sha256:{NAMES[0]}")
    trail = Trail(7)
    for _ in range(limits.RECIPE_CHUNKS):
        trail.add(sampler.draw(20), 0, 20)
    assert trail.drawn() is None
