"""`--store TARGET`: where the owner's bytes go, and that volunteers can fetch them from there.

A target is a place, and behind `=` the address at which everyone may read it, where that is
not the place's own:

    server                         the Handcar server
    FOLDER=https://...             a folder that a web server shows
    s3://BUCKET/PREFIX[=https://...]
    rclone:REMOTE:FOLDER[=https://...]

The first file that is put in a store is fetched by its link, as a volunteer would, before the
others follow: what doesn't work is told after megabytes, not after all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from handcar.cli.client import Api
from handcar.errors import BadInput, StoreFault, Unreachable
from handcar.protocol.messages import LinkRequest, SignedLink

if TYPE_CHECKING:
    from handcar.stores.base import OwnStore, Store
    from handcar.stores.s3 import Links
    from handcar.stores.trial import Tried

Say = Callable[[str], None]

ADDRESS = re.compile(r"(.*)=(https?://\S+)")
BUCKET = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,62})(?:/([A-Za-z0-9/._-]*))?")
EXPECTED = (
    "expected --store server, FOLDER=https://ADDRESS, s3://BUCKET/PREFIX or "
    "rclone:REMOTE:FOLDER, the last two with =https://ADDRESS where it is public at another"
)
DAY_S = 24 * 3600.0
MOST = 8
"""As many links a chunk may have."""

Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--store",
        metavar="TARGET",
        help="Where volunteers fetch it: server, FOLDER=https://ADDRESS, s3://BUCKET/PREFIX or "
        "rclone:REMOTE:FOLDER. Several times for several mirrors.",
    ),
]
S3Endpoint = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Where s3:// buckets are: AWS_ENDPOINT_URL, or Amazon."),
]
S3Links = Annotated[
    Literal["public", "signed", "server"],
    typer.Option(
        help="How volunteers get at s3:// buckets: everyone may read them; by links signed here "
        "for seven days; by links that the server signs."
    ),
]


@dataclass(frozen=True, slots=True)
class Target:
    """One `--store`: what kind of place, which one, and its public address if it has another."""

    kind: Literal["server", "folder", "s3", "rclone"]
    place: str = ""
    address: str | None = None


@dataclass(frozen=True, slots=True)
class S3Options:
    """What all s3:// targets of a command have in common."""

    endpoint: str | None = None
    links: Links = "public"


@dataclass(frozen=True, slots=True)
class File:
    """What is to be stored."""

    digest: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Following:
    """What became of files in one store: their links, in order, and how many were sent."""

    links: list[str | None]
    sent: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of files in all stores: each one's links, and how many were sent."""

    links: list[list[str]]
    sent: int


# -- targets ---------------------------------------------------------------------------------


def parse(text: str) -> Target:
    """Read a `--store`. Raises BadInput that says what can stand there."""
    found = ADDRESS.fullmatch(text)
    place, address = (found[1], found[2]) if found else (text, None)
    if place == "server" and address is None:
        return Target("server")
    if BUCKET.fullmatch(place):
        return Target("s3", place, address)
    if place.startswith("rclone:") and ":" in place.removeprefix("rclone:"):
        return Target("rclone", place.removeprefix("rclone:"), address)
    if address is None or "://" in place or place.partition(":")[0] in ("rclone", "server", ""):
        raise BadInput(f"--store {text}: {EXPECTED}")
    return Target("folder", place, address)


def parse_all(texts: Sequence[str] | None) -> list[Target]:
    """Read all `--store`s, each once."""
    targets = list(dict.fromkeys(parse(text) for text in texts or ()))
    if len(targets) > MOST:
        raise BadInput(f"expected at most {MOST} stores, got {len(targets)}")
    return targets


@contextmanager
def opened(targets: Sequence[Target], s3: S3Options) -> Iterator[list[OwnStore]]:
    """Open the owner's own stores and check each before anything is sent."""
    with ExitStack() as stack:
        stores = []
        for target in targets:
            store = _store(target, s3)
            stack.callback(store.close)
            store.check()
            stores.append(store)
        yield stores


def _store(target: Target, s3: S3Options) -> OwnStore:
    if target.kind == "s3":
        from handcar.stores.s3 import Place, S3Store

        found = BUCKET.fullmatch(target.place)
        bucket, prefix = (found[1], found[2]) if found else ("", "")
        place = Place(bucket, (prefix or "").strip("/"), s3.endpoint, target.address)
        return S3Store(place, "public" if target.address else s3.links)
    if target.kind == "rclone":
        from handcar.stores.rclone import RcloneStore

        return RcloneStore(target.place, target.address)
    from handcar.stores.disk import DiskStore

    return DiskStore(Path(target.place), target.address or "")


