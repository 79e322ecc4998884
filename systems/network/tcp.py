"""What this process's TCP connections have carried, as the kernel counts it (Linux)."""

import os
import socket
import struct


def tcp_bytes() -> tuple[int, int] | None:
    """Bytes that this process's TCP connections have sent and received, no headers, no repeats.

    The kernel counts them (TCP_INFO), so this sees collectives too, and knows nothing of what we
    think we send: an independent check of every byte table. None where the kernel does not tell
    (not Linux). Connections closed since are no longer counted: take differences over a window.
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


# Offsets in struct tcp_info, include/uapi/linux/tcp.h.
_BYTES_RECEIVED, _BYTES_SENT, _BYTES_RESENT = 128, 200, 208


def _tcp_info(descriptor: int) -> tuple[int, int] | None:
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
