"""A round's beginning and end, and that what is carried is what was sent."""

from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from handcar.protocol import limits
from handcar.protocol.messages import Start
from handcar.volunteer import checkpoint
from handcar.volunteer.checkpoint import Checkpoint, Round
from handcar.volunteer.folder import Task
from handcar.volunteer.journal import Journal
from handcar.volunteer.rounds import Inbox, Rounds
from handcar.wire import frames
from handcar.wire.layout import Layout, TensorSpec

LAYOUT = Layout((TensorSpec("kernel", (30, 20)), TensorSpec("mean", (20,), "statistic")))
BASE = np.random.default_rng(0).normal(size=LAYOUT.size).astype(np.float32)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(tmp_path)


def rounds_of(task: Task, **more: object) -> Rounds:
    settings = {"base": (3, BASE), "pending": {}, "update_step": 2.0} | more
    return Rounds(task, model_id="m", layout=LAYOUT, journal=Journal(task.journal), **settings)


def trained(round: Round, seed: int = 1) -> np.ndarray:
    round.steps, round.records, round.seconds = 10, 320, 2.0
    change = np.random.default_rng(seed).laplace(size=LAYOUT.size)
    return round.start + change.astype(np.float32)


def sent_change(task: Task, id: object) -> np.ndarray:
    return frames.decode_difference(task.update(id).read_bytes(), LAYOUT)[1]


def test_the_next_round_starts_from_the_base_plus_what_was_sent(task: Task):
    rounds, inbox = rounds_of(task), Inbox()
    first = rounds.begin(inbox, number=1)
    assert first.start.tobytes() == BASE.tobytes()
    one = rounds.finish(first, trained(first), chunks=1)
    second = rounds.begin(inbox, number=2)
    expected = frames.apply(sent_change(task, one.id), BASE, LAYOUT)
    assert second.start.tobytes() == expected.tobytes()
    assert (second.base_version, second.carried) == (3, (one.id,))


def test_a_version_that_holds_the_update_is_started_from_without_it(task: Task):
    rounds, inbox = rounds_of(task), Inbox()
    first = rounds.begin(inbox, number=1)
    one = rounds.finish(first, trained(first), chunks=1)
    newer = BASE + np.float32(0.5)
    inbox.take_up(4, newer, [one.id])
    second = rounds.begin(inbox, number=2)
    assert second.start.tobytes() == newer.tobytes()
    assert (second.base_version, second.carried) == (4, ())
    assert not task.update(one.id).exists()


def test_a_version_without_the_update_is_started_from_with_it_on_top(task: Task):
    rounds, inbox = rounds_of(task), Inbox()
    first = rounds.begin(inbox, number=1)
    one = rounds.finish(first, trained(first), chunks=1)
    newer = BASE + np.float32(0.5)
    inbox.take_up(4, newer, [])
    second = rounds.begin(inbox, number=2)
    expected = frames.apply(sent_change(task, one.id), newer, LAYOUT)
    assert second.start.tobytes() == expected.tobytes()


def test_a_refused_update_is_carried_no_longer(task: Task):
    rounds, inbox = rounds_of(task), Inbox()
    first = rounds.begin(inbox, number=1)
    one = rounds.finish(first, trained(first), chunks=1)
    inbox.drop([one.id])
    assert rounds.begin(inbox, number=2).start.tobytes() == BASE.tobytes()


def test_after_a_restart_the_start_has_the_same_bits(task: Task):
    rounds, inbox = rounds_of(task), Inbox()
    for number in (1, 2, 3):
        round = rounds.begin(inbox, number=number)
        rounds.finish(round, trained(round, number), chunks=1)
    expected = rounds.begin(inbox, number=4)
    known = Journal(task.journal).recall(3)
    again = rounds_of(task, pending=dict.fromkeys(known.pending, 1)).begin(
        Inbox(), number=known.last_round + 1
    )
    assert again.start.tobytes() == expected.start.tobytes()
    assert (again.number, again.carried) == (4, expected.carried)


def test_a_checkpoint_comes_back_as_it_was(task: Task):
    round = Round(5, 3, (uuid4(),), BASE, 7, steps=4, records=128, seconds=1.5, loss_sum=2.0)
    round.earlier_starts = (Start(base_version=2, carried=(uuid4(),), steps=3),)
    memory = [np.array(9), np.ones((3, 2), np.float32)]
    point = Checkpoint(round, BASE + 1, memory, {"sha256:a": 2})
    checkpoint.save(task.checkpoint, point)
    found = checkpoint.load(task.checkpoint, LAYOUT.size)
    assert found.weights.tobytes() == point.weights.tobytes()
    assert found.round.start.tobytes() == BASE.tobytes()
    assert (found.round.number, found.round.carried, found.round.loss()) == (5, round.carried, 0.5)
    assert found.round.earlier_starts == round.earlier_starts
    assert found.optimizer[0] == 9
    assert found.optimizer[1].shape == (3, 2)
    assert found.passes == {"sha256:a": 2}


@pytest.mark.parametrize("cut", [0, 10, 200, -1])
def test_a_damaged_checkpoint_is_not_used(task: Task, cut: int):
    checkpoint.save(task.checkpoint, Checkpoint(Round(5, 3, (), BASE, 7), BASE))
    task.checkpoint.write_bytes(task.checkpoint.read_bytes()[:cut])
    assert checkpoint.load(task.checkpoint, LAYOUT.size) is None


