"""RFC 9457 problem types: one list for the server that says them and the client that hears."""

from __future__ import annotations

from dataclasses import dataclass

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of "no": its URI path, HTTP status and a title that a person understands."""

    type: str
    status: int
    title: str


BAD_REQUEST = ProblemType("/problems/bad-request", 400, "The request is not understood")
UNAUTHENTICATED = ProblemType("/problems/unauthenticated", 401, "A valid token is needed")
FORBIDDEN = ProblemType("/problems/forbidden", 403, "This token may not do that")
NOT_FOUND = ProblemType("/problems/not-found", 404, "There is no such thing here")
METHOD = ProblemType("/problems/method", 405, "That can't be done with this address")
NOTHING_TO_TRAIN = ProblemType("/problems/nothing-to-train", 404, "Nothing to train right now")
WRONG_OFFSET = ProblemType("/problems/wrong-offset", 409, "The upload goes on elsewhere")
CONFLICT = ProblemType("/problems/conflict", 409, "That does not fit what is here already")
GONE = ProblemType("/problems/gone", 410, "This is over")
TOO_LARGE = ProblemType("/problems/too-large", 413, "Too many bytes")
BAD_DIGEST = ProblemType("/problems/bad-digest", 460, "The bytes do not have the promised digest")
MODEL_FILE = ProblemType("/problems/model-file", 422, "The model file can't be used")
CLIENT_TOO_OLD = ProblemType("/problems/client-too-old", 426, "This client is too old")
TOO_MANY = ProblemType("/problems/too-many-requests", 429, "Too many requests")
SERVER_FAULT = ProblemType("/problems/server-fault", 500, "The server failed")
STORE_AWAY = ProblemType("/problems/store-away", 503, "The server's store is away")
MOVING = ProblemType("/problems/moving", 503, "The server is being moved")
NOT_READY = ProblemType("/problems/not-ready", 503, "The server is not ready")
SERVER_FULL = ProblemType("/problems/server-full", 507, "The server is short of disk")
