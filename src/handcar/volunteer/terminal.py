"""The live screen of `handcar join` in a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from handcar.volunteer.screen import Snapshot, line_text, sending_text
from handcar.volunteer.words import duration, size_text

STYLES = {"info": "", "warning": "yellow", "error": "bold red"}


class Terminal:
    """A few lines that change in place; what is said scrolls above them."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, refresh_per_second=4, transient=False)

    def __enter__(self) -> Terminal:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, text: str, level: str = "info", link: str | None = None) -> None:
        """Print a text above the live lines. It may be a stranger's: no markup is read."""
        line = Text(text, style=STYLES.get(level, ""))
        if link:
            line.append(f"  {link}", style="underline")
        self._console.print(line)

    def show(self, snapshot: Snapshot) -> None:
        """Renew the live lines."""
        if snapshot.model_id:
            self._live.update(table_of(snapshot))


def table_of(snapshot: Snapshot) -> Table:
    """Return how things stand as a small table."""
    progress = snapshot.progress
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    doing = "paused" if snapshot.held else f"{progress.steps_per_second:.0f} steps/s"
    loss = "" if progress.loss is None else f"   loss {progress.loss:.4f}"
    version = "fetching" if snapshot.version is None else str(snapshot.version)
    table.add_row("model", Text(f"{snapshot.model_id}   version {version}"))
    table.add_row("training", f"step {progress.steps:,}   {doing}{loss}")
    table.add_row("data", f"{snapshot.chunks} of {snapshot.chunks_in_all} chunks here")
    updates = f"{snapshot.merged_updates} merged   {snapshot.waiting_updates} on their way"
    sending = f"   {sending_text(snapshot.sending)}" if snapshot.sending else ""
    table.add_row("updates", updates + sending)
    table.add_row("line", _line(snapshot))
    return table


def _line(snapshot: Snapshot) -> str:
    used = f"{size_text(snapshot.bytes_up)} up   {size_text(snapshot.bytes_down)} down"
    rates = line_text(snapshot)
    round = duration(snapshot.round_seconds)
    saved = snapshot.bytes_saved and f"{size_text(snapshot.bytes_saved)} saved by coding"
    facts = [
        used,
        saved,
        rates and f"about {rates}",
        snapshot.round_seconds >= 1 and f"rounds of {round}",
    ]
    return "   ".join(fact for fact in facts if fact)
