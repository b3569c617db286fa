import stat

from handcar.server.accounts import services
from handcar.server.accounts.models import Owner, Volunteer
from handcar.server.home import Home


def test_joining_gives_a_token_that_the_database_does_not_hold(server):
    ann = server.join()
    row = Volunteer.objects.get()
    assert row.id == ann.id
    assert ann.token not in (row.token_hash, row.name)
    assert services.find(ann.token) == row


def test_a_client_of_another_protocol_is_told_how_to_upgrade(server):
    body = {"name": "ann", "client_version": "1", "protocol_version": "0.9"}
    reply = server.ask("POST", "/volunteers", body)
    assert reply.status_code == 426
    assert reply["Content-Type"] == "application/problem+json"
    assert "pip install --upgrade handcar" in reply.json()["detail"]


def test_a_name_can_not_drive_a_terminal(server):
    server.join("\x1b[2Jann\n")
    assert Volunteer.objects.get().name == "[2Jann"


def test_no_token_a_wrong_one_and_another_scheme_are_401(server):
    for headers in ({}, {"Authorization": "Bearer hcv_wrong"}, {"Authorization": "Basic eDp5"}):
        reply = server.ask("GET", "/default", headers=headers)
        assert reply.status_code == 401
        assert reply["WWW-Authenticate"] == "Bearer"
        assert reply.json()["type"] == "/problems/unauthenticated"


def test_an_owner_is_no_volunteer_and_the_other_way_round(server):
    ann = server.join()
    assert server.ask("GET", "/default", token=server.owner).status_code == 403
    assert server.ask("POST", "/messages", {"text": "x"}, token=ann.token).status_code == 403


def test_a_second_start_keeps_the_first_accounts(server):
    again = services.ensure_first_accounts(server.home)
    assert again == server.owner
    assert Owner.objects.count() == 1
    assert Owner.objects.get().is_superuser


def test_secrets_are_for_this_user_alone(server):
    home: Home = server.home
    home.secret_key()
    for path in (home.owner_token, home.admin_password, home.folder / "secret-key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700
