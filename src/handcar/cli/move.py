"""`handcar move`: from one machine's engines to those of many."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from handcar.cli import options, serve
from handcar.cli.tables import print_json

HELP = """Move a server from SQLite and its disk to PostgreSQL and a bucket, while it runs.

Bytes are copied first, then the server is paused for moments: volunteers train on and try
again. At the end its handcar.toml names the new engines: stop `handcar serve` and start it again.

The bucket's credentials are read from HANDCAR_STORE_KEY and HANDCAR_STORE_SECRET, or where
Amazon's own tools find theirs; HANDCAR_STORE_REGION and HANDCAR_STORE_PUBLIC are read too.

Example: handcar move --database postgresql://handcar:PASSWORD@db/handcar --store s3://bucket
"""
BESIDE = ("store_region", "store_public", "store_key", "store_secret")
"""Read from the environment only."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("move", help=HELP)(move)


def move(
    *,
    database: Annotated[
        str, typer.Option(envvar="HANDCAR_DATABASE", help="Where PostgreSQL is, with no rows yet.")
    ],
    store: Annotated[
        str, typer.Option(envvar="HANDCAR_STORE", help="s3://bucket or s3://bucket/prefix.")
    ],
    store_endpoint: Annotated[
        str,
        typer.Option(envvar="HANDCAR_STORE_ENDPOINT", help="Where the bucket is; else Amazon."),
    ] = "",
    home: serve.Home = None,
    json: options.Json = False,
) -> None:
    """Move a server to PostgreSQL and a bucket."""
    given = {"database": database, "store": store, "store_endpoint": store_endpoint}
    # What is named for the new place must not be taken for what the server has now.
    told = {name: os.environ.pop(f"HANDCAR_{name.upper()}", "") for name in (*given, *BESIDE)}
    given |= {name: told[name] for name in BESIDE}
    from handcar.server import setup

    prepared = setup.prepare(serve.existing(home))
    from handcar.server import moving

    to = moving.target(prepared, {name: value for name, value in given.items() if value})
    report = moving.move(prepared, to, say=(lambda text: None) if json else print)
    if json:
        facts = {"rows": report.rows, "blobs": report.blobs, "paused_s": report.paused_s}
        print_json({**facts, "settings": str(to.file)})
    else:
        print(
            f"Moved {report.rows:,} rows and {report.blobs:,} files; the server was paused for "
            f"{report.paused_s:.1f} s. Stop `handcar serve` and start it again: {to.file} names "
            "the new engines. When all is well, db.sqlite3 and blobs/ may go."
        )
