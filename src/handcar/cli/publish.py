"""`handcar publish`: a model file and its data, from the owner's disk to volunteers."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handcar.cli import importing, options, storing
from handcar.cli.client import Api
from handcar.cli.storing import S3Options, Target
from handcar.cli.tables import print_json, size_text
from handcar.errors import BadInput, DataError, HandcarError, ModelFileError, Unreachable
from handcar.protocol.messages import ChunkEntry, Manifest, ModelStatus, PublishRequest

if TYPE_CHECKING:
    from handcar.data.cut import CutChunk
    from handcar.data.importers import Source
    from handcar.modelfile.schema import ModelFile
    from handcar.stores.handcar import HandcarStore

HELP = """Check a model file and its data, send both to the server, and wait until it is ready.

Repeating the command is harmless: it goes on where it was.

Example: handcar publish model.json data.npz --server https://train.example.org
"""
POLL_S = 0.5
PATIENCE_S = 60.0
"""How long a server may be silent, and prepare without a word to the person."""
LINE_S = 5.0
STALE_S = 24 * 3600.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("publish", help=HELP)(publish)


def publish(  # noqa: PLR0913 - options of a command
    model: Annotated[Path, typer.Argument(help="The model file (JSON).")],
    data: Annotated[
        Path | None,
        typer.Argument(help="The data, a file or a folder; by default the model file names it."),
    ] = None,
    *,
    label: importing.Label = None,
    size: importing.Size = None,
    window: importing.Window = None,
    tokenizer: importing.Tokenizer = None,
    seconds: importing.Seconds = None,
    test: importing.Test = None,
    lossy_quality: importing.LossyQuality = None,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    check: Annotated[bool, typer.Option("--check", help="Only check; send nothing.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check and cut, send nothing; tell sizes and how long all takes."
        ),
    ] = False,
    store: storing.Targets = None,
    s3_endpoint: storing.S3Endpoint = None,
    s3_links: storing.S3Links = "public",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until it can be trained.")
    ] = True,
    json: options.Json = False,
) -> None:
    """Check a model file and its data, send both to the server, and wait until it is ready."""
    stores = _Stores(storing.parse_all(store), storing.S3Options(s3_endpoint, s3_links))
    say = _say_nothing if json else _say
    wanted = importing.Wanted(
        label, size, window, tokenizer, seconds, test, lossy_quality, bar=not json
    )
    with _scratch() as folder:
        try:
            checked = _checked(model, data, folder, wanted)
        except BadInput as error:
            if (check or dry_run) and json:
                print_json({"ok": False, "problems": str(error).splitlines()})
                raise typer.Exit(error.exit_code) from None
            raise
        with checked.source:
            say(checked.source.describe())
            if check:
                _show_check(checked, json)
                return
            if dry_run:
                _show_plan(checked, folder, stores, json)
                return
            url = options.address(server)
            sending = _Sending(Api(url, options.known_owner_token(url, token)), folder, stores, say)
            facts = sending.run(checked, bar=not json)
    _finish(sending.api, facts, wait=wait, json=json)


# -- checking --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Checked:
    """A model file and data that fit each other."""

    raw: bytes
    model_file: ModelFile
    source: Source
    wanted: importing.Wanted

    def cut(self, folder: Path) -> list[CutChunk]:
        """Cut the data into chunks, as files in a folder."""
        return importing.cut(self.source, self.model_file, self.wanted, folder)


def _checked(model: Path, data: Path | None, folder: Path, wanted: importing.Wanted) -> _Checked:
    """Read and compare both. Raises BadInput with every problem found, one a line."""
    problems: list[str] = []
    raw, model_file = _read_model(model, problems)
    path = data or _data_beside(model, model_file, problems)
    source = None
    if path is not None:
        try:
            source = importing.read(path, wanted, model, model_file, folder)
        except DataError as error:
            problems.append(str(error))
    if model_file is not None and source is not None:
        problems += importing.misfits(model_file, source)
        if not problems:
            return _Checked(raw, model_file, source, wanted)
    raise BadInput("\n".join(problems))


def _read_model(model: Path, problems: list[str]) -> tuple[bytes, ModelFile | None]:
    from handcar.modelfile.check import check

    try:
        raw = model.read_bytes()
        return raw, check(raw)
    except OSError as error:
        problems.append(f"{model}: can't be read: {error.strerror}")
    except ModelFileError as error:
        problems += [f"{model}: {problem}" for problem in error.problems]
    return b"", None


def _data_beside(model: Path, model_file: ModelFile | None, problems: list[str]) -> Path | None:
    if model_file is None:
        return None
    if model_file.dataset.file is None:
        problems.append(
            f"{model}: names no data: set dataset.file, or say `handcar publish {model} DATA`"
        )
        return None
    return model.parent / model_file.dataset.file


def _show_check(checked: _Checked, json: bool) -> None:
    from handcar.modelfile.shapes import infer

    source, weights = checked.source, infer(checked.model_file).layout.size
    if json:
        facts = {"records": source.records, "shape": source.x.shape, "classes": source.classes}
        facts |= importing.facts(source)
        print_json({"ok": True, "model": checked.model_file.name, "weights": weights, **facts})
    else:
        print(f"ok: the model {checked.model_file.name} has {weights:,} weights and fits the data.")


def _show_plan(checked: _Checked, folder: Path, stores: _Stores, json: bool) -> None:
    """Cut, and tell what there would be to send, fetch and keep."""
    from handcar.cli import dryrun
    from handcar.modelfile.shapes import infer

    source, chunks = checked.source, checked.cut(folder)
    train = [chunk for chunk in chunks if chunk.split == "train"]
    record_bytes = sum(column.record_bytes for column in source.train.values())
    sizes = dryrun.Sizes(
        model_file=len(checked.raw),
        weights=infer(checked.model_file).layout.size,
        train=tuple(chunk.size for chunk in train),
        validation=sum(chunk.size for chunk in chunks) - sum(chunk.size for chunk in train),
        decoded=sum(chunk.records for chunk in train) * record_bytes,
        stores=len(stores.own) + stores.on_server,
    )
    if json:
        found = {"model": checked.model_file.name, "weights": sizes.weights}
        print_json(dryrun.facts(sizes, {**found, "records": source.records}))
        return
    print(
        f"{source.records:,} records in {len(train)} chunks to train, "
        f"{size_text(sum(sizes.train))}, and {len(chunks) - len(train)} to validate."
    )
    print(dryrun.text(sizes))


# -- sending ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stores:
    """Where the training chunks go; the server always holds the validation chunks."""

    targets: list[Target]
    s3: S3Options

    @property
    def own(self) -> list[Target]:
        """Those of the owner."""
        return [target for target in self.targets if target.kind != "server"]

    @property
    def on_server(self) -> bool:
        """Whether the server holds the training chunks too."""
        return not self.own or len(self.own) < len(self.targets)


@dataclass(frozen=True)
class _Sending:
    api: Api
    folder: Path
    stores: _Stores
    say: Callable[[str], None]

    def run(self, checked: _Checked, *, bar: bool) -> dict[str, Any]:
        """Cut, store, publish; return what came of it."""
        self.api.get("/health")  # a wrong address is told now, not after minutes of cutting
        dataset = checked.model_file.dataset
        chunks = checked.cut(self.folder)
        total = sum(chunk.size for chunk in chunks)
        training = sum(chunk.split == "train" for chunk in chunks)
        self.say(
            f"Cut into {training} chunks to train and {len(chunks) - training} to validate, "
            f"{size_text(total)} in all."
        )
        if quality := checked.wanted.lossy_quality:
            self.say(f"Pictures are coded as JPEG of quality {quality}: some of each is lost.")
        entries, sent = self._store(chunks, bar)
        manifest = Manifest(
            name=dataset.name,
            description=importing.description(dataset.description, checked.source),
            licence=dataset.licence,
            chunks=tuple(entries),
        )
        request = PublishRequest(model_file=checked.raw.decode(), manifest=manifest)
        status = ModelStatus.model_validate(self.api.post("/models", request))
        return {
            "model": status.id,
            "state": status.state,
            "records": checked.source.records,
            "chunks": len(chunks),
            "chunks_sent": sent,
            "bytes": total,
        }

    def _store(self, chunks: list[CutChunk], bar: bool) -> tuple[list[ChunkEntry], int]:
        """Store every chunk that is not there; return their entries, and how many were sent."""
        elsewhere = _files(chunks, "train") if self.stores.own else []
        # The server measures on the validation chunks, so it always holds those.
        here = _files(chunks, "validation")
        if self.stores.on_server:
            here = _files(chunks, "train") + here
        puts = elsewhere * len(self.stores.own) + here
        with (
            storing.opened(self.stores.own, self.stores.s3) as own,
            _meter(sum(file.size for file in puts), bar) as meter,
            self._server_store(meter) as server,
        ):
            put = storing.Storing(self.api, self.say, lambda file: meter.finish(file.size))
            stored = put.put(own, elsewhere)
            sent = stored.sent + put.put([server], here).sent
        self.say(f"{sent} chunks stored, {len(puts) - sent} were there already.")
        links = {file.digest: links for file, links in zip(elsewhere, stored.links, strict=True)}
        return [_entry(chunk, links.get(chunk.digest, [])) for chunk in chunks], sent

    def _server_store(self, meter: _Meter) -> closing[HandcarStore]:
        from handcar.stores.handcar import HandcarStore

        api = self.api
        return closing(HandcarStore(api.server, api.token, on_bytes=meter.add, sleep=self._pause))

    def _pause(self, seconds: float) -> None:
        self.say(f"The line to the server broke; going on in {seconds:.0f} s.")
        time.sleep(seconds)


def _files(chunks: list[CutChunk], split: str) -> list[storing.File]:
    return [
        storing.File(chunk.digest, chunk.path, chunk.size)
        for chunk in chunks
        if chunk.split == split
    ]


def _entry(chunk: CutChunk, links: list[str]) -> ChunkEntry:
    return ChunkEntry(
        sha256=chunk.digest,
        size=chunk.size,
        records=chunk.records,
        decoded=chunk.decoded,
        file_name=chunk.file_name,
        codec=chunk.codec,
        split=chunk.split,
        urls=tuple(links),
    )


# -- afterwards ------------------------------------------------------------------------------


def _finish(api: Api, facts: dict[str, Any], *, wait: bool, json: bool) -> None:
    say = _say_nothing if json else _say
    if wait and facts["state"] == "preparing":
        say("The server prepares version 0 ...")
        facts = {**facts, "state": _wait_until_ready(api, facts["model"], say).state}
    page, join = f"{api.server}/models/{facts['model']}/", f"handcar join {api.server}"
    if json:
        print_json({**facts, "page": page, "join": join})
        return
    say(f"{facts['model']} is {facts['state']}. Its page: {page}")
    say(f"Volunteers join with:\n\n    {join}\n")


def _wait_until_ready(api: Api, model: str, say: Callable[[str], None]) -> ModelStatus:
    began = heard = time.monotonic()
    told = False
    while True:
        try:
            status = ModelStatus.model_validate(api.get(f"/models/{model}"))
            heard = time.monotonic()
        except Unreachable:
            if time.monotonic() - heard > PATIENCE_S:
                raise
        else:
            if status.state == "failed":
                raise HandcarError(f"{model} can't be trained: {status.failure}")
            if status.state != "preparing":
                return status
            if not told and time.monotonic() - began > PATIENCE_S:
                say("Still preparing; does the server's worker run? Ctrl-C leaves it to that.")
                told = True
        time.sleep(POLL_S)


# -- showing ---------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, flush=True)


def _say_nothing(_: str) -> None:
    pass


class _Meter:
    """Counts bytes stored, over all chunks, and shows the sum. Told from several threads."""

    def __init__(self, show: Callable[[int], None]) -> None:
        self._show = show
        self._lock = threading.Lock()
        self._finished = 0
        self._within = 0

    def add(self, count: int) -> None:
        """Count bytes of the chunk under way."""
        self._within += count
        self._show(self._finished + self._within)

    def finish(self, size: int) -> None:
        """Count a whole chunk, whatever was sent of it."""
        with self._lock:
            self._finished += size
            self._within = 0
            self._show(self._finished)


@contextmanager
def _meter(total: int, bar: bool) -> Iterator[_Meter]:
    if not bar:
        yield _Meter(lambda count: None)
    elif not sys.stdout.isatty():
        yield _Meter(_Lines(total).show)
    else:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        with Progress("Storing", BarColumn(), DownloadColumn(), TimeRemainingColumn()) as progress:
            task = progress.add_task("", total=total)
            yield _Meter(lambda count: progress.update(task, completed=count))


class _Lines:
    """A line now and then, where there is no terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._shown_at = time.monotonic()

    def show(self, count: int) -> None:
        """Print how much is stored, unless that was just done."""
        now = time.monotonic()
        if now - self._shown_at >= LINE_S:
            self._shown_at = now
            _say(f"Stored {size_text(count)} of {size_text(self._total)}")


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a folder for what is unpacked and cut: not in /tmp, which may lie in memory."""
    home = options.home()
    home.mkdir(parents=True, exist_ok=True)
    for left in home.glob("publish-*"):  # what a kill left behind
        if time.time() - left.stat().st_mtime > STALE_S:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="publish-", dir=home) as folder:
        yield Path(folder)
