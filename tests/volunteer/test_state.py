"""What a volunteer decides, event by event: no network, no clock, no Keras."""

import random
from datetime import UTC, datetime
from uuid import UUID, uuid4

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
from handcar.volunteer import state as s

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


def kinds(instructions: list[object]) -> list[type]:
    return [type(instruction) for instruction in instructions]


def fresh() -> s.State:
    return s.State(rng=random.Random(0))


def training(chunks: int = 4) -> s.State:
    state = fresh()
    state.on(s.Started(), now=0)
    state.on(s.Assigned(assignment(chunks)), now=0)
    state.on(s.WeightsHere(0), now=1)
    state.on(s.ChunkHere(chunk(0).sha256), now=2)
    assert state.training
    return state


def test_a_newcomer_asks_then_fetches_weights_and_one_chunk():
    state = fresh()
    assert state.on(s.Started(), now=0) == [s.AskAssignment()]
    assert state.on(s.Assigned(assignment()), now=0) == [s.FetchWeights(0), s.FetchChunk(chunk(0))]


def test_training_begins_with_the_first_chunk_and_the_rest_is_fetched_meanwhile():
    state = fresh()
    state.on(s.Started(), now=0)
    state.on(s.Assigned(assignment()), now=0)
    assert state.on(s.WeightsHere(0), now=1) == []
    done = state.on(s.ChunkHere(chunk(0).sha256), now=2)
    assert done == [
        s.BeginTraining(()),
        s.AddChunk(chunk(0).sha256),
        s.FetchChunk(chunk(1)),
        s.FetchChunk(chunk(2)),
    ]
    assert state.on(s.ChunkHere(chunk(1).sha256), now=3) == [
        s.AddChunk(chunk(1).sha256),
        s.FetchChunk(chunk(3)),
    ]


def test_after_a_restart_training_begins_before_the_server_answers():
    state = fresh()
    update = uuid4()
    found = s.Started(
        version=7,
        chunks=frozenset({chunk(2).sha256}),
        unsent=(update,),
        pending=(update,),
        assignment=assignment(),
    )
    done = state.on(found, now=0)
    assert s.BeginTraining((update,)) in done
    assert s.SendUpdate(update) in done
    assert s.AddChunk(chunk(2).sha256) in done


def test_updates_are_sent_one_after_the_other():
    state = training()
    one, two = uuid4(), uuid4()
    assert state.on(s.UpdateMade(one), now=3) == [s.SendUpdate(one)]
    assert state.on(s.UpdateMade(two), now=4) == []
    assert s.SendUpdate(two) in state.on(s.UpdateAnswered(status(one, "received")), now=5)


def test_a_new_version_is_fetched_with_the_own_updates_that_it_holds():
    state = training()
    old, new = uuid4(), uuid4()
    for update in (old, new):
        state.on(s.UpdateMade(update), now=3)
        state.on(s.UpdateAnswered(status(update, "received")), now=4)
    told = (status(old, "merged", version=1), status(new, "merged", version=2))
    done = state.on(s.HeartbeatAnswered(reply(1, updates=told)), now=5)
    assert done == [s.FetchWeights(1, (old,))]  # `new` is in version 2, which we don't fetch yet
    assert state.on(s.WeightsHere(1, (old,)), now=6) == [s.TakeUp(1, (old,))]
    assert state.pending == [new]


def test_a_refused_update_is_dropped_and_the_reason_shown():
    state = training()
    update = uuid4()
    state.on(s.UpdateMade(update), now=3)
    told = (status(update, "refused", reason="it is too long"),)
    done = state.on(s.HeartbeatAnswered(reply(updates=told)), now=4)
    assert s.Drop((update,)) in done
    assert any(isinstance(i, s.Show) and "it is too long" in i.text for i in done)


def test_when_the_server_is_away_pauses_grow_and_training_goes_on():
    state = training()
    update = uuid4()
    (sending,) = state.on(s.UpdateMade(update), now=0)
    now, waits = 0.0, []
    for _ in range(12):
        state.heartbeat_at = None
        state.on(s.Failed(sending, "No answer."), now=now)
        waits.append(state.next_wake(now))
        now += waits[-1]
        assert state.on(s.Tick(), now=now) == [s.SendUpdate(update)]
    assert state.training
    assert waits[0] < limits.RETRY_FIRST_S
    assert limits.RETRY_MOST_S / 2 <= waits[-1] <= limits.RETRY_MOST_S


def test_the_server_may_ask_for_a_longer_pause():
    state = training()
    beat = s.SendHeartbeat(())
    state.on(s.Failed(beat, "Busy.", after_s=600.0), now=0)
    state.heartbeat_at = None
    assert state.next_wake(0.0) == 600.0


def test_messages_are_shown_and_acknowledged_once():
    state = training()
    message = Message(id=5, text="Thank you!", sent_at=datetime.now(UTC))
    state.heartbeat_under_way = True
    assert state.on(s.HeartbeatAnswered(reply(messages=(message,))), now=3) == [
        s.Show("Thank you!", "info", None)
    ]
    assert state.on(s.Tick(), now=1000) == [s.SendHeartbeat((), (5,))]
    state.on(s.HeartbeatAnswered(reply()), now=1001)
    assert state.on(s.Tick(), now=2000) == [s.SendHeartbeat((), ())]


def test_a_pause_holds_the_training_until_the_server_says_carry_on():
    state = training()
    assert s.Hold() in state.on(s.HeartbeatAnswered(reply(order="pause")), now=3)
    assert state.on(s.HeartbeatAnswered(reply(order="pause")), now=4) == []
    assert s.GoOn() in state.on(s.HeartbeatAnswered(reply()), now=5)


