"""What must be there before the server can run: settings, tables, pages, first accounts."""

from __future__ import annotations

import os
from pathlib import Path

import django

from handcar import __version__, files
from handcar.server import home as homes
from handcar.server.home import Home


def prepare(folder: Path) -> Home:
    """Make Django ready for the server in this folder. Comes before any import of models."""
    os.environ[homes.VARIABLE] = str(folder)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "handcar.server.settings")
    django.setup()
    return homes.from_environment()


def first_start(home: Home) -> str:
    """Bring tables, pages and accounts up to date; return the first owner's token."""
    from django.core.management import call_command
    from django.db import connections

    from handcar.server.accounts import services

    call_command("migrate", verbosity=0, interactive=False)
    _collect_static(home)
    token = services.ensure_first_accounts(home)
    connections.close_all()
    return token


def _collect_static(home: Home) -> None:
    """Collect the pages' files, when this Handcar's are other than those collected."""
    from django.core.management import call_command

    marker = home.static / ".collected"
    here = Path(__file__).parent.joinpath("dashboard", "static").rglob("*")
    mark = f"{__version__} {max((path.stat().st_mtime_ns for path in here), default=0)}"
    if marker.is_file() and marker.read_text() == mark:
        return
    call_command("collectstatic", verbosity=0, interactive=False, clear=True)
    files.write(marker, mark.encode())
