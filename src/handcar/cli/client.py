"""The server's API as the owner's commands use it."""

from __future__ import annotations

from typing import Any

import httpx2

from handcar import __version__
from handcar.errors import Unreachable
from handcar.protocol.messages import Body
from handcar.stores.answers import raise_for_answer

TIMEOUT = httpx2.Timeout(60.0, connect=10.0)


class Api:
    """Requests to one server. Raises Problem for its "no", Unreachable without an answer."""

    def __init__(self, server: str, token: str | None) -> None:
        self.server = server.rstrip("/")
        self.token = token
        self._headers = {"User-Agent": f"handcar/{__version__}"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, params: dict[str, str] | None = None) -> Any:
        """Ask for `path`; return the JSON of the answer."""
        return self._ask("GET", path, params=params)

    def post(self, path: str, body: Body | dict[str, Any]) -> Any:
        """Send `body` to `path`; return the JSON of the answer."""
        return self._ask("POST", path, json=_plain(body))

    def patch(self, path: str, body: Body | dict[str, Any]) -> Any:
        """Change what is at `path`; return the JSON of the answer."""
        return self._ask("PATCH", path, json=_plain(body))

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        url = f"{self.server}/api/v1{path}"
        try:
            answer = httpx2.request(method, url, headers=self._headers, timeout=TIMEOUT, **request)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(
                f"could not reach {self.server}: {reason}; is `handcar serve` running there?"
            ) from error
        raise_for_answer(answer)
        try:
            return answer.json()
        except ValueError as error:
            raise Unreachable(
                f"{url} answered HTTP {answer.status_code} without JSON; "
                f"is {self.server} a Handcar server?"
            ) from error


def _plain(body: Body | dict[str, Any]) -> dict[str, Any]:
    return body.model_dump(mode="json") if isinstance(body, Body) else body