def test_stopping_saves_first_and_leaves_after():
    state = training()
    assert state.on(s.StopAsked(), now=3) == [s.StopTraining()]
    assert state.on(s.Tick(), now=1e6) == []
    (leave,) = state.on(s.TrainingEnded(), now=4)
    assert leave.exit_code == 130


def test_a_finished_training_ends_with_exit_code_0():
    state = training()
    state.on(s.HeartbeatAnswered(reply(order="stop", reason="The training is finished.")), now=3)
    assert state.on(s.TrainingEnded(), now=4) == [s.Leave("The training is finished.", 0)]


def test_training_that_fails_ends_the_program_with_the_reason():
    assert training().on(s.TrainingEnded("no memory"), now=3) == [s.Leave("no memory", 1)]


def test_a_server_without_room_leaves_the_update_kept_and_the_person_told():
    state = training()
    (sending,) = state.on(s.UpdateMade(uuid4()), now=0)
    (told,) = state.on(s.Failed(sending, "The server is short of disk."), now=1)
    assert "The server is short of disk. The update is kept. Training goes on." in told.text
    assert state.on(s.Tick(), now=100)[0] == sending


def test_when_the_day_is_used_up_sending_rests_until_midnight_and_is_told_once():
    state = training()
    (sending,) = state.on(s.UpdateMade(uuid4()), now=0)
    assert state.on(s.UsedUp(sending, "Used up.", after_s=3600), now=1) == [
        s.Show("Used up.", "warning")
    ]
    assert state.on(s.UpdateMade(uuid4()), now=2) == []
    assert state.on(s.Tick(), now=3000) == [s.SendHeartbeat(tuple(state.pending), ())]
    assert sending in state.on(s.Tick(), now=3601)


def test_when_no_more_may_be_fetched_today_no_new_version_is():
    state = training()
    fetches = [s.FetchChunk(chunk(1)), s.FetchChunk(chunk(2))]
    said = [i for fetch in fetches for i in state.on(s.UsedUp(fetch, "Used up.", 3600), now=3)]
    assert said.count(s.Show("Used up.", "warning")) == 1
    (weights,) = state.on(s.HeartbeatAnswered(reply(1)), now=5)
    assert state.on(s.UsedUp(weights, "Used up.", 3600), now=6) == []
    assert state.on(s.HeartbeatAnswered(reply(2)), now=60) == []
    state.on(s.Tick(), now=4000)
    assert state.on(s.HeartbeatAnswered(reply(2)), now=4001) == [s.FetchWeights(2)]


def test_a_no_to_the_first_question_ends_the_program():
    state = fresh()
    state.on(s.Started(), now=0)
    done = state.on(s.Failed(s.AskAssignment(), "There is no such model.", retry=False), now=1)
    assert done[-1] == s.Leave("There is no such model.", 4)


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens in whatever order, some things always hold."""

    def __init__(self) -> None:
        super().__init__()
        self.state = fresh()
        self.now = 0.0
        self.under_way: list[s.Instruction] = []
        self.begun = 0
        self.newest = 0
        self.told: dict[UUID, str] = {}
        self._take(s.Started())

    def _take(self, event: s.Event) -> None:
        for instruction in self.state.on(event, now=self.now):
            self.begun += isinstance(instruction, s.BeginTraining)
            if isinstance(
                instruction,
                s.AskAssignment | s.FetchChunk | s.FetchWeights | s.SendUpdate | s.SendHeartbeat,
            ):
                self.under_way.append(instruction)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), works=st.booleans(), allowed=st.booleans())
    def something_ends(self, data, works, allowed):
        instruction = data.draw(st.sampled_from(self.under_way))
        self.under_way.remove(instruction)
        transfers = s.FetchChunk | s.FetchWeights | s.SendUpdate
        if not allowed and isinstance(instruction, transfers):
            self._take(s.UsedUp(instruction, "Used up.", 3600.0))
            return
        if not works:
            self._take(s.Failed(instruction, "No answer."))
            return
        match instruction:
            case s.AskAssignment():
                self._take(s.Assigned(assignment(newest=self.newest)))
            case s.FetchChunk(link):
                self._take(s.ChunkHere(link.sha256))
            case s.FetchWeights(version, merged):
                self._take(s.WeightsHere(version, merged))
            case s.SendUpdate(id):
                self.told.setdefault(id, "received")
                self._take(s.UpdateAnswered(status(id, "received")))
            case s.SendHeartbeat(pending):
                told = tuple(
                    status(id, "merged", version=self.newest)
                    for id in pending
                    if self.told.get(id) == "merged"
                )
                self._take(s.HeartbeatAnswered(reply(self.newest, updates=told)))

    @precondition(lambda self: self.state.training)
    @rule()
    def a_round_ends(self):
        self._take(s.UpdateMade(uuid4()))

    @rule()
    def a_version_appears(self):
        self.newest += 1
        for id in self.told:
            self.told[id] = "merged"

    @rule(seconds=st.floats(0.1, 1000))
    def time_passes(self, seconds):
        self.now += seconds
        self._take(s.Tick())

    @invariant()
    def training_begins_once(self):
        assert self.begun <= 1

    @invariant()
    def nothing_is_under_way_twice(self):
        keys = [s.key_of(instruction) for instruction in self.under_way]
        assert len(keys) == len(set(keys))

    @invariant()
    def what_is_unsent_is_under_way_or_will_be_tried(self):
        if self.state.outbox:
            sending = any(isinstance(i, s.SendUpdate) for i in self.under_way)
            assert sending or "update" in self.state.retries

    @invariant()
    def an_unmerged_update_is_carried(self):
        assert set(self.state.outbox) <= set(self.state.pending)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
