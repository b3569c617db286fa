"""A stranger's list of links does not make a machine knock at its own network."""

from __future__ import annotations

import ipaddress
import socket

import httpx2
import pytest

from bad_servers import good, sending, serving
from handcar.errors import Forbidden
from handcar.stores import reach
from handcar.stores.reach import Kind, Reach

PUBLIC = "https://1.1.1.1/"
HOME = "http://192.168.1.10:8000"
HERE = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("1.1.1.1", Kind.PUBLIC),
        ("2606:4700::1111", Kind.PUBLIC),
        ("10.0.0.1", Kind.PRIVATE),
        ("192.168.1.1", Kind.PRIVATE),
        ("172.16.0.1", Kind.PRIVATE),
        ("fd00::1", Kind.PRIVATE),
        ("127.0.0.1", Kind.OWN),
        ("127.9.9.9", Kind.OWN),
        ("::1", Kind.OWN),
        ("0.0.0.0", Kind.OWN),
        ("169.254.169.254", Kind.SPECIAL),
        ("fe80::1", Kind.SPECIAL),
        ("224.0.0.1", Kind.SPECIAL),
        ("100.64.0.1", Kind.SPECIAL),
        ("::ffff:127.0.0.1", Kind.OWN),
        ("::ffff:10.0.0.1", Kind.PRIVATE),
        ("64:ff9b::a9fe:a9fe", Kind.SPECIAL),
        ("2002:7f00:1::", Kind.OWN),
    ],
)
def test_where_an_address_leads(address, kind):
    assert reach.kind_of(ipaddress.ip_address(address)) is kind


@pytest.mark.parametrize(
    ("server", "address", "allowed"),
    [
        (PUBLIC, "8.8.8.8", True),
        (PUBLIC, "192.168.1.1", False),
        (PUBLIC, "127.0.0.1", False),
        (PUBLIC, "169.254.169.254", False),
        (HOME, "192.168.1.20", True),
        (HOME, "127.0.0.1", False),
        (HOME, "169.254.169.254", False),
        (HERE, "127.0.0.1", True),
        (HERE, "10.0.0.5", True),
        (HERE, "169.254.169.254", False),
        ("http://169.254.7.7", "169.254.7.7", True),
        ("http://169.254.7.7", "169.254.169.254", False),
        ("http://no-such-name.invalid", "10.0.0.1", False),
    ],
)
def test_what_is_allowed_depends_on_where_the_server_is(server, address, allowed):
    try:
        Reach(server).expect_allowed("host", ipaddress.ip_address(address))
    except Forbidden as refused:
        assert not allowed
        assert address in str(refused)
    else:
        assert allowed


def test_a_server_with_a_public_address_opens_no_way_by_naming_another(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", names("1.1.1.1", "127.0.0.1"))
    with pytest.raises(Forbidden):
        Reach("https://server.example.org").expect_allowed("x", ipaddress.ip_address("10.0.0.1"))


def names(*addresses: str):
    def getaddrinfo(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    return getaddrinfo


def test_a_client_of_a_public_server_does_not_connect_to_this_machine():
    with serving(b"secret", good) as server, reach.client(Reach(PUBLIC)) as client:
        with pytest.raises(Forbidden, match="this machine itself"):
            client.get(server.url)
        assert server.asked == []


def test_a_name_is_judged_by_what_it_resolves_to():
    with serving(b"secret", good) as server, reach.client(Reach(PUBLIC)) as client:
        with pytest.raises(Forbidden):
            client.get(server.url.replace("127.0.0.1", "localhost"))
        assert server.asked == []


def test_a_redirect_is_judged_too():
    moved = sending(b"", status=302, Location="http://169.254.169.254/latest/meta-data")
    allowed = reach.client(Reach(HERE), follow_redirects=True)
    with serving(b"", moved) as server, allowed as client, pytest.raises(Forbidden):
        client.get(server.url)


def test_a_client_of_a_server_on_this_machine_connects_here():
    with serving(b"bytes", good) as server, reach.client(Reach(server.url)) as client:
        assert client.get(server.url).content == b"bytes"
        assert client.get(server.url.replace("127.0.0.1", "localhost")).content == b"bytes"


def test_a_name_that_is_none_is_a_fault_of_the_connection():
    with reach.client(Reach(PUBLIC)) as client, pytest.raises(httpx2.ConnectError):
        client.get("http://no-such-name.invalid/")


def test_through_a_proxy_addresses_in_numbers_are_judged(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with reach.client(Reach(PUBLIC)) as client, pytest.raises(Forbidden):
        client.get("http://192.168.1.1/")
