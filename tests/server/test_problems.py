import pytest

PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/models/none", 404),
        ("GET", "/models/UPPER", 404),
        ("GET", "/series/none", 404),
        ("GET", "/files/" + "0" * 64, 404),
        ("DELETE", "/list", 405),
        ("PUT", "/volunteers", 405),
        ("POST", "/volunteers", 400),
        ("GET", "/default", 401),
        ("PATCH", "/models/none", 401),
    ],
)
def test_every_no_is_a_problem_document(server, method, path, status):
    reply = server.ask(method, path)
    assert reply.status_code == status
    assert reply["Content-Type"] == PROBLEM
    body = reply.json()
    assert body["status"] == status
    assert body["type"].startswith("/problems/")
    assert body["title"]
    assert body["detail"]


def test_a_wrong_field_is_named_by_its_path(server):
    reply = server.ask("POST", "/volunteers", {"name": "", "client_version": "1"})
    assert reply.status_code == 400
    assert reply.json()["errors"][0].startswith("name: ")


def test_what_is_no_json_is_a_bad_request(server):
    assert server.ask("POST", "/volunteers", b"{").status_code == 400
    assert server.ask("POST", "/volunteers", b"\xff\xfe").status_code == 400


def test_a_body_that_never_ends_is_cut_short(server):
    reply = server.ask("POST", "/volunteers", b" " * (1024 * 1024 + 1))
    assert reply.status_code == 413


def test_unknown_fields_are_ignored(server):
    body = {"name": "ann", "client_version": "9", "from_the_future": [1]}
    assert server.ask("POST", "/volunteers", body).status_code == 201


def test_any_accept_header_gets_json(server):
    reply = server.ask("GET", "/list", headers={"Accept": "text/html"})
    assert reply.status_code == 200
    assert reply.json() == []


def test_a_fault_of_the_server_is_a_problem_too(server, monkeypatch):
    from handcar.server.rounds import assignments

    monkeypatch.setattr(assignments, "summaries", lambda now: 1 / 0)
    server.client.raise_request_exception = False
    reply = server.ask("GET", "/list")
    assert reply.status_code == 500
    assert reply["Content-Type"] == PROBLEM
    assert "division" not in reply.json()["detail"]
