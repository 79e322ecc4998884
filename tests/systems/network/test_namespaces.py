import os
import re
import shutil
import subprocess

import pytest

from systems.network import namespaces
from systems.network.namespaces import Network, unavailable
from systems.schema import InputError
from tests import emulation
from tests.emulation import needs_emulation

CONNECT = """
import socket
def connect(network):
    '''To node 0, which may not listen yet; exit code 7 if it is not reached.'''
    for _ in range(30):
        try:
            peer = socket.create_connection((network.address(0), 5000), timeout=0.1)
        except OSError:
            time.sleep(0.1)
            continue
        peer.settimeout(10)
        return peer
    raise SystemExit(7)
"""


@needs_emulation
def test_every_link_is_shaped_both_ways() -> None:
    with Network([1e9, 2e9]) as network:
        for node, rate in enumerate(("1Gbit", "2Gbit")):
            for namespace, device in (
                (network._nodes[node], namespaces.INTERFACE),
                (network._switch, f"port{node}"),
            ):
                shown = _inside(namespace, "tc", "class", "show", "dev", device)
                assert f"rate {rate} ceil {rate}" in shown
                queue = _inside(namespace, "tc", "qdisc", "show", "dev", device)
                assert "htb" in queue
                assert "bfifo" in queue


@needs_emulation
def test_a_link_gets_another_rate_both_ways() -> None:
    with Network([1e9] * 2) as network:
        network.set_rate(1, 25e6)
        for namespace, device, rate in (
            (network._nodes[1], namespaces.INTERFACE, "25Mbit"),
            (network._switch, "port1", "25Mbit"),
            (network._nodes[0], namespaces.INTERFACE, "1Gbit"),
        ):
            shown = _inside(namespace, "tc", "class", "show", "dev", device).splitlines()
            assert len(shown) == 3
            assert all(f"rate {rate} ceil {rate}" in line for line in shown)


@needs_emulation
def test_nodes_reach_each_other_until_a_link_is_cut() -> None:
    done = emulation.run(
        CONNECT
        + """
network = Network([1e9] * 2)
def main(place):
    if place.rank == 0:
        with socket.create_server((network.address(0), 5000)) as server:
            server.settimeout(3)
            server.accept()[0].sendall(b"hello")
        return
    print(connect(network).recv(5).decode(), flush=True)
network.set_link(1, up=False)
print(emulate(network, 2, main))
network.set_link(1, up=True)
print(emulate(network, 2, main))
"""
    )
    failed, *joined = done.stdout.splitlines()
    assert failed in ("1", "7"), done.stderr  # the server's time-out or the client's
    assert joined == ["hello", "0"], done.stderr


@needs_emulation
def test_what_only_acknowledges_goes_ahead_of_data() -> None:
    done = emulation.run(
        CONNECT
        + """
import subprocess
network = Network([1e9] * 2)
def main(place):
    if place.rank == 0:
        with socket.create_server((network.address(0), 5000)) as server:
            peer = server.accept()[0]
            while peer.recv(1 << 16):
                pass
        print(subprocess.check_output(["tc", "-s", "class", "show", "dev", "eth0"], text=True))
        return
    connect(network).sendall(bytes(1 << 20))
assert emulate(network, 2, main) == 0
"""
    )
    sent = re.search(r"class htb 1:11 .*?Sent (\d+) bytes (\d+) pkt", done.stdout, flags=re.S)
    assert sent, done.stderr
    sent_bytes, packets = map(int, sent.groups())
    assert packets > 5
    assert sent_bytes / packets < 128


@needs_emulation
def test_a_closed_network_is_gone() -> None:
    before = _descriptors()
    for _ in range(3):
        Network([1e9] * 2).close()
    assert _descriptors() == before


def test_the_reason_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "tc" else tool)
    assert unavailable() == "tc not found; install iproute2 and util-linux"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert unavailable() == "not root; run as root"
    with pytest.raises(InputError, match="not root"):
        Network([1e9])


@needs_emulation
def test_a_tool_that_fails_is_quoted() -> None:
    with pytest.raises(InputError, match=r"tc failed: .*rate"):
        Network([0.0])


def _inside(namespace: int, *command: str) -> str:
    return subprocess.run(
        ["nsenter", f"--net=/proc/self/fd/{namespace}", *command],
        pass_fds=[namespace],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