def test_a_checkpoint_of_another_model_is_not_used(task: Task):
    checkpoint.save(task.checkpoint, Checkpoint(Round(5, 3, (), BASE, 7), BASE))
    assert checkpoint.load(task.checkpoint, LAYOUT.size + 1) is None


def test_one_that_starts_from_the_newest_version_carries_nothing(task: Task):
    rounds, inbox = rounds_of(task, starts="newest"), Inbox()
    first = rounds.begin(inbox, number=1)
    one = rounds.finish(first, trained(first), chunks=1)
    second = rounds.begin(inbox, number=2)
    assert (second.start.tobytes(), second.carried) == (BASE.tobytes(), ())
    assert rounds.waiting(inbox) == [one.id]


def test_a_roll_back_is_followed_with_the_own_work_on_top(task: Task):
    rounds, inbox = rounds_of(task), Inbox()
    first = rounds.begin(inbox, number=1)
    merged = rounds.finish(first, trained(first), chunks=1)
    second = rounds.begin(inbox, number=2)
    pending = rounds.finish(second, trained(second, 2), chunks=1)
    inbox.take_up(4, BASE + np.float32(9), [merged.id])  # and it turned out to be bad
    assert rounds.begin(inbox, number=3).carried == (pending.id,)
    inbox.take_up(5, BASE, [])
    after = rounds.begin(inbox, number=4)
    expected = frames.apply(sent_change(task, pending.id), BASE, LAYOUT)
    assert after.start.tobytes() == expected.tobytes()
    assert (after.base_version, after.carried) == (5, (pending.id,))


def test_statistics_are_the_newest_own_ones_exactly_whatever_coding_owes(task: Task):
    rounds, inbox = rounds_of(task), Inbox()
    statistics = LAYOUT.statistic_slices[0]
    for number in (1, 2, 3):
        round = rounds.begin(inbox, number=number)
        weights = trained(round, number)
        one = rounds.finish(round, weights, chunks=1)
        assert sent_change(task, one.id)[statistics].tobytes() == weights[statistics].tobytes()
    start = rounds.begin(inbox, number=4).start
    assert start[statistics].tobytes() == weights[statistics].tobytes()
    newer = BASE + np.float32(0.5)
    inbox.take_up(4, newer, list(round.carried) + [one.id])
    assert rounds.begin(inbox, number=5).start[statistics].tobytes() == newer[statistics].tobytes()


def test_a_newer_version_is_taken_up_in_the_middle_with_what_the_round_changed(task: Task):
    rounds, inbox = rounds_of(task), Inbox()
    first = rounds.begin(inbox, number=1)
    one = rounds.finish(first, trained(first), chunks=1)
    round = rounds.begin(inbox, number=2)
    began_at = round.start
    weights = trained(round, 2)
    assert rounds.moves_left(round, inbox) == 0, "there is no newer one"
    newer = BASE + np.float32(0.5)
    inbox.take_up(4, newer, [one.id])
    assert rounds.moves_left(round, inbox) > 0
    moved = rounds.move(round, weights, inbox)
    assert round.start.tobytes() == newer.tobytes()
    assert (round.base_version, round.carried) == (4, ())
    assert round.earlier_starts == (Start(base_version=3, carried=(one.id,), steps=10),)
    assert round.steps_from_here() == 0
    assert moved.tobytes() == frames.moved(weights, began_at, newer, LAYOUT).tobytes()
    change, before = (
        frames.difference(*pair, LAYOUT) for pair in ((moved, newer), (weights, began_at))
    )
    np.testing.assert_allclose(change, before, atol=1e-5)
    statistics = LAYOUT.statistic_slices[0]
    assert moved[statistics].tobytes() == weights[statistics].tobytes()
    assert not task.update(one.id).exists()


@pytest.mark.parametrize("starts", ["newest", "waits"])
def test_other_rules_take_no_version_up_in_the_middle(task: Task, starts: str):
    rounds, inbox = rounds_of(task, starts=starts), Inbox()
    round = rounds.begin(inbox, number=1)
    trained(round)
    inbox.take_up(4, BASE, [])
    assert rounds.moves_left(round, inbox) == 0


def test_a_round_takes_up_as_many_versions_as_a_recipe_may_tell(task: Task):
    rounds, inbox = rounds_of(task), Inbox()
    round = rounds.begin(inbox, number=1)
    weights = trained(round)
    for version in range(4, 4 + limits.RECIPE_STARTS):
        inbox.take_up(version, BASE, [])
        assert rounds.moves_left(round, inbox) > 0
        weights = rounds.move(round, weights, inbox)
        assert rounds.moves_left(round, inbox) == 0, "there is no newer one"
        round.steps += 1
    inbox.take_up(99, BASE, [])
    assert rounds.moves_left(round, inbox) == 0
    assert rounds.begin(inbox, number=2).base_version == 99


def test_a_version_that_came_before_a_restart_is_taken_up_after_it(task: Task):
    before = rounds_of(task)
    round = before.begin(Inbox(), number=1)
    trained(round)
    newer = BASE + np.float32(1)
    assert rounds_of(task, base=(4, newer)).moves_left(round, Inbox()) > 0


def test_nobody_can_train_again_what_began_where_a_restored_server_never_was(task: Task):
    rounds, inbox = rounds_of(task), Inbox()
    round = rounds.begin(inbox, number=1)
    inbox.take_up(2, BASE - np.float32(1), [])
    rounds.move(round, trained(round), inbox)
    assert round.base_version == 2
    assert None in round.drawn
