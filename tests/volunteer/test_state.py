"""What a volunteer decides, event by event: no network, no clock, no Keras."""

import random
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from handcar.protocol import limits
from handcar.protocol.messages import (
    Assignment,
    ChunkLink,
    Frame,
    HeartbeatReply,
    Link,
    Message,
    RoundLimits,
    Series,
    UpdateStatus,
)
from handcar.volunteer.events import (
    SOON_S,
    Assigned,
    Audited,
    ChunkHere,
    ChunksGone,
    Event,
    Failed,
    HeartbeatAnswered,
    LinksExpired,
    NoRoom,
    Started,
    StopAsked,
    Tick,
    TrainingEnded,
    UpdateAnswered,
    UpdateMade,
    UsedUp,
    WeightsHere,
)
from handcar.volunteer.instructions import (
    AddChunk,
    AskAssignment,
    BeginTraining,
    Drop,
    FetchChunk,
    FetchWeights,
    GoOn,
    Hold,
    Instruction,
    Leave,
    Prepare,
    RemoveChunk,
    SendHeartbeat,
    SendUpdate,
    Show,
    StopTraining,
    TakeUp,
    TrainAgain,
    key_of,
)
from handcar.volunteer.state import IDLE_ASKS_S, NO_ROOM_FOR, ROOM_S, State

DIGEST = "sha256:" + "{:064x}"


def chunk(number: int) -> ChunkLink:
    return ChunkLink(
        url=f"http://server/{number}",
        sha256=DIGEST.format(number),
        size=1000,
        file_name=f"{number}.chunk",
        dataset_name="digits",
        records=100,
        codec="columns-zstd",
    )


def assignment(chunks: int = 4, newest: int = 0) -> Assignment:
    frame = Frame(
        url="http://server/key",
        sha256=DIGEST.format(99),
        size=10,
        version=newest,
        kind="keyframe",
        weights_sha256=DIGEST.format(98),
    )
    return Assignment(
        id="digits",
        state="pending",
        configuration=Link(url="http://server/model", sha256=DIGEST.format(97), size=9),
        dataset=tuple(chunk(number) for number in range(chunks)),
        series=Series(model_id="digits", newest=newest, keyframe=frame),
        round=RoundLimits(),
    )


def reply(newest: int = 0, **more: object) -> HeartbeatReply:
    return HeartbeatReply(newest=newest, model_state="pending", **more)


def status(id: UUID, state: str, **more: object) -> UpdateStatus:
    return UpdateStatus(id=id, state=state, **more)


def kinds(told: list[object]) -> list[type]:
    return [type(instruction) for instruction in told]


def fresh() -> State:
    return State(rng=random.Random(0))


def training(chunks: int = 4) -> State:
    state = fresh()
    state.on(Started(), now=0)
    state.on(Assigned(assignment(chunks)), now=0)
    state.on(WeightsHere(0), now=1)
    state.on(ChunkHere(chunk(0).sha256), now=2)
    assert state.training
    return state


def test_a_newcomer_asks_then_fetches_weights_and_one_chunk():
    state = fresh()
    assert state.on(Started(), now=0) == [AskAssignment()]
    assert state.on(Assigned(assignment()), now=0) == [
        FetchWeights(0),
        FetchChunk(chunk(0)),
    ]


def test_training_begins_with_the_first_chunk_and_the_rest_is_fetched_meanwhile():
    state = fresh()
    state.on(Started(), now=0)
    state.on(Assigned(assignment()), now=0)
    assert state.on(WeightsHere(0), now=1) == []
    done = state.on(ChunkHere(chunk(0).sha256), now=2)
    assert done == [
        BeginTraining(()),
        AddChunk(chunk(0).sha256),
        FetchChunk(chunk(1)),
        FetchChunk(chunk(2)),
    ]
    assert state.on(ChunkHere(chunk(1).sha256), now=3) == [
        AddChunk(chunk(1).sha256),
        FetchChunk(chunk(3)),
    ]


