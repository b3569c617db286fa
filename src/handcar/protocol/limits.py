"""Every number that a stranger could push, in one place, with its unit."""

from __future__ import annotations

PROTOCOL_VERSION = "1.0"
"""Same major number: the two sides understand each other and ignore unknown fields."""

MODEL_FILE_BYTES = 2 * 1024 * 1024
CHUNK_BYTES = 64 * 1024 * 1024
FRAME_BYTES = 1024 * 1024 * 1024
FRAME_HEADER_BYTES = 4 * 1024 * 1024
REQUEST_JSON_BYTES = 1024 * 1024
CHUNKS_A_DATA_SET = 100_000

NAME_LENGTH = 63
HOST_PATTERN = r"^[A-Za-z0-9.:_\[\]-]{1,255}$"
"""A host as it is reported to the server: a name or a number, and perhaps a port."""
TEXT_LENGTH = 2_000

HEARTBEAT_S = 60.0
HEARTBEAT_STEPS = 1_000
GONE_AFTER_S = 360.0
"""A machine that has not been heard from for so long counts as gone."""

RETRY_FIRST_S = 15.0
RETRY_MOST_S = 15 * 60.0

ROUND_STEPS = 1_000
ROUND_S = 30 * 60.0
"""The longest round: a volunteer sends an update at least so often."""

UPLOAD_EXPIRES_S = 48 * 3600.0
"""An announced update whose bytes have not all come by then is given up."""
PENDING_UPDATES = 8
"""Unmerged updates that one volunteer may have waiting."""
STEPS_AN_UPDATE = 10_000_000
"""What one update may claim; a round made longer by a server that is away stays below."""
STEPS_A_SECOND = 100_000
"""More than any machine does: a claim above it is refused."""
RATE_FACTOR = 16.0
"""The most that a learning rate is multiplied by."""

BATCHES_A_PIECE = 32
"""The most that a volunteer draws at once."""
RECIPE_CHUNKS = 1_000
"""Passes over chunks that a round's recipe may name; a longer round has no recipe."""
RECIPE_RUNS = 16
RECIPE_PARTS = 8
RECIPE_ROUNDS = 64
RECIPE_STARTS = 16
"""How often a round may go on from a newer version before it ends."""
IMAGE_LENGTH = 10_924
"""Of 2,048 float32 in base 64: what an audit by a volunteer is answered with."""