# -- storing ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Storing:
    """Puts files in stores. `done(file)` is told of each that is in its place, from any thread."""

    api: Api
    say: Say
    done: Callable[[File], None] = lambda file: None

    def put(self, stores: Sequence[Store], files: Sequence[File]) -> Stored:
        """Store files everywhere; return their links.

        The first file is tried by its link in every store before the others follow.
        """
        if not files:
            return Stored([], 0)
        begun = [self.begin(store, files[0]) for store in stores]
        links, sent = [[link for link, _ in begun]], sum(was_sent for _, was_sent in begun)
        rests = [
            self.follow(store, files[1:], link)
            for store, (link, _) in zip(stores, begun, strict=True)
        ]
        links += [list(row) for row in zip(*(rest.links for rest in rests), strict=True)]
        refuse_double([link for link in links[0] if link])
        return Stored(
            [[link for link in row if link] for row in links],
            sent + sum(rest.sent for rest in rests),
        )

    def begin(self, store: Store, file: File) -> tuple[str | None, bool]:
        """Store one file and fetch it by its link; return the link that works."""
        link, was_sent = self._put(store, file)
        return (self._tried(store, link, file) if link else None), was_sent

    def follow(self, store: Store, files: Sequence[File], first: str | None) -> Following:
        """Store files, several at a time; their links are given the form of the `first` one."""
        with ThreadPoolExecutor(store.parallel) as pool:
            done = list(pool.map(lambda file: self._put(store, file), files))
        return Following([_alike(link, first) for link, _ in done], sum(sent for _, sent in done))

    def _put(self, store: Store, file: File) -> tuple[str | None, bool]:
        was_sent = store.put(file.digest, file.path)
        link = store.link(file.digest)
        self.done(file)
        return link, was_sent

    def _tried(self, store: Store, link: str, file: File) -> str:
        """Return the form of a link that gives the bytes, and say what should be known of it."""
        from handcar.stores import trial
        from handcar.stores.disk import DiskStore

        url = self._signed(link, file.digest) if link.startswith("s3://") else link
        try:
            with trial.client() as client:
                tried = trial.try_link(client, url, file.path)
        except (StoreFault, Unreachable) as fault:
            if not isinstance(store, DiskStore):
                raise
            # A folder may be put where the web server shows it later.
            self.say(f"{store.describe()}: not there for volunteers yet. {fault}")
            return link
        self.say(f"{store.describe()}: volunteers can fetch from there.")
        for warning in _warnings(tried, link):
            self.say(warning)
        return link if link.startswith("s3://") else tried.url

    def _signed(self, link: str, digest: str) -> str:
        asked = LinkRequest(url=link, sha256=digest)
        return SignedLink.model_validate(self.api.post("/links", asked)).url


def _warnings(tried: Tried, link: str) -> Iterator[str]:
    if not tried.resumes:
        yield "  It can't go on where a download broke: volunteers with thin lines begin anew."
    if tried.by_page:
        yield "  It asks to confirm on a page first, which volunteers' programs do."
    if tried.lasts_s is not None and not link.startswith("s3://"):
        days = tried.lasts_s / DAY_S
        yield f"  These links are good for {days:.3g} days: publish again before then."


def _alike(link: str | None, first: str | None) -> str | None:
    """Return a link in the form in which the first one worked."""
    from handcar.stores import links

    if link is None or first is None:
        return link
    host = first.split("/", 3)[2]
    return next((form for form in links.forms(link) if form.split("/", 3)[2] == host), link)


def expect_own(targets: Sequence[Target], command: str) -> None:
    """Raise BadInput unless there is a target, and each is the owner's own."""
    if not targets:
        raise BadInput(f"{command}: {EXPECTED}")
    if any(target.kind == "server" for target in targets):
        raise BadInput(f"{command}: the server holds it anyway; give a store of your own")


def refuse_double(links: Sequence[str]) -> None:
    """Raise StoreFault when two stores are the same place under two names."""
    if len(set(links)) != len(links):
        raise StoreFault("two of the stores give the same link: each mirror must be another place")