def test_a_chunk_that_went_is_expected_no_more_and_fetched_after_all_others():
    state = training(5)
    full = state.on(ChunkHere(chunk(1).sha256), now=3)
    assert full == [AddChunk(chunk(1).sha256), FetchChunk(chunk(3))]
    assert state.on(ChunksGone((chunk(0).sha256,)), now=4) == [RemoveChunk(chunk(0).sha256)]
    assert state.held_chunks() == [chunk(1).sha256]
    fetched = [
        instruction.link
        for number in (2, 3, 4)
        for instruction in state.on(ChunkHere(chunk(number).sha256), now=5)
        if isinstance(instruction, FetchChunk)
    ]
    assert fetched == [chunk(4), chunk(0)]


def test_a_chunk_of_another_task_may_go_without_a_word():
    state = training()
    assert state.on(ChunksGone((chunk(77).sha256,)), now=3) == []


def test_without_room_it_looks_again_soon_and_says_so_once():
    state = training()
    (said,) = state.on(NoRoom(FetchChunk(chunk(1)), "The disk is full."), now=10)
    assert isinstance(said, Show)
    assert "makes room" in said.text
    assert FetchChunk(chunk(1)) not in state.on(Tick(), now=10.5)
    assert state.on(Tick(), now=11.1) == [FetchChunk(chunk(1))]
    assert state.on(NoRoom(FetchChunk(chunk(1)), "The disk is full."), now=13) == []
    assert state.next_wake(13) == pytest.approx(ROOM_S)


def test_a_chunk_for_which_there_is_never_room_does_not_hold_up_the_others():
    state, now, asked = training(), 10.0, []
    for _ in range(2 * NO_ROOM_FOR):
        full = NoRoom(FetchChunk(chunk(1)), "The disk is full.")
        state.on(full, now=now)
        now += 3
        asked += [i.link for i in state.on(Tick(), now=now) if isinstance(i, FetchChunk)]
    assert chunk(3) in asked


def test_without_room_for_the_first_chunk_the_person_hears_why_and_it_is_tried_again():
    state = fresh()
    state.on(Started(), now=0)
    state.on(Assigned(assignment()), now=0)
    (said,) = state.on(NoRoom(FetchChunk(chunk(0)), "The disk is full."), now=1)
    assert said.level == "warning"
    assert "Trying again" in said.text


def test_after_a_restart_the_circle_goes_on_where_it_was_left():
    state = fresh()
    here = frozenset(chunk(number).sha256 for number in (1, 4, 5))
    state.on(Started(version=0, chunks=here, assignment=assignment(9)), now=0)
    asked = state.on(Assigned(assignment(9)), now=1)
    assert [i for i in asked if isinstance(i, FetchChunk)] == [
        FetchChunk(chunk(6)),
        FetchChunk(chunk(7)),
    ]
    assert state.wanted == [chunk(8), chunk(0), chunk(2), chunk(3)]


def test_after_a_restart_training_begins_before_the_server_answers():
    state = fresh()
    update = uuid4()
    found = Started(
        version=7,
        chunks=frozenset({chunk(2).sha256}),
        unsent=(update,),
        pending=(update,),
        assignment=assignment(),
    )
    done = state.on(found, now=0)
    assert BeginTraining((update,)) in done
    assert SendUpdate(update) in done
    assert AddChunk(chunk(2).sha256) in done


def test_updates_are_sent_one_after_the_other():
    state = training()
    one, two = uuid4(), uuid4()
    assert state.on(UpdateMade(one), now=3) == [SendUpdate(one)]
    assert state.on(UpdateMade(two), now=4) == []
    assert SendUpdate(two) in state.on(UpdateAnswered(status(one, "received")), now=5)


