"""What a server assigned can't be changed on the way, and another server is not taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from handcar.errors import Untrusted
from handcar.protocol.messages import Assignment, ChunkLink, Frame, Link, RoundLimits, Series
from handcar.protocol.signature import is_signed, sign
from handcar.volunteer.trust import expect_signed

SEED, OTHER = b"\x01" * 32, b"\x02" * 32
SERVER = "https://train.example.org"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def chunk(number: int) -> ChunkLink:
    return ChunkLink(
        url=f"https://a.example.org/{number}",
        sha256=digest(number),
        size=1000 + number,
        file_name=f"train-{number:05}.chunk",
        dataset_name="digits",
        records=100,
        codec="columns",
    )


def assignment(*chunks: ChunkLink) -> Assignment:
    keyframe = Frame(
        url="/f",
        sha256=digest(8),
        size=9,
        version=0,
        kind="keyframe",
        weights_sha256=digest(9),
    )
    return Assignment(
        id="digits",
        state="pending",
        configuration=Link(url="/c", sha256=digest(7), size=5),
        dataset=chunks or (chunk(1), chunk(2)),
        series=Series(model_id="digits", newest=0, keyframe=keyframe),
        round=RoundLimits(),
    )


def test_order_and_links_may_change_and_nothing_else():
    signed = sign(assignment(), SEED)
    assert is_signed(signed)
    assert not is_signed(assignment())
    first, second = signed.dataset
    moved = first.model_copy(update={"url": "https://b.example.org/1", "mirrors": ("/x",)})
    assert is_signed(signed.model_copy(update={"dataset": (second, moved)}))
    for change in ({"sha256": digest(3)}, {"size": 1}, {"records": 1}, {"codec": "other"}):
        other = first.model_copy(update=change)
        assert not is_signed(signed.model_copy(update={"dataset": (other, second)}))
    for dataset in ((first,), (first, second, chunk(3)), ()):
        assert not is_signed(signed.model_copy(update={"dataset": dataset}))
    configuration = signed.configuration.model_copy(update={"sha256": digest(1)})
    assert not is_signed(signed.model_copy(update={"configuration": configuration}))
    assert not is_signed(signed.model_copy(update={"id": "letters"}))


def test_the_first_key_is_kept_and_another_one_is_refused(tmp_path: Path):
    path = tmp_path / "signing-key.pub"
    expect_signed(sign(assignment(), SEED), path, SERVER)
    assert path.read_text().strip() == sign(assignment(), SEED).signature.public_key
    expect_signed(sign(assignment(chunk(5)), SEED), path, SERVER)
    for stranger in (sign(assignment(), OTHER), assignment()):
        with pytest.raises(Untrusted, match=f"delete {path}"):
            expect_signed(stranger, path, SERVER)
    path.unlink()
    expect_signed(sign(assignment(), OTHER), path, SERVER)


def test_a_key_that_did_not_sign_is_not_kept(tmp_path: Path):
    path = tmp_path / "signing-key.pub"
    forged = assignment(chunk(3)).model_copy(
        update={"signature": sign(assignment(), SEED).signature}
    )
    with pytest.raises(Untrusted, match="wrong signature"):
        expect_signed(forged, path, SERVER)
    assert not path.exists()


def test_a_server_that_never_signed_need_not(tmp_path: Path):
    expect_signed(assignment(), tmp_path / "signing-key.pub", SERVER)
    assert not (tmp_path / "signing-key.pub").exists()
