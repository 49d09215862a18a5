"""The isolation verdict follows from what the kernel shows, and from nothing else."""

import ipaddress
import os
import socket

import pytest

from plugsky.policy.isolation import ProcessView, Socket, has_default_route, judge, parse_sockets, probe

HOST = "net:[1]"
APART = "net:[2]"
LOOPBACK = ("127.0.0.1", "::1")
TCP_TABLE = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0\n"
    "   1: 0A000002:A000 08080808:01BB 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100 0 0 10 0\n"
)


def engine(namespace=APART, links=("lo",)):
    return ProcessView(10, "engine", namespace, (), links, frozenset())


def gateway(*sockets):
    return ProcessView(11, "gateway", HOST, sockets, ("lo", "eth0"), frozenset(s.inode for s in sockets))


def tcp(local="127.0.0.1", port=8080, remote="0.0.0.0", remote_port=0, state="0A", inode=1):
    return Socket("tcp", ipaddress.ip_address(local), port, ipaddress.ip_address(remote), remote_port, state, inode)


def test_an_engine_apart_and_a_loopback_listener_on_a_host_without_a_route_are_proven():
    reading = judge([engine(), gateway(tcp())], HOST, False, LOOPBACK)
    assert reading.proven
    assert reading.engine_namespace
    assert reading.listening == ("127.0.0.1:8080",)


@pytest.mark.parametrize(
    ("processes", "route", "words"),
    [
        pytest.param(
            [engine(HOST)], False, "shares the host's network namespace", id="an engine in the host's namespace"
        ),
        pytest.param([engine(links=("lo", "veth0"))], False, "has the link veth0", id="a namespace with a way out"),
        pytest.param([], False, "no engine is running", id="no engine to look at"),
        pytest.param(
            [engine(), gateway(tcp("0.0.0.0"))], False, "listens on 0.0.0.0:8080", id="a listener on every address"
        ),
        pytest.param(
            [engine(), gateway(tcp("10.0.0.2", 40960, "8.8.8.8", 443, "01"))],
            False,
            "8.8.8.8:443",
            id="a connection outward",
        ),
        pytest.param([engine()], True, "default route", id="a host with a default route"),
    ],
)
def test_anything_that_speaks_against_isolation_is_a_finding(processes, route, words):
    reading = judge(processes, HOST, route, LOOPBACK)
    assert not reading.proven
    assert any(words in finding for finding in reading.findings)


def test_a_client_of_our_own_listener_is_not_an_outbound_connection():
    client = tcp("192.0.2.1", 8080, "192.0.2.9", 5000, "01", inode=2)
    reading = judge([engine(), gateway(tcp("192.0.2.1"), client)], HOST, False, ("192.0.2.1",))
    assert reading.proven


def test_a_socket_of_another_process_in_the_same_namespace_is_not_ours():
    stranger = tcp("10.0.0.2", 40960, "8.8.8.8", 443, "01", inode=9)
    view = ProcessView(11, "gateway", HOST, (stranger,), ("lo",), frozenset())
    assert judge([engine(), view], HOST, False, LOOPBACK).proven


def test_the_kernels_columns_are_read_in_its_own_byte_order():
    listening, outward = parse_sockets("tcp", TCP_TABLE)
    assert listening.where == "127.0.0.1:8080"
    assert (str(outward.remote), outward.remote_port, outward.inode) == ("8.8.8.8", 443, 222)


def test_an_ipv4_peer_of_an_ipv6_socket_is_read_as_ipv4():
    row = "0: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 5"
    assert parse_sockets("tcp", row)[0].where == "127.0.0.1:80"


@pytest.mark.parametrize(
    ("route", "ipv6", "expected"),
    [
        pytest.param(
            "Iface\tDestination\neth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0", "", True, id="IPv4"
        ),
        pytest.param(
            "Iface\tDestination\neth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0", "", False, id="LAN"
        ),
        pytest.param("", "0" * 32 + " 00 " + "0" * 32 + " 00 " + "0" * 32 + " ffffffff 1 0 200200 lo", False, id="lo"),
        pytest.param("", "0" * 32 + " 00 " + "0" * 32 + " 00 fe80 00000400 1 0 00000003 eth0", True, id="IPv6"),
    ],
)
def test_a_default_route_is_seen(route, ipv6, expected):
    assert has_default_route(route, ipv6) is expected


def test_probing_this_process_finds_the_socket_it_listens_on():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = f"127.0.0.1:{listener.getsockname()[1]}"
        assert where in probe({os.getpid(): "gateway"}, LOOPBACK).listening


def test_a_process_that_is_gone_is_left_out():
    assert probe({2**22 + 1: "engine"}, LOOPBACK).findings[0].startswith("no engine is running")
