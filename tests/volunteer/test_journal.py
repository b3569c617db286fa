"""What a volunteer still knows after a kill -9."""

from pathlib import Path
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from handcar.protocol.messages import UpdateAnnouncement
from handcar.volunteer.journal import Journal


def announcement(id: UUID | None = None, steps: int = 10) -> UpdateAnnouncement:
    return UpdateAnnouncement(
        id=id or uuid4(),
        model_id="digits",
        base_version=3,
        seed=1,
        steps=steps,
        records=steps * 32,
        seconds=1.5,
        size=100,
        sha256="sha256:" + "0" * 64,
    )


def test_an_update_is_unsent_until_acknowledged_and_pending_until_merged(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    one, two = announcement(), announcement()
    journal.made(one, round_number=1)
    journal.made(two, round_number=2)
    journal.sent(one.id)
    known = journal.recall(3)
    assert (known.unsent, known.pending) == ((two.id,), (one.id, two.id))
    assert known.announcements[two.id] == two
    assert (known.last_round, known.steps, known.records) == (2, 20, 640)
    journal.merged(4, [one.id])
    assert journal.recall(4).pending == (two.id,)


def test_a_merge_counts_only_once_its_weights_are_on_disk(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    one = announcement()
    journal.made(one, round_number=1)
    journal.merged(4, [one.id])
    assert journal.recall(3).pending == (one.id,)


def test_a_dropped_update_is_forgotten(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    one = announcement()
    journal.made(one, round_number=1)
    journal.dropped([one.id])
    assert journal.recall(3).announcements == {}


def test_totals_survive_any_number_of_restarts(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    for number in range(1, 6):
        one = announcement(steps=number)
        journal.made(one, round_number=number)
        if number % 2:
            journal.merged(number, [one.id])
        known = journal.recall(number)
    for _ in range(3):
        known = Journal(tmp_path / "journal").recall(9)
    assert (known.last_round, known.steps) == (5, 15)
    assert len(known.pending) == 2


@settings(deadline=None)  # each example waits for the disk
@given(st.integers(0, 2000))
def test_a_line_cut_short_anywhere_loses_only_itself(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "journal"
    journal = Journal(path)
    one, two = announcement(), announcement()
    journal.made(one, round_number=1)
    whole = path.stat().st_size
    journal.made(two, round_number=2)
    data = path.read_bytes()
    path.write_bytes(data[: whole + cut % (len(data) - whole - 1)])
    assert journal.recall(3).pending == (one.id,)
    journal.made(two, round_number=2)  # what comes after is read again
    assert journal.recall(3).pending == (one.id, two.id)


def test_a_new_journal_knows_nothing(tmp_path: Path):
    known = Journal(tmp_path / "deep" / "journal").recall(-1)
    assert known.pending == known.unsent == ()
