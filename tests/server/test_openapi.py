import re
import warnings

import pytest

from handcar.protocol import messages


@pytest.fixture
def document(server):
    return server.ask("GET", "/openapi.json").json()


def test_it_is_a_valid_openapi_3_1_document(document):
    from drf_spectacular.validation import validate_schema

    assert document["openapi"].startswith("3.1")
    validate_schema(document)


def test_every_route_of_the_api_is_in_it(document):
    from handcar.server.urls import API

    routes = set()
    for entry in API:
        for pattern in getattr(entry, "url_patterns", [entry]):
            name = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(pattern.pattern))
            routes.add(f"/api/v1/{name}")
    assert routes == set(document["paths"])


def test_every_operation_says_what_it_answers(document):
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method in {"get", "post", "patch", "put", "head"}:
                assert operation["responses"], (method, path)
                assert operation["description"], (method, path)


def test_schemas_come_from_the_protocol(document):
    schemas = document["components"]["schemas"]
    for kind in (messages.Heartbeat, messages.Assignment, messages.UpdateAnnouncement):
        assert set(schemas[kind.__name__]["properties"]) == set(kind.model_fields)
    assert "steps_per_second" not in schemas["Heartbeat"]["required"]


def test_problems_are_described_as_such(document):
    responses = document["paths"]["/api/v1/updates"]["post"]["responses"]
    assert set(responses) >= {"200", "400", "401", "409", "410", "429", "507"}
    assert list(responses["409"]["content"]) == ["application/problem+json"]


def test_making_it_warns_of_nothing(server, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        server.ask("GET", "/openapi.json")
    assert "Warning" not in capsys.readouterr().err


def test_health_is_told_to_everyone(server):
    reply = server.ask("GET", "/health").json()
    assert reply["status"] == "ok"
    assert reply["protocol_version"] == "1.0"
