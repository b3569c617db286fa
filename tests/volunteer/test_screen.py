"""What a person and a program see of the line and of an update on its way."""

import io
import json

from rich.console import Console

from handcar.volunteer import screen, terminal
from handcar.volunteer.screen import JsonLines, Plain, Sending, Snapshot

SHOWN = Snapshot(
    model_id="digits",
    version=3,
    up_bytes_per_s=1.2e6 / 8,
    down_bytes_per_s=2e6,
    sending=Sending(1_200_000, 2_500_000),
    round_seconds=167,
)


def test_a_line_of_text_tells_how_far_an_update_is():
    out = io.StringIO()
    Plain(out).show(SHOWN)
    assert "sending 1.2 MB of 2.5 MB (48%)" in out.getvalue()


def test_programs_read_the_same_as_numbers():
    out = io.StringIO()
    JsonLines(out).show(SHOWN)
    told = json.loads(out.getvalue())
    assert told["sending"] == {"bytes_sent": 1_200_000, "bytes_in_all": 2_500_000}
    assert (told["up_bytes_per_s"], told["round_seconds"]) == (150_000, 167)


def test_the_live_screen_shows_the_line_and_the_round():
    console = Console(file=io.StringIO(), width=120)
    console.print(terminal.table_of(SHOWN))
    text = console.file.getvalue()
    assert "sending 1.2 MB of 2.5 MB (48%)" in text
    assert "about 1.2 Mbit/s up   16 Mbit/s down   rounds of 3 minutes" in text


def test_nothing_is_said_of_a_line_that_is_not_known():
    console = Console(file=io.StringIO(), width=120)
    console.print(terminal.table_of(Snapshot(model_id="digits")))
    assert "about" not in console.file.getvalue()
    assert "sending" not in screen.line_of(Snapshot(model_id="digits"))
