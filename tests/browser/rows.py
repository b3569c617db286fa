"""Make rows in a server's database, as weeks of training would: `rows.py HOME WHAT...`.

Run as a process of its own, so that Django has the settings of that server and no other's.
"""

from __future__ import annotations

import hashlib
import math
import random
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from handcar.server import setup

MODEL = "digits-convnet"
HOSTILE = '<script>document.title = "owned"</script><b>bold</b>'
VERSIONS = 84
MACHINES = (
    ("quiet-otter", "training"),
    ("Ana’s laptop", "training"),
    ("physics-lab-07", "training"),
    ("blue-kestrel", "downloading"),
    ("attic-box", "paused"),
)
GONE = ("old-imac", "nightshift", "marmot", "the-green-one", "pi-cluster-3")


def main(home: Path, *wanted: str) -> None:
    setup.prepare(home)
    makers = {"models": models, "hostile": hostile, "version": add_version}
    for what in wanted:
        makers[what]()


def models() -> None:
    """A model in full training, and models in other states."""
    from handcar.server.catalog.models import TrainingModel

    digits = dataset("handwritten-digits", chunks=24, licence="CC BY-SA 3.0")
    model(
        MODEL,
        digits,
        state="pending",
        description=(
            "A small convolutional network that reads handwritten digits.\n"
            "Trained by the evening class of the village school."
        ),
        records_wanted=12_000_000,
        weights=109_386,
    )
    versions(MODEL, VERSIONS)
    people(MODEL)
    birds = dataset("dawn-chorus", chunks=310, licence="")
    model("bird-song", birds, state="pending", description="Which bird sings?", weights=4_812_033)
    version("bird-song", 0, now() - timedelta(hours=5))
    model("first-try", digits, state="finished", description="Our first network.", weights=7_850)
    versions("first-try", 12)
    model("on-hold", digits, state="paused", description="Back after the holidays.", weights=7_850)
    versions("on-hold", 3)
    failed = model("too-large", birds, state="failed", description="", weights=900_000_000)
    TrainingModel.objects.filter(pk=failed).update(failure="its weights need 3.6 GB of memory")


def dataset(name: str, *, chunks: int, licence: str) -> Any:
    from handcar.server.accounts.models import Owner
    from handcar.server.catalog.models import Chunk, Dataset

    row = Dataset.objects.create(
        name=name,
        description="28 x 28 pixels in grey, ten classes, written by 250 people.",
        licence=licence,
        content_digest=digest(name),
        owner=Owner.objects.first(),
        chunks=chunks,
        size=sum(1_240_000 + 311 * index for index in range(chunks)),
        records=2_500 * chunks,
        first_size=1_240_000,
    )
    Chunk.objects.bulk_create(
        Chunk(
            dataset=row,
            index=index,
            split="train",
            digest=digest(f"{name} {index}"),
            size=1_240_000 + 311 * index,
            records=2_500,
            file_name=f"{index}.chunk",
            codec="zstd",
            urls=["https://example.org/"],
            on_server=False,
        )
        for index in range(chunks)
    )
    return row


def model(name: str, data: Any, **facts: Any) -> str:
    from handcar.server.catalog.models import TrainingModel

    row = TrainingModel.objects.create(
        id=name,
        model_file="{}",
        model_file_digest=digest(name),
        model_file_size=1_900,
        dataset=data,
        owner=data.owner,
        batch_size=64,
        round_steps=400,
        round_seconds=300.0,
        prepare_attempts=99,
        **facts,
    )
    return row.pk


def versions(name: str, newest: int) -> None:
    """Versions 0 to `newest`, half an hour apart, with a loss that falls as losses do."""
    for number in range(newest + 1):
        version(name, number, now() - timedelta(minutes=4 + 31 * (newest - number)))


def version(name: str, number: int, published_at: datetime) -> None:
    from handcar.server.rounds.models import Version

    noise = random.Random(f"{name} {number}").gauss(0, 1)
    Version.objects.create(
        model_id=name,
        number=number,
        weights_sha256=digest(f"{name} {number}"),
        delta_size=0 if number == 0 else 61_000 + int(4_000 * noise),
        keyframe_digest=digest(f"keyframe of {name}") if number == 0 else None,
        keyframe_size=221_000 if number == 0 else None,
        delta_digest=None if number == 0 else digest(f"delta {name} {number}"),
        updates=0 if number == 0 else 4 + number % 3,
        updates_merged=sum(4 + one % 3 for one in range(1, number + 1)),
        begin_bytes=221_000 + 61_000 * number,
        records_merged=number * 94_208,
        loss=0.11 + 2.19 * math.exp(-number / 11) * (1 + 0.05 * noise) + 0.004 * noise,
        accuracy=min(0.995, 0.968 - 0.86 * math.exp(-number / 8) + 0.003 * noise),
        evaluated_at=published_at,
        evaluation_attempts=99,
        published_at=published_at,
    )


def people(name: str) -> None:
    """Machines that train now, and some that went."""
    for number, (who, activity) in enumerate(MACHINES):
        machine(
            name, number, who, activity=activity, heard_at=now() - timedelta(seconds=9 * number)
        )
    for number, who in enumerate(GONE, start=len(MACHINES)):
        heard_at = now() - timedelta(hours=7 * number - 30)
        machine(name, number, who, activity="training", heard_at=heard_at)


def machine(name: str, number: int, who: str, **facts: Any) -> None:
    from django.db.models import F

    from handcar.server.accounts.models import Volunteer
    from handcar.server.catalog.models import TrainingModel
    from handcar.server.rounds.models import Participation, Update

    chance = random.Random(number)
    merged = 0 if facts["activity"] == "downloading" else chance.randrange(8, 96)
    volunteer = Volunteer.objects.create(
        name=who, token_hash=digest(f"{who} {number}")[7:], client_version="0.1.0"
    )
    Participation.objects.create(
        volunteer=volunteer,
        model_id=name,
        number=number,
        version=VERSIONS - number % 2,
        step=merged * 400,
        records=merged * 25_600,
        steps_per_second=0.0 if facts["activity"] != "training" else chance.uniform(3, 40),
        loss=chance.uniform(0.1, 0.16) if merged else None,
        chunks=chance.randrange(3, 24),
        bytes_up=merged * 58_300,
        bytes_down=4_900_000 + merged * 150_000,
        updates_merged=merged,
        **facts,
    )
    Update.objects.bulk_create(update(volunteer, name, size) for size in [58_300] * merged)
    TrainingModel.objects.filter(id=name).update(
        updates_received=F("updates_received") + merged,
        bytes_received=F("bytes_received") + 58_300 * merged,
    )


def update(volunteer: Any, name: str, size: int) -> Any:
    from handcar.server.rounds.models import MERGED, Update, Version

    return Update(
        volunteer=volunteer,
        model_id=name,
        base_version=0,
        seed=0,
        steps=400,
        records=25_600,
        seconds=280.0,
        size=size,
        sha256=digest("an update"),
        state=MERGED,
        version=Version.objects.filter(model_id=name).first(),
        announced_at=now(),
        received_at=now(),
        checked_at=now(),
    )


def add_version() -> None:
    """The server has just merged another version."""
    version(MODEL, VERSIONS + 1, now())


def hostile() -> None:
    """A volunteer and an owner whose texts are markup."""
    from handcar.server.catalog.models import TrainingModel

    machine("on-hold", 90, HOSTILE, activity="training", heard_at=now())
    TrainingModel.objects.filter(pk="on-hold").update(description=HOSTILE)


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def now() -> datetime:
    from django.utils import timezone

    return timezone.now()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
