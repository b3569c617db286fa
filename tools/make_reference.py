"""Write docs/reference/commands.md and docs/reference/api.md from the program itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs" / "reference"
COMMANDS = [
    "join",
    "list",
    "publish",
    "mirror",
    "plan",
    "status",
    "export",
    "message",
    "pause",
    "resume",
    "finish",
]
COMMANDS += ["serve", "worker", "doctor", "backup", "restore", "move", "demo"]
COMMANDS += ["simulate"]
WIDTH = "100"


def help_of(*command: str) -> str:
    """Return what `handcar COMMAND --help` prints."""
    environment = os.environ | {"COLUMNS": WIDTH, "TERM": "dumb", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "handcar", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def commands() -> str:
    """Return the page of commands."""
    parts = [
        "# Commands",
        "Made by `tools/make_reference.py` from what each command's `--help` prints.",
        "Exit codes: 0 done, 1 failed, 2 bad input, 3 server not reached, 4 the server said "
        "no, 5 disk full, 130 stopped with Ctrl-C.",
        f"```text\n{help_of()}\n```",
    ]
    for command in COMMANDS:
        parts += [f"## handcar {command}", f"```text\n{help_of(command)}\n```"]
    return "\n\n".join(parts) + "\n"


def api(document: dict[str, Any]) -> str:
    """Return the page of the HTTP API."""
    parts = [
        "# HTTP API",
        "Made by `tools/make_reference.py` from the OpenAPI document that the server serves at "
        "`/api/v1/openapi.json`, which also describes every field. Errors are problem documents "
        "(RFC 9457) with a `type`, a `title` and what to do. Tokens go in the `Authorization` "
        "header as `Bearer`.",
    ]
    for path, methods in sorted(document["paths"].items()):
        for method, operation in sorted(methods.items()):
            if method in ("get", "post", "patch", "head", "put", "delete"):
                text = operation.get("description") or operation.get("summary") or ""
                parts += [f"## {method.upper()} {path}", text.strip()]
    return "\n\n".join(part for part in parts if part) + "\n"


def openapi() -> dict[str, Any]:
    """Return the server's OpenAPI document, without starting a server."""
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        os.environ["HANDCAR_SERVER_HOME"] = home
        os.environ["DJANGO_SETTINGS_MODULE"] = "handcar.server.settings"
        import django

        django.setup()
        from django.test import Client

        answer = Client().get("/api/v1/openapi.json")
        return dict(json.loads(answer.content))


if __name__ == "__main__":
    (DOCS / "commands.md").write_text(commands())
    (DOCS / "api.md").write_text(api(openapi()))
