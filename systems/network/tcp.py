"""What this process's TCP connections have carried, as the kernel counts it (Linux)."""

import os
import socket
import struct


def tcp_bytes() -> tuple[int, int] | None:
    """The bytes that the TCP connections of this process have sent and received.

    Headers and repeated packets are not counted. The kernel counts (TCP_INFO), so collectives are
    included, and nothing depends on what we think that we send: it is an independent check of our
    tables of bytes. Connections that are closed are no longer counted, so take the difference over
    a window in which none closes. None where the kernel does not count (not Linux).
    """
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        return None
    sent = received = 0
    for descriptor in os.listdir(folder):
        info = _tcp_info(int(descriptor))
        if info is not None:
            sent, received = sent + info[0], received + info[1]
    return sent, received


# Offsets of the counters in struct tcp_info, see include/uapi/linux/tcp.h.
_BYTES_RECEIVED, _BYTES_SENT, _BYTES_RESENT = 128, 200, 208


def _tcp_info(descriptor: int) -> tuple[int, int] | None:
    """Ask the kernel for the bytes that the connection of a file descriptor has sent and received;
    None if it is no connection."""
    try:
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
            return None
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            connection.getpeername()  # listening sockets carry nothing
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    except OSError:
        return None
    if len(info) < _BYTES_RESENT + 8:
        return None
    received, sent, resent = (
        struct.unpack_from("Q", info, offset)[0]
        for offset in (_BYTES_RECEIVED, _BYTES_SENT, _BYTES_RESENT)
    )
    return sent - resent, received  # a busy host sends again what was only late
