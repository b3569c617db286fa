"""The server's signature under what it assigns: which model file, which chunks.

Ed25519 (RFC 8032). A volunteer keeps the key that it saw first and refuses another one, so
whoever comes between them later, or keeps a copy of an assignment, can't put in other data.
"""

from __future__ import annotations

import json

from handcar.protocol.messages import Assignment, Signature


def sign(assignment: Assignment, seed: bytes) -> Assignment:
    """Return an assignment signed with the key that 32 secret bytes make."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed)
    signature = Signature(
        public_key=key.public_key().public_bytes_raw().hex(),
        signature=key.sign(_text(assignment)).hex(),
    )
    return assignment.model_copy(update={"signature": signature})


def is_signed(assignment: Assignment) -> bool:
    """Say whether the holder of the key that an assignment names has signed it."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if assignment.signature is None:
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(assignment.signature.public_key))
        key.verify(bytes.fromhex(assignment.signature.signature), _text(assignment))
    except (InvalidSignature, ValueError):
        return False
    return True


def _text(assignment: Assignment) -> bytes:
    """Return what is signed: digests, sizes, records and codecs, but no order and no links.

    Each volunteer has an order of its own, and links come and go; bytes are known by digest.
    """
    facts = {
        "chunks": sorted([c.sha256, c.size, c.records, c.codec] for c in assignment.dataset),
        "configuration": assignment.configuration.sha256,
        "model": assignment.id,
    }
    return json.dumps(facts, separators=(",", ":"), sort_keys=True).encode()