def test_a_new_version_is_fetched_with_the_own_updates_that_it_holds():
    state = training()
    old, new = uuid4(), uuid4()
    for update in (old, new):
        state.on(UpdateMade(update), now=3)
        state.on(UpdateAnswered(status(update, "received")), now=4)
    told = (status(old, "merged", version=1), status(new, "merged", version=2))
    done = state.on(HeartbeatAnswered(reply(1, updates=told)), now=5)
    assert done == [FetchWeights(1, (old,))]  # `new` is in version 2, which we don't fetch yet
    assert state.on(WeightsHere(1, (old,)), now=6) == [TakeUp(1, (old,))]
    assert state.pending == [new]


def test_one_that_waits_for_its_merge_asks_often_whether_it_came():
    for starts, asks_s in (("carried", 60), ("newest", 60), ("waits", IDLE_ASKS_S)):
        state, update = training(), uuid4()
        state.assignment = state.assignment.model_copy(update={"starts": starts})
        state.on(HeartbeatAnswered(reply()), now=2)
        assert state.heartbeat_at == 62, "nothing is waited for"
        state.on(UpdateMade(update), now=3)
        state.on(UpdateAnswered(status(update, "received")), now=4)
        state.on(HeartbeatAnswered(reply()), now=5)
        assert state.heartbeat_at == 5 + asks_s
        merged = (status(update, "merged", version=1),)
        assert state.on(HeartbeatAnswered(reply(1, updates=merged)), now=6) == [
            FetchWeights(1, (update,))
        ]
        state.on(WeightsHere(1, (update,)), now=7)
        state.on(HeartbeatAnswered(reply(1)), now=8)
        assert state.heartbeat_at == 68


def test_one_whose_round_may_stand_still_asks_often_whether_its_updates_were_merged():
    state, update = training(), uuid4()
    state.on(HeartbeatAnswered(reply(round=RoundLimits(longest_steps=90))), now=2)
    assert state.heartbeat_at == 62, "nothing is waited for"
    state.on(UpdateMade(update), now=3)
    state.on(UpdateAnswered(status(update, "received")), now=4)
    state.on(HeartbeatAnswered(reply()), now=5)
    assert state.heartbeat_at == 5 + IDLE_ASKS_S, "an answer without limits means: as before"
    state.on(HeartbeatAnswered(reply(round=RoundLimits())), now=6)
    assert state.heartbeat_at == 66


def test_a_roll_back_is_followed_and_what_was_undone_is_still_pending():
    state, update = training(), uuid4()
    state.on(UpdateMade(update), now=3)
    state.on(UpdateAnswered(status(update, "received")), now=4)
    # It was merged in version 1, which was undone before this machine heard of it.
    told = (status(update, "received"),)
    done = state.on(HeartbeatAnswered(reply(2, updates=told)), now=5)
    assert done == [FetchWeights(2, ())]
    assert state.on(WeightsHere(2, ()), now=6) == [TakeUp(2, ())]
    assert state.pending == [update]


def test_a_refused_update_is_dropped_and_the_reason_shown():
    state = training()
    update = uuid4()
    state.on(UpdateMade(update), now=3)
    told = (status(update, "refused", reason="it is too long"),)
    done = state.on(HeartbeatAnswered(reply(updates=told)), now=4)
    assert Drop((update,)) in done
    assert any(isinstance(i, Show) and "it is too long" in i.text for i in done)


def test_when_the_server_is_away_pauses_grow_and_training_goes_on():
    state = training()
    update = uuid4()
    (sending,) = state.on(UpdateMade(update), now=0)
    now, waits = 0.0, []
    for _ in range(12):
        state.heartbeat_at = None
        state.on(Failed(sending, "No answer."), now=now)
        waits.append(state.next_wake(now))
        now += waits[-1]
        assert state.on(Tick(), now=now) == [SendUpdate(update)]
    assert state.training
    assert waits[0] < limits.RETRY_FIRST_S
    assert limits.RETRY_MOST_S / 2 <= waits[-1] <= limits.RETRY_MOST_S


