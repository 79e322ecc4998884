"""Ports of ranks; the launcher's variables are read in network/test_distributed.py."""

import socket

import pytest

from systems.environment import reserved_port

IP_LOCAL_PORT_RANGE = 51
"""Linux' option of a socket: the ports that it may be given (from 6.3 on)."""


def limited_to(port: int) -> socket.socket:
    """A socket that can be given this port, and no other."""
    limited = socket.socket()
    try:
        only = (port | port << 16).to_bytes(4, "little")
        limited.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, only)
    except OSError:
        limited.close()
        pytest.skip("this kernel does not let a socket say which ports it may be given")
    return limited


def test_nobody_is_given_a_reserved_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with reserved_port() as port:
            for ask in (socket.socket.connect, socket.socket.bind):
                with limited_to(port) as other, pytest.raises(OSError, match="Errno"):
                    ask(other, server.getsockname() if ask is socket.socket.connect else ("", 0))
        with limited_to(port) as other:  # it could have had it
            other.connect(server.getsockname())
            assert other.getsockname()[1] == port


@pytest.mark.parametrize("address", ["127.0.0.1", ""])
def test_who_names_a_reserved_port_listens_there(address: str) -> None:
    with (
        reserved_port() as port,
        socket.create_server((address, port)),
        socket.create_connection(("127.0.0.1", port), timeout=10),
    ):
        pass


def test_reserved_ports_are_different_ones() -> None:
    with reserved_port() as one, reserved_port() as other:
        assert one != other
