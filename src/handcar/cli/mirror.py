"""`handcar mirror`: a model's versions, kept in the owner's own stores as well.

What is put there, and when it left the server's list, is noted in a file of the owner's, so
that the command may be killed and started again, or run by cron with `--once`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handcar import files
from handcar.cli import options, storing
from handcar.cli.client import Api
from handcar.cli.storing import File, S3Options, Storing, Target
from handcar.cli.tables import size_text
from handcar.errors import Unreachable
from handcar.protocol.messages import Export, Link, MirrorsRequest, Series

if TYPE_CHECKING:
    from handcar.stores.base import OwnStore

HELP = """Keep a model's versions in stores of your own too, where volunteers may fetch them.

It goes on until it is stopped, and looks for new versions once a minute.

Example: handcar mirror digits --store rclone:drive:handcar/digits
"""
POLL_S = 60.0
SETTLED_S = 3600.0
"""How long a frame that is no longer listed stays: somebody may be fetching it."""
RENEW_S = 3 * 24 * 3600.0
"""When links that are signed for seven days are told anew."""
KEYFRAMES_KEPT = 3


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("mirror", help=HELP)(mirror)


def mirror(  # noqa: PLR0913 - options of a command
    model: Annotated[str, typer.Argument(help="The model's name.")],
    *,
    store: storing.Targets = None,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    s3_endpoint: storing.S3Endpoint = None,
    s3_links: storing.S3Links = "public",
    keep: Annotated[
        int, typer.Option(min=1, metavar="N", help="Keep the newest N keyframes there.")
    ] = KEYFRAMES_KEPT,
    once: Annotated[bool, typer.Option("--once", help="Do it once and end, for cron.")] = False,
) -> None:
    """Keep a model's versions in stores of the owner's own as well."""
    targets = storing.parse_all(store)
    storing.expect_own(targets, "handcar mirror")
    url = options.address(server)
    api = Api(url, options.known_owner_token(url, token))
    with storing.opened(targets, S3Options(s3_endpoint, s3_links)) as stores:
        notes = _notes(url, model, targets)
        mirroring = Mirroring(api, model, stores, notes, keep, print)
        while True:
            _once(mirroring, patient=not once)
            if once:
                return
            time.sleep(POLL_S)


def _once(mirroring: Mirroring, *, patient: bool) -> None:
    try:
        mirroring.once(time.time())
    except Unreachable as fault:
        if not patient:
            raise
        print(f"{fault}; trying again in a minute", flush=True)


# -- what is there ---------------------------------------------------------------------------


@dataclass
class Noted:
    """One thing that is in the stores. Times in seconds since 1970."""

    kind: str
    version: int
    links: list[str]
    told_at: float
    left_at: float | None = None
    """When it was first seen to be listed no more."""


@dataclass
class Notes:
    """What is in the stores, by digest."""

    path: Path
    held: dict[str, Noted] = field(default_factory=dict)

    def save(self) -> None:
        """Write it down."""
        files.write_json(self.path, {digest: asdict(noted) for digest, noted in self.held.items()})

    def superfluous(self, listed: set[str], keep: int, now: float) -> list[str]:
        """Return what may go: frames that left the list a while ago, but for `keep` keyframes."""
        for digest, noted in self.held.items():
            if digest in listed:
                noted.left_at = None
            elif noted.left_at is None:
                noted.left_at = now
        kept = sorted(
            (noted.version for noted in self.held.values() if noted.kind == "keyframe"),
            reverse=True,
        )[:keep]
        return [
            digest
            for digest, noted in self.held.items()
            if noted.left_at is not None
            and now - noted.left_at >= SETTLED_S
            and not (noted.kind == "keyframe" and noted.version in kept)
        ]


def _notes(server: str, model: str, targets: list[Target]) -> Notes:
    """Read what an earlier run noted of the same model and stores."""
    name = json.dumps([server, model, [asdict(target) for target in targets]], sort_keys=True)
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    path = options.home() / "mirrors" / f"{model}-{digest}.json"
    if not path.is_file():
        return Notes(path)
    held = json.loads(path.read_text())
    return Notes(path, {digest: Noted(**noted) for digest, noted in held.items()})


# -- one look --------------------------------------------------------------------------------


@dataclass
class Mirroring:
    """Brings stores to where the server is."""

    api: Api
    model: str
    stores: list[OwnStore]
    notes: Notes
    keep: int
    say: Callable[[str], None]
    forms: list[str | None] = field(default_factory=list)
    """By store: the link that was tried, whose form the others get."""

    def once(self, now: float) -> None:
        """Store what is new, tell the server, let go of what is old."""
        listed = self._listed()
        new = {digest: row for digest, row in listed.items() if digest not in self.notes.held}
        for digest, (kind, version, link) in new.items():
            urls = self._store(link)
            self.notes.held[digest] = Noted(kind, version, urls, now)
            self._tell({digest: urls})
            self.notes.save()
            named = "the model file" if kind == "model" else f"version {version}, {kind}"
            self.say(f"{self.model}: {named}, {size_text(link.size)}")
        self._renew(set(listed) - set(new), now)
        self._let_go(set(listed), now)
        self.notes.save()

    def _listed(self) -> dict[str, tuple[str, int, Link]]:
        """Return what the server lists, keyframe first: (kind, version, link) by digest."""
        series = Series.model_validate(self.api.get(f"/series/{self.model}"))
        frames = [series.keyframe, *series.deltas]
        # Of the keyframe's version, which is there: of others one would be made first.
        export = Export.model_validate(
            self.api.get(f"/models/{self.model}/export", {"version": str(series.keyframe.version)})
        )
        model_file = export.configuration
        listed: dict[str, tuple[str, int, Link]] = {
            frame.sha256: (frame.kind, frame.version, frame) for frame in frames
        }
        return {**listed, model_file.sha256: ("model", 0, model_file)}

    def _store(self, link: Link) -> list[str]:
        """Fetch bytes from the server and put them in every store; return their links."""
        from handcar.stores import http, trial

        put = Storing(self.api, self.say)
        # Not in /tmp, which may lie in memory.
        self.notes.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix="frame-", dir=self.notes.path.parent)
        with scratch as folder, trial.client() as client:
            path = Path(folder) / "frame"
            http.fetch(
                client, link.url, path=path, size=link.size, sha256=link.sha256, on_bytes=_nothing
            )
            file = File(link.sha256, path, link.size)
            if not self.forms:
                self.forms = [put.begin(store, file)[0] for store in self.stores]
                return [form for form in self.forms if form]
            followed = [
                put.follow(store, [file], form).links[0]
                for store, form in zip(self.stores, self.forms, strict=True)
            ]
            return [url for url in followed if url]

    def _renew(self, digests: set[str], now: float) -> None:
        """Make signed links anew that would soon be good no more."""
        from handcar.stores.links import lasts_s

        held = self.notes.held
        old = {
            digest
            for digest in digests
            if now - held[digest].told_at > RENEW_S and any(map(lasts_s, held[digest].links))
        }
        for digest in old:
            noted = self.notes.held[digest]
            links = [store.link(digest) for store in self.stores]
            noted.links, noted.told_at = [link for link in links if link], now
        self._tell({digest: self.notes.held[digest].links for digest in old})

    def _let_go(self, listed: set[str], now: float) -> None:
        for digest in self.notes.superfluous(listed, self.keep, now):
            for store in self.stores:
                store.remove(digest)
            noted = self.notes.held.pop(digest)
            self.say(f"{self.model}: version {noted.version}, {noted.kind}, is kept no longer")

    def _tell(self, urls: dict[str, list[str]]) -> None:
        if urls:
            told = {digest: tuple(links) for digest, links in urls.items()}
            self.api.post(f"/models/{self.model}/mirrors", MirrorsRequest(links=told))


def _nothing(count: int) -> None:
    pass