def test_the_server_may_ask_for_a_longer_pause():
    state = training()
    beat = SendHeartbeat(())
    state.on(Failed(beat, "Busy.", after_s=600.0), now=0)
    state.heartbeat_at = None
    assert state.next_wake(0.0) == 600.0


def test_an_update_that_the_server_has_no_time_for_is_kept_and_sent_when_it_said():
    state, update = training(), uuid4()
    (sending,) = state.on(UpdateMade(update), now=0)
    done = state.on(Failed(sending, "Too many requests (HTTP 429).", after_s=400.0), now=0)
    assert not any(isinstance(one, Drop) for one in done)
    state.heartbeat_at = None
    assert state.on(Tick(), now=399) == []
    assert state.on(Tick(), now=400) == [SendUpdate(update)]
    assert state.pending == [update]


def test_messages_are_shown_and_acknowledged_once():
    state = training()
    message = Message(id=5, text="Thank you!", sent_at=datetime.now(UTC))
    state.heartbeat_under_way = True
    assert state.on(HeartbeatAnswered(reply(messages=(message,))), now=3) == [
        Show("Thank you!", "info", None)
    ]
    assert state.on(Tick(), now=1000) == [SendHeartbeat((), (5,))]
    state.on(HeartbeatAnswered(reply()), now=1001)
    assert state.on(Tick(), now=2000) == [SendHeartbeat((), ())]


def test_a_pause_holds_the_training_until_the_server_says_carry_on():
    state = training()
    assert Hold() in state.on(HeartbeatAnswered(reply(order="pause")), now=3)
    assert state.on(HeartbeatAnswered(reply(order="pause")), now=4) == []
    assert GoOn() in state.on(HeartbeatAnswered(reply()), now=5)


def test_stopping_saves_first_and_leaves_after():
    state = training()
    assert state.on(StopAsked(), now=3) == [StopTraining()]
    assert state.on(Tick(), now=1e6) == []
    (leave,) = state.on(TrainingEnded(), now=4)
    assert leave.exit_code == 130


def test_a_finished_training_ends_with_exit_code_0():
    state = training()
    state.on(HeartbeatAnswered(reply(order="stop", reason="The training is finished.")), now=3)
    assert state.on(TrainingEnded(), now=4) == [Leave("The training is finished.", 0)]


def test_training_that_fails_ends_the_program_with_the_reason():
    assert training().on(TrainingEnded("no memory"), now=3) == [Leave("no memory", 1)]


def test_a_server_without_room_leaves_the_update_kept_and_the_person_told():
    state = training()
    (sending,) = state.on(UpdateMade(uuid4()), now=0)
    (told,) = state.on(Failed(sending, "The server is short of disk."), now=1)
    assert "The server is short of disk. The update is kept. Training goes on." in told.text
    assert state.on(Tick(), now=100)[0] == sending


def test_when_the_day_is_used_up_sending_rests_until_midnight_and_is_told_once():
    state = training()
    (sending,) = state.on(UpdateMade(uuid4()), now=0)
    assert state.on(UsedUp(sending, "Used up.", after_s=3600), now=1) == [
        Show("Used up.", "warning")
    ]
    assert state.on(UpdateMade(uuid4()), now=2) == []
    assert state.on(Tick(), now=3000) == [SendHeartbeat(tuple(state.pending), ())]
    assert sending in state.on(Tick(), now=3601)


def test_an_older_version_is_taken_up_once_it_was_told_twice_in_a_row():
    state = fresh()
    lost = uuid4()
    state.version, state.pending = 6, [lost]
    for newest, wanted in ((5, []), (6, []), (3, []), (3, [FetchWeights(3, (lost,))])):
        assert list(state._follow(reply(newest))) == wanted
    state.on(WeightsHere(3, (lost,)), now=10)
    assert list(state._follow(reply(4))) == [FetchWeights(4)]


