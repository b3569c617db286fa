"""What a check decoded is merged from where it was kept, and decoded again where that is gone."""

from __future__ import annotations

import os

import pytest

from handcar.errors import Corrupt
from handcar.server.rounds import checks, decoding
from handcar.server.rounds.models import Update
from server_api import later, newest, update_frame, work


@pytest.fixture
def decodings(monkeypatch):
    """Count how often an update is decoded; everything kept goes to files."""
    monkeypatch.setattr(decoding, "LARGE", 0)
    monkeypatch.setattr(decoding, "SPARE", 0)
    monkeypatch.setattr(decoding, "_kept", type(decoding._kept)())
    decode, seen = decoding.decode, []
    monkeypatch.setattr(
        decoding, "decode", lambda update: (seen.append(update.pk), decode(update))[1]
    )
    return seen


@pytest.fixture
def checked(server, decodings):
    model = server.model()
    for seed in range(4):
        server.deliver(server.join(f"v{seed}"), update_frame(model, seed=seed))
    while checks.check_one(later(0)):
        pass
    return model


def kept(server):
    return sorted((server.home.folder / "decoded").iterdir())


def test_an_update_is_decoded_once_for_check_and_merge(server, checked, decodings):
    assert len(kept(server)) == 4
    work(later(1))
    work(later(3600))
    assert set(Update.objects.values_list("state", flat=True)) == {"merged"}
    assert sorted(decodings) == sorted(Update.objects.values_list("pk", flat=True))
    assert kept(server) == []


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x" * 300)]
)
def test_what_is_gone_or_damaged_is_decoded_again(server, checked, decodings, damage):
    for path in kept(server):
        damage(path)
    work(later(1))
    work(later(3600))
    assert set(Update.objects.values_list("state", flat=True)) == {"merged"}
    assert len(decodings) == 8


def test_what_is_merged_first_is_kept_and_what_was_never_merged_goes(
    server, decodings, monkeypatch
):
    model = server.model()
    for seed in range(4):
        server.deliver(server.join(f"v{seed}"), update_frame(model, seed=seed))
    assert checks.check_one(later(0))
    (first,) = kept(server)
    monkeypatch.setattr(decoding, "DISK", 2 * first.stat().st_size)
    assert checks.check_one(later(0))
    both = kept(server)
    assert checks.check_one(later(0))
    assert first in both
    assert kept(server) == both
    os.utime(first, (0, 0))
    assert checks.check_one(later(0))
    assert first not in kept(server)
    assert len(kept(server)) == 2


def test_a_disk_that_is_nearly_full_keeps_none(server, decodings, monkeypatch):
    monkeypatch.setattr(decoding, "SPARE", 1 << 60)
    server.deliver(server.join(), update_frame(server.model()))
    assert checks.check_one(later(0))
    assert kept(server) == []


def test_kept_or_decoded_again_the_weights_are_the_same_bits(
    server, checked, decodings, monkeypatch
):
    updates = list(Update.objects.order_by("received_at").select_related("model"))
    with decoding.ahead(updates) as changes:
        found = [change() for change in changes]
    for update, change in zip(updates, found, strict=True):
        again = decoding.decode(update)
        assert change.statistics.tobytes() == again.statistics.tobytes()
        for one, other in zip(change.parts, again.parts, strict=True):
            assert (one.tensor, one.scale) == (other.tensor, other.scale)
            assert one.sparse.places.tobytes() == other.sparse.places.tobytes()
            assert one.sparse.numbers.tobytes() == other.sparse.numbers.tobytes()


def test_a_batch_ends_with_the_first_that_cannot_be_read(server, checked, decodings, monkeypatch):
    updates = list(Update.objects.select_related("model"))
    for path in kept(server):
        path.unlink()

    def broken(update):
        raise Corrupt("damaged")

    monkeypatch.setattr(decoding, "decode", broken)
    with pytest.raises(Corrupt, match="damaged"), decoding.ahead(updates) as changes:
        changes[0]()
    assert newest(checked).number == 0
