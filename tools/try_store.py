"""Try a store of your own as Handcar will use it: python tools/try_store.py TARGET

TARGET is what `handcar publish --store` takes, such as rclone:drive:handcar/trial or
s3://BUCKET/PREFIX. One small file of random bytes is put there, fetched by its link as a
volunteer would, in whole and from the middle on, and removed. The exit code is 0 when
volunteers could fetch from there.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from handcar import files
from handcar.cli import storing
from handcar.errors import HandcarError
from handcar.stores import trial
from handcar.stores.base import OwnStore

BYTES = 2 * files.MB
Row = tuple[str, str, str]


def main() -> int:
    """Run the steps and print a table of them."""
    given = _arguments()
    targets = storing.parse_all([given.target])
    storing.expect_own(targets, "try_store.py")
    rows: list[Row] = []
    began = time.monotonic()
    try:
        with storing.opened(targets, storing.S3Options(given.s3_endpoint, given.s3_links)) as open_:
            rows.append(_row("reach it", "ok", began))
            works = _try(open_[0], rows, given.bytes, keep=given.keep)
    except HandcarError as fault:
        rows.append(_row("reach it", str(fault), began))
        works = False
    print("\n".join(f"{step:<22} {took:>8}  {came}" for step, came, took in rows))
    return 0 if works else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--s3-endpoint")
    parser.add_argument("--s3-links", choices=("public", "signed"), default="public")
    parser.add_argument("--bytes", type=int, default=BYTES, help="Drive asks from 100 MB on")
    parser.add_argument("--keep", action="store_true", help="leave the file there")
    return parser.parse_args()


def _try(store: OwnStore, rows: list[Row], size: int, *, keep: bool) -> bool:
    data = os.urandom(size)
    digest = files.digest(data)

    def step(name: str, do: Callable[[], str]) -> bool:
        began = time.monotonic()
        try:
            came, works = do(), True
        except HandcarError as fault:
            came, works = str(fault), False
        rows.append(_row(name, came, began))
        return works

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial"
        path.write_bytes(data)
        works = (
            step("put a file", lambda: "sent" if store.put(digest, path) else "was there?")
            and step(
                "put it again", lambda: "sent again?" if store.put(digest, path) else "is there"
            )
            and step("its link", lambda: str(store.link(digest)))
            and step("fetch it", lambda: _fetched(store, digest, path))
        )
        if not keep:
            step("remove it", lambda: str(store.remove(digest) or "ok"))
    return works


def _fetched(store: OwnStore, digest: str, path: Path) -> str:
    with trial.client() as client:
        tried = trial.try_link(client, str(store.link(digest)), path)
    told = [f"right bytes by {tried.url}"]
    told.append("goes on after a break" if tried.resumes else "begins anew after a break")
    if tried.by_page:
        told.append("by way of a page that asks")
    if tried.lasts_s is not None:
        told.append(f"for {tried.lasts_s / storing.DAY_S:.3g} days")
    return ", ".join(told)


def _row(step: str, came: str, began: float) -> Row:
    return step, came, f"{time.monotonic() - began:.2f} s"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HandcarError as error:
        sys.exit(f"try_store.py: {error}")
