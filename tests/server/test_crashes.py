"""A crash between any two steps repeats work, but counts nothing twice and loses nothing."""

import pytest
from django.db import transaction

from handcar.server import blobs
from handcar.server.rounds import checks, decoding, leases, merges, series, services
from handcar.server.rounds.models import Participation, Update, Version
from server_api import later, newest, update_frame, work


class Killed(BaseException):
    """kill -9, as far as a test in the same process can do it."""


@pytest.fixture
def model(server, monkeypatch):
    monkeypatch.setattr(services, "MERGED_KEPT", 0)  # so that bytes are removed as well
    return server.model(epochs=100)


@pytest.fixture
def checked(server, model):
    """Three updates that wait to be merged; the time at which to merge them."""
    for seed, name in enumerate(("ann", "bob", "cyd")):
        server.deliver(server.join(name), update_frame(model, seed=seed))
    while checks.check_one(later(0)):
        pass
    return later(30)


def outcome(model):
    """Everything that must not depend on crashes."""
    versions = Version.objects.filter(model=model).order_by("number")
    states = Update.objects.order_by("received_at").values_list("state", "version__number")
    return {
        "versions": list(
            versions.values_list("number", "weights_sha256", "updates", "records_merged")
        ),
        "master": newest(model).master_digest,
        "updates": list(states),
        "merged": list(Participation.objects.order_by("number").values_list("updates_merged")),
    }


def merge_all(model, now):
    for _ in range(20):
        if not merges.merge_one(now):
            return
    raise AssertionError("it never ends")


def expected_after_no_crash(server, model, now):
    """Merge once on a savepoint to see the outcome, and take it back."""
    try:
        with transaction.atomic():
            merge_all(model, now)
            seen = outcome(model)
            raise Killed
    except Killed:
        return seen


PLACES = [
    (blobs, "put", 1),
    (blobs, "put", 2),
    (blobs, "put", 3),
    (blobs, "put", 4),
    (merges, "_describe", 1),
    (merges, "_commit", 1),
    (services, "mark_merged", 1),
    (merges, "_count_for_volunteers", 1),
    (services, "let_go_of_merged", 1),
    (series, "prune", 1),
    (series, "_clear", 1),
    (blobs, "remove", 1),
]


@pytest.mark.parametrize("place", PLACES, ids=[f"{name}-{call}" for _, name, call in PLACES])
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_step_of_a_merge_changes_nothing(
    server, model, checked, monkeypatch, place, after
):
    module, name, call = place
    with monkeypatch.context() as patched:
        patched.setattr(blobs, "remove", lambda digest: None)
        expected = expected_after_no_crash(server, model, checked)

    real = getattr(module, name)
    calls = []

    def dies(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            if after:
                real(*args, **kwargs)
            raise Killed
        return real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, dies)
        with pytest.raises(Killed):
            merge_all(model, checked)
    leases.release_all()
    merge_all(model, checked)
    assert outcome(model) == expected


@pytest.mark.parametrize("place", [(decoding, "decode"), (checks, "_examine")])
def test_a_crash_while_checking_checks_again(server, model, monkeypatch, place):
    server.deliver(server.join(), update_frame(model))

    def dies(update):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(*place, dies)
        with pytest.raises(Killed):
            checks.check_one(later(0))
    assert Update.objects.get().state == "received"
    assert not checks.check_one(later(1))
    work(later(40))
    assert Update.objects.get().state == "merged"


def test_a_full_disk_waits_and_loses_nothing(server, model, checked, monkeypatch):
    from handcar.errors import DiskFull

    def full(data):
        raise DiskFull("no room")

    with monkeypatch.context() as patched:
        patched.setattr(blobs, "put", full)
        assert merges.merge_one(checked)
    assert newest(model).number == 0
    assert not merges.merge_one(checked), "other work goes first"
    merge_all(model, checked + 2 * leases.LEASE)
    merge_all(model, checked + 4 * leases.LEASE)
    assert set(Update.objects.values_list("state", flat=True)) == {"merged"}