def test_when_no_more_may_be_fetched_today_no_new_version_is():
    state = training()
    fetches = [FetchChunk(chunk(1)), FetchChunk(chunk(2))]
    said = [i for fetch in fetches for i in state.on(UsedUp(fetch, "Used up.", 3600), now=3)]
    assert said.count(Show("Used up.", "warning")) == 1
    (weights,) = state.on(HeartbeatAnswered(reply(1)), now=5)
    assert state.on(UsedUp(weights, "Used up.", 3600), now=6) == []
    assert state.on(HeartbeatAnswered(reply(2)), now=60) == []
    state.on(Tick(), now=4000)
    assert state.on(HeartbeatAnswered(reply(2)), now=4001) == [FetchWeights(2)]


def test_a_no_to_the_first_question_ends_the_program():
    state = fresh()
    state.on(Started(), now=0)
    done = state.on(Failed(AskAssignment(), "There is no such model.", retry=False), now=1)
    assert done[-1] == Leave("There is no such model.", 4)


# -- chunks that don't come


def begun(told: list[Instruction]) -> list[ChunkLink]:
    return [one.link for one in told if isinstance(one, FetchChunk)]


def renewed(chunks: int = 4) -> Assignment:
    fresh = assignment(chunks)
    links = (link.model_copy(update={"url": link.url + "?fresh"}) for link in fresh.dataset)
    return fresh.model_copy(update={"dataset": tuple(links)})


def test_as_many_chunks_at_once_as_were_measured_to_be_worth_it():
    state = training(9)
    assert len(begun(state.on(ChunkHere(chunk(1).sha256, at_once=4), now=3))) == 3
    assert begun(state.on(ChunkHere(chunk(2).sha256, at_once=2), now=4)) == []


def test_chunks_on_disk_are_what_a_newcomer_to_a_model_begins_with():
    state = fresh()
    state.on(Started(chunks=frozenset({chunk(3).sha256})), now=0)
    done = state.on(Assigned(assignment()), now=0)
    assert done == [FetchWeights(0), Prepare(chunk(3).sha256)]
    assert state.on(WeightsHere(0), now=1) == [
        BeginTraining(()),
        AddChunk(chunk(3).sha256),
        FetchChunk(chunk(0)),
        FetchChunk(chunk(1)),
    ]


def test_a_second_chunk_does_not_take_the_line_from_the_weights():
    state = fresh()
    state.on(Started(), now=0)
    (weights, _) = state.on(Assigned(assignment()), now=0)
    assert state.on(ChunkHere(chunk(0).sha256), now=1) == [Prepare(chunk(0).sha256)]
    assert begun(state.on(Tick(), now=2)) == []
    state.on(Failed(weights, "No answer."), now=3)
    assert begun(state.on(Tick(), now=3.1)) == [chunk(1)], "then the line is free"


def test_a_store_that_is_away_is_asked_ever_more_seldom_and_told_of_once():
    state = training(100)
    now, told, asked = 2.0, [], 0
    under_way = [FetchChunk(chunk(1)), FetchChunk(chunk(2))]
    while now < 600:
        for fetch in under_way:
            asked += 1
            told += state.on(Failed(fetch, "The store is away."), now=now)
        now += max(state.next_wake(now), 0.1)
        under_way = [FetchChunk(link) for link in begun(state.on(Tick(), now=now))]
    texts = [one.text for one in told if isinstance(one, Show)]
    assert asked < 60
    assert 1 <= len(texts) <= 6
    assert "Training goes on." in texts[0]


def test_one_bad_chunk_does_not_hold_up_the_others():
    state = training()
    state.on(Failed(FetchChunk(chunk(1)), "wrong bytes"), now=3)
    assert begun(state.on(Tick(), now=4.1)) == [chunk(3)]


