"""Leads Django's connections to another database. For tests."""

from __future__ import annotations

from django.db import connections

from handcar.server import configuration


def use(chosen: configuration.Configuration) -> None:
    """Let Django's connections lead to another database."""
    connections.close_all()
    connections.settings["default"] = connections.configure_settings(
        configuration.databases(chosen)
    )["default"]
    for alias in list(connections):
        if hasattr(connections._connections, alias):
            delattr(connections._connections, alias)
