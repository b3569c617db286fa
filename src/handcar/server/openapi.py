"""The OpenAPI document, with schemas straight from the protocol's messages."""

from __future__ import annotations

from typing import Any

from drf_spectacular.contrib.pydantic import PydanticExtension
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.utils import OpenApiResponse

from handcar.protocol import problems
from handcar.server.problems import ProblemDocument


class BodyExtension(PydanticExtension):  # type: ignore[no-untyped-call]
    """A message of the protocol; what is optional in a request stays optional."""

    target_class = "handcar.protocol.messages.Body"
    match_subclasses = True
    priority = 1

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        """Return the JSON schema of a message and register those that it is made of."""
        mode = "validation" if direction == "request" else "serialization"
        schema: dict[str, Any] = self.target.model_json_schema(
            ref_template="#/components/schemas/{model}", mode=mode
        )
        for name, part in schema.pop("$defs", {}).items():
            component = ResolvedComponent(  # type: ignore[no-untyped-call]
                name=name, type=ResolvedComponent.SCHEMA, object=name, schema=part
            )
            auto_schema.registry.register_on_missing(component)
        return schema


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Bearer tokens."""

    target_class = "handcar.server.authentication.BearerAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """Return how a token is sent."""
        return {"type": "http", "scheme": "bearer"}


TITLES: dict[int, str] = {}
for _kind in vars(problems).values():
    if isinstance(_kind, problems.ProblemType):
        TITLES.setdefault(_kind.status, _kind.title)


def refusals(*statuses: int) -> dict[Any, OpenApiResponse]:
    """Return the problem documents that a view may answer with."""
    return {
        (status, problems.MEDIA_TYPE): OpenApiResponse(ProblemDocument, TITLES[status])
        for status in statuses
    }
