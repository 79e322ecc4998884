"""Where ranks meet: the key-value store of torch.distributed, and what listens for it.

The store has no password. Where all ranks are on one machine it listens on loopback, which nobody
else reaches; over several nodes it must listen on every interface, and the network between them
must be trusted (docs/launchers.md).
"""

import datetime
import os
import socket

import torch.distributed as dist

from systems.environment import LOOPBACK
from systems.schema import InputError

PATIENCE_S = 300.0
"""The longest wait for an answer of the store, as torch has it."""


def serve(address: str, port: int, timeout_s: float = PATIENCE_S) -> dist.TCPStore:
    """Start the store at a port of this machine; port 0 takes one that is free.

    Args:
        address: this machine's, by which others reach the store. With LOOPBACK nobody else does.

    Raises:
        InputError: something listens at this port already, or there is no such port.
    """
    listening = _listen(address, port)
    return dist.TCPStore(
        address,
        listening.getsockname()[1],
        is_master=True,
        timeout=datetime.timedelta(seconds=timeout_s),
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
        use_libuv=False,  # in torch 2.6 that one cannot take a socket
    )


def connect(address: str, port: int, timeout_s: float) -> dist.TCPStore:
    """Connect to the store that this or another process serves at an address and port.

    Args:
        timeout_s: the longest wait for the connection, and for every answer.
    """
    return dist.TCPStore(
        address,
        port,
        is_master=False,
        timeout=datetime.timedelta(seconds=timeout_s),
        wait_for_workers=False,
    )


def _listen(address: str, port: int) -> socket.socket:
    """A socket that listens: on loopback alone, or on every interface; see `serve`."""
    both = socket.has_dualstack_ipv6()
    try:
        if address == LOOPBACK:
            return socket.create_server((LOOPBACK, port))
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise InputError(
            f"port {port} cannot be listened on: {reason}; give another port (MASTER_PORT, or "
            "--master-port of the launcher), or end the program that has it"
        ) from None
    except OverflowError:
        raise InputError(f"port {port}: give 1 to 65535, or 0: one that is free") from None


def stay_on_loopback() -> None:
    """Let gloo and NCCL listen on loopback alone, unless the user has set their variables."""
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback is not None:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, loopback)
