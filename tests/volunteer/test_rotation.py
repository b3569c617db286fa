"""With more chunks than the disk's share holds, each has its turn and one stays."""

from pathlib import Path

import numpy as np
import pytest

from handcar import files
from handcar.data import chunks
from handcar.data.blocks import BlockStore
from handcar.data.order import Sampler
from handcar.errors import HandcarError
from handcar.protocol.messages import ChunkLink
from handcar.volunteer.budget import Allowance
from handcar.volunteer.hosts import Hosts
from handcar.volunteer.line import Line
from handcar.volunteer.rotation import Rotation

RECORDS = 8


def coded(number: int) -> bytes:
    columns = {
        "x": np.full((RECORDS, 2), number, np.uint8),
        "y": np.arange(RECORDS, dtype=np.uint8),
    }
    return chunks.encode(columns, dict.fromkeys(columns, chunks.Choice("plain", "zstd")))


def link(number: int) -> ChunkLink:
    chunk = coded(number)
    return ChunkLink(
        url=f"http://server/{number}",
        sha256=files.digest(chunk),
        size=len(chunk),
        file_name=f"{number}.chunk",
        dataset_name="digits",
        records=RECORDS,
        codec="columns-zstd",
    )


class Here:
    """Two chunks on a real disk, with the sampler that draws from them."""

    def __init__(self, folder: Path) -> None:
        self.links = [link(number) for number in range(2)]
        self.digests = [one.sha256 for one in self.links]
        self.returned: list[str] = []
        self.blocks = BlockStore(folder / "blocks")
        line = Line(Allowance(), folder / "line")
        self.rotation = Rotation(
            self.blocks, Hosts(folder / "hosts"), line, returns=self.returned.append
        )
        self.rotation.use_links(self.links)
        self.sampler = Sampler(self.blocks.open, batch_size=4, seed=0)
        for number in range(2):
            self.blocks.add(self.digests[number], coded(number))

    def begin(self) -> None:
        self.rotation.begin(self.sampler)
        for digest in self.digests:
            self.rotation.add(digest)

    def pass_through(self) -> None:
        while min(self.sampler.passes().values()) < 1:
            self.sampler.draw(1)


@pytest.fixture
def here(tmp_path):
    return Here(tmp_path)


def test_before_training_began_nothing_goes_and_nothing_can_be_added(here: Here):
    here.rotation.let_one_go()
    with pytest.raises(HandcarError, match="not begun"):
        here.rotation.add(here.digests[0])


def test_a_chunk_that_was_not_gone_through_stays_in_training(here: Here):
    here.begin()
    here.rotation.let_one_go()
    assert here.sampler.passes().keys() == set(here.digests)


def test_one_that_was_gone_through_leaves_and_the_last_one_stays(here: Here):
    here.begin()
    here.pass_through()
    here.rotation.let_one_go()
    (stays,) = here.sampler.passes()
    (leaves,) = set(here.digests) - {stays}
    here.rotation.let_one_go()
    assert list(here.sampler.passes()) == [stays]
    wanted = here.rotation.wanted(here.digests)
    assert wanted[stays].fetch_s is None, "training would end without it"
    assert wanted[leaves].fetch_s is not None
    assert wanted[leaves].passes > 0


def test_what_did_not_have_to_go_is_used_again(here: Here):
    here.begin()
    here.pass_through()
    here.rotation.let_one_go()
    (leaves,) = set(here.digests) - here.sampler.passes().keys()
    here.rotation.let_stay()
    assert here.returned == [leaves]
    here.rotation.let_stay()
    assert here.returned == [leaves], "once"


def test_chunks_of_other_tasks_are_not_wanted(here: Here):
    other = files.digest(b"other")
    assert here.rotation.wanted([other, here.digests[0]]).keys() == {here.digests[0]}