@pytest.mark.parametrize("instruction", [AskAssignment(), FetchChunk(chunk(1))])
def test_after_a_broken_connection_it_is_tried_again_soon_and_more_slowly_each_time(instruction):
    state = State(rng=random.Random(0))
    state.on(Started(), now=0)
    waits = []
    for _ in range(12):
        state.on(Failed(instruction, "Reset.", broke=True), now=0)
        waits.append(state.retries[key_of(instruction)].due_at)
    assert waits[0] <= SOON_S
    assert waits[3] > 2 * SOON_S
    assert waits[-1] > 450


def test_a_chunk_that_is_refused_is_asked_for_again_much_later():
    state = training(2)
    (told,) = state.on(Failed(FetchChunk(chunk(1)), "No.", retry=False), now=3)
    assert "Trying" not in told.text
    assert begun(state.on(Tick(), now=100)) == []
    assert begun(state.on(Tick(), now=1000)) == [chunk(1)]


def test_links_that_expired_are_renewed_and_the_chunk_fetched_by_the_fresh_one():
    state = training(2)
    done = state.on(LinksExpired(FetchChunk(chunk(1)), "HTTP 403."), now=3)
    assert AskAssignment() in done
    (fetched,) = begun(state.on(Assigned(renewed(2)), now=4))
    assert fetched.url.endswith("?fresh")
    assert fetched.sha256 == chunk(1).sha256


def test_links_that_were_renewed_meanwhile_are_used_without_asking():
    state = training(2)
    state.on(Assigned(renewed(2)), now=3)
    done = state.on(LinksExpired(FetchChunk(chunk(1)), "HTTP 403."), now=4)
    assert AskAssignment() not in done
    assert [link.url for link in begun(done)] == [chunk(1).url + "?fresh"]


def test_when_fresh_links_do_not_help_they_are_asked_for_ever_more_seldom():
    state = training(2)
    now, asked, done = 3.0, 0, [FetchChunk(chunk(1))]
    while now < 3600:
        for fetch in [one for one in done if isinstance(one, FetchChunk)]:
            done += state.on(LinksExpired(fetch, "HTTP 403."), now=now)
        if AskAssignment() in done:
            asked += 1
            done = state.on(Assigned(renewed(2)), now=now)
            continue
        state.heartbeat_at = None
        now += max(1.0, state.next_wake(now))
        done = state.on(Tick(), now=now)
    assert 3 <= asked <= 12


def test_a_round_of_another_is_trained_again_once_and_the_person_hears_of_it():
    state, id = training(), uuid4()
    beat(state, 60)
    assert state.on(HeartbeatAnswered(reply(audit=id)), now=61) == [TrainAgain(id)]
    beat(state, 130)
    assert state.on(HeartbeatAnswered(reply(audit=id)), now=131) == []
    assert state.on(Audited("Checked."), now=140) == [Show("Checked.")]
    beat(state, 200)
    assert state.on(HeartbeatAnswered(reply(audit=id)), now=201) == [TrainAgain(id)]


def test_an_audit_that_comes_to_nothing_is_given_up_without_a_word():
    state, id = training(), uuid4()
    for number, fault in enumerate(
        (
            Failed(TrainAgain(id), "No."),
            UsedUp(TrainAgain(id), "Used up.", 60.0),
        )
    ):
        now = 60.0 + 100 * number
        beat(state, now)
        assert state.on(HeartbeatAnswered(reply(audit=id)), now=now + 1) == [TrainAgain(id)]
        assert state.on(fault, now=now + 2) == []
    assert not state.retries


def test_nothing_is_trained_again_before_training_begins_or_while_it_is_held():
    state = fresh()
    state.on(Started(), now=0)
    state.on(Assigned(assignment()), now=0)
    assert state.on(HeartbeatAnswered(reply(audit=uuid4())), now=1) == []
    state = training()
    held = state.on(HeartbeatAnswered(reply(audit=uuid4(), order="pause")), now=61)
    assert TrainAgain not in kinds(held)


