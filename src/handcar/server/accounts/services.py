"""Join, know again by token, and the accounts of the first start.

A token is 256 random bits, so its plain SHA-256 is enough to know it by: there is nothing
to guess, and a stolen table of hashes gives no token away.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from django.contrib.auth.models import User
from django.db import transaction

from handcar.protocol import limits, problems
from handcar.protocol.messages import JoinReply, JoinRequest
from handcar.server.accounts.models import Owner, Volunteer
from handcar.server.home import Home, write_secret
from handcar.server.memory import Kept
from handcar.server.problems import Refusal

VOLUNTEER_PREFIX = "hcv_"
OWNER_PREFIX = "hco_"
KNOWN_S = 600.0
"""For so long a token works on that was taken back."""
_known: Kept[Volunteer] = Kept(KNOWN_S, most=100_000)
UPGRADE = "pip install --upgrade handcar"


def join(request: JoinRequest) -> JoinReply:
    """Make a volunteer, and the token that it is known by from now on."""
    if not speaks_our_protocol(request.protocol_version):
        raise Refusal(problems.CLIENT_TOO_OLD, upgrade_text(request.protocol_version))
    token = VOLUNTEER_PREFIX + secrets.token_urlsafe(32)
    volunteer = Volunteer.objects.create(
        name=printable(request.name) or "volunteer",
        token_hash=token_hash(token),
        client_version=printable(request.client_version),
    )
    return JoinReply(volunteer_id=volunteer.id, token=token)


def note_address(volunteer: Volunteer, block: str) -> None:
    """Keep which network a volunteer sends from by now."""
    if block and volunteer.address_block != block:
        Volunteer.objects.filter(id=volunteer.pk).update(address_block=block)
        volunteer.address_block = block


def create_owner(name: str, *, superuser: bool = False) -> str:
    """Make an owner and return its token; as a superuser it belongs to the user `admin`."""
    token = OWNER_PREFIX + secrets.token_urlsafe(32)
    user = User.objects.get(is_superuser=True, username="admin") if superuser else None
    Owner.objects.create(name=name, token_hash=token_hash(token), user=user)
    return token


def find(token: str) -> Volunteer | Owner | None:
    """Return whose token it is. Volunteers are remembered for minutes: they ask all the time."""
    hashed = token_hash(token)
    if token.startswith(VOLUNTEER_PREFIX):
        if (known := _known.find(hashed)) is not None:
            return known
        found = Volunteer.objects.filter(token_hash=hashed).first()
        if found is not None:
            _known.put(hashed, found)
        return found
    if token.startswith(OWNER_PREFIX):
        owners = Owner.objects.select_related("user")
        return owners.filter(token_hash=hashed).first()
    return None


def token_hash(token: str) -> str:
    """Return what the database keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def ensure_first_accounts(home: Home) -> str:
    """Make the user `admin` and the first owner where they are missing; return its token.

    Both secrets are written before the rows: a crash between leaves a file that the next
    start uses, never a row whose secret nobody knows. On a machine that joins others there is
    an owner already, whose token lies on the first one: then this returns an empty text.
    """
    if Owner.objects.filter(name="admin").exists():
        return home.owner_token.read_text().strip() if home.owner_token.is_file() else ""
    password = _secret_in(home.admin_password, "")
    token = _secret_in(home.owner_token, OWNER_PREFIX)
    with transaction.atomic():
        users = User.objects
        if not users.filter(username="admin").exists():
            users.create_superuser(username="admin", password=password)
        Owner.objects.get_or_create(
            name="admin",
            defaults={
                "token_hash": token_hash(token),
                "user": users.get(username="admin"),
            },
        )
    return token


def speaks_our_protocol(version: str) -> bool:
    """Say whether the major number is ours."""
    return version.partition(".")[0] == limits.PROTOCOL_VERSION.partition(".")[0]


def upgrade_text(version: str) -> str:
    """Say what a client of another protocol should do."""
    ours = limits.PROTOCOL_VERSION
    return f"this server speaks protocol {ours}, the client {version}: upgrade it with `{UPGRADE}`"


def printable(text: str) -> str:
    """Return a stranger's text without what could drive a terminal."""
    return "".join(letter for letter in text if letter.isprintable()).strip()


def _secret_in(path: Path, prefix: str) -> str:
    if not path.is_file():
        write_secret(path, prefix + secrets.token_urlsafe(32))
    return path.read_text().strip()
