"""Which chunks training uses when the disk's share is too small for all: they take turns.

What is in use makes no room, and with few chunks all are in use, one pass after the other. So
training stops using the chunk that it went through most, that one goes, and another comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from handcar.data.blocks import BlockStore, Wanted
from handcar.data.eviction import whose_turn
from handcar.data.order import Sampler
from handcar.errors import HandcarError
from handcar.protocol.messages import ChunkLink
from handcar.volunteer.downloads import FLOOR_BYTES_PER_S
from handcar.volunteer.hosts import Hosts
from handcar.volunteer.line import Line


class Rotation:
    """The chunks of the task at hand. `returns` is told of one that training is to use again."""

    def __init__(
        self, blocks: BlockStore, hosts: Hosts, line: Line, *, returns: Callable[[str], None]
    ) -> None:
        self.links: Mapping[str, ChunkLink] = {}
        """By the chunks' digests."""
        self._blocks = blocks
        self._hosts = hosts
        self._line = line
        self._returns = returns
        self._sampler: Sampler | None = None
        self._came: dict[str, int] = {}
        """The passes that each chunk counted when it came: a new one begins with the others'."""
        self._leaving: set[str] = set()
        """Chunks that training is to use no more, so that one that is to come finds room."""

    def use_links(self, links: Iterable[ChunkLink]) -> None:
        """Take the chunks of an assignment, and let the disk know which are wanted."""
        self.links = {link.sha256: link for link in links}
        self._blocks.wanted = self.wanted

    def begin(self, sampler: Sampler) -> None:
        """Training draws its records from this sampler."""
        self._sampler = sampler

    def add(self, digest: str) -> None:
        """Let training use one more chunk. Raises HandcarError before it began."""
        sampler = self._required_sampler()
        sampler.add(digest)
        self._came[digest] = sampler.passes()[digest]

    def remove(self, digest: str) -> None:
        """Let training expect a chunk no more. Raises HandcarError before it began."""
        self._required_sampler().remove(digest)
        self._came.pop(digest, None)

    def wanted(self, digests: Iterable[str]) -> Mapping[str, Wanted]:
        """Return which of these chunks are the task's, and what each is worth on the disk."""
        links, came = self.links, self._came
        passes = self._sampler.passes() if self._sampler else {}
        passes |= {digest: came.get(digest, 0) + 1 for digest in self._leaving}
        since = {
            digest: passes.get(digest, 0) - came.get(digest, 0)
            for digest in digests
            if digest in links
        }
        # One stays whatever comes: training ends when it has none.
        training = (since.keys() & passes.keys()) - self._leaving
        stays = min(sorted(training), key=since.__getitem__, default=None)
        rate = self._line.down_expected() or FLOOR_BYTES_PER_S
        return {
            digest: Wanted(None if digest == stays else self._fetch_s(links[digest], rate), count)
            for digest, count in since.items()
        }

    def let_one_go(self) -> None:
        """Take a chunk out of training, so that it makes room. One stays."""
        if self._sampler is None:
            return
        passes = self._sampler.passes()
        since = {digest: count - self._came.get(digest, count) for digest, count in passes.items()}
        here = self._leaving & set(self._blocks.digests())
        sizes = {digest: self.links[digest].size for digest in since.keys() | here}
        leaves, returns = whose_turn(since, here, sizes)
        if leaves is not None:
            self._leaving.add(leaves)
            self._sampler.remove(leaves)
        if returns is not None:
            self._leaving.discard(returns)
            self._returns(returns)

    def let_stay(self) -> None:
        """Take those back into training that did not have to go in the end."""
        here = set(self._blocks.digests())
        while self._leaving:
            digest = self._leaving.pop()
            if digest in here:
                self._returns(digest)

    def _fetch_s(self, link: ChunkLink, rate: float) -> float:
        return self._hosts.seconds_for([link.url, *link.mirrors], link.size, rate)

    def _required_sampler(self) -> Sampler:
        if self._sampler is None:
            raise HandcarError("training has not begun yet")
        return self._sampler