def test_a_chunk_that_came_for_an_audit_is_not_fetched_again():
    state = training()
    waits = state.wanted[0]
    assert state.on(ChunkHere(waits.sha256), now=5) == [AddChunk(waits.sha256)]
    assert waits not in state.wanted


def beat(state: State, now: float) -> None:
    """Let a heartbeat be sent."""
    assert any(isinstance(one, SendHeartbeat) for one in state.on(Tick(), now=now))


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens in whatever order, some things always hold."""

    def __init__(self) -> None:
        super().__init__()
        self.state = fresh()
        self.now = 0.0
        self.under_way: list[Instruction] = []
        self.begun = 0
        self.newest = 0
        self.told: dict[UUID, str] = {}
        self._take(Started())

    def _take(self, event: Event) -> None:
        for instruction in self.state.on(event, now=self.now):
            self.begun += isinstance(instruction, BeginTraining)
            if isinstance(
                instruction,
                AskAssignment | FetchChunk | FetchWeights | SendUpdate | SendHeartbeat | TrainAgain,
            ):
                self.under_way.append(instruction)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), works=st.booleans(), allowed=st.booleans())
    def something_ends(self, data, works, allowed):
        instruction = data.draw(st.sampled_from(self.under_way))
        self.under_way.remove(instruction)
        transfers = FetchChunk | FetchWeights | SendUpdate | TrainAgain
        if not allowed and isinstance(instruction, transfers):
            self._take(UsedUp(instruction, "Used up.", 3600.0))
            return
        if not works:
            expired = isinstance(instruction, FetchChunk) and self.newest % 2
            fault = LinksExpired if expired else Failed
            self._take(fault(instruction, "No answer."))
            return
        self._works(instruction, data)

    def _works(self, instruction, data):
        match instruction:
            case AskAssignment():
                self._take(Assigned(assignment(newest=self.newest)))
            case FetchChunk(link):
                self._take(ChunkHere(link.sha256))
            case FetchWeights(version, merged):
                self._take(WeightsHere(version, merged))
            case SendUpdate(id):
                self.told.setdefault(id, "received")
                self._take(UpdateAnswered(status(id, "received")))
            case SendHeartbeat(pending):
                told = tuple(
                    status(id, "merged", version=self.newest)
                    for id in pending
                    if self.told.get(id) == "merged"
                )
                audit = data.draw(st.none() | st.uuids())
                self._take(HeartbeatAnswered(reply(self.newest, updates=told, audit=audit)))
            case TrainAgain():
                chunks = [ChunkHere(link.sha256) for link in self.state.wanted[:1]]
                for event in (*chunks, Audited("Checked.")):
                    self._take(event)

    @precondition(lambda self: self.state.training)
    @rule()
    def a_round_ends(self):
        self._take(UpdateMade(uuid4()))

    @rule()
    def a_version_appears(self):
        self.newest += 1
        for id in self.told:
            self.told[id] = "merged"

    @rule(seconds=st.floats(0.1, 1000))
    def time_passes(self, seconds):
        self.now += seconds
        self._take(Tick())

    @invariant()
    def training_begins_once(self):
        assert self.begun <= 1

    @invariant()
    def nothing_is_under_way_twice(self):
        keys = [key_of(instruction) for instruction in self.under_way]
        assert len(keys) == len(set(keys))

    @invariant()
    def what_is_unsent_is_under_way_or_will_be_tried(self):
        if self.state.outbox:
            sending = any(isinstance(i, SendUpdate) for i in self.under_way)
            assert sending or "update" in self.state.retries

    @invariant()
    def a_chunk_is_here_or_under_way_or_waits(self):
        state = self.state
        for link in state.assignment.dataset if state.assignment else ():
            waits = link in state.wanted or f"chunk {link.sha256}" in state.retries
            assert waits or link.sha256 in state.chunks | state.fetching

    @invariant()
    def an_unmerged_update_is_carried(self):
        assert set(self.state.outbox) <= set(self.state.pending)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
