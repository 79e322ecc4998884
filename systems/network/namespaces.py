"""A network of this machine's own: nodes on a switch, joined by links of a chosen rate (Linux).

    with Network([1e9] * 10) as network:        # ten nodes at 1 Gb/s
        ...
        network.enter(3)                        # in a forked process: from now on it is node 3

Every node is a network namespace with one interface, eth0, on a bridge in a namespace of its own.
Both directions of every link are shaped: the node's own queue, and the bridge's towards it. The
namespaces have no names: the kernel removes them, links and all, when the last process that holds
them is gone, however it went. Needs root and iproute2.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from systems.clusters.shape import UNIMPAIRED, Impairments
from systems.schema import InputError

INTERFACE = "eth0"
MTU_BYTES = 9000
"""Jumbo frames: headers cost 0.7 % of the rate instead of 4.6 %, and a tenth of the packets."""
OFFLOAD_BYTES = 18_000
"""Longest packet that the sender leaves to be cut into frames: two of them."""
BURST_BYTES = 2 * OFFLOAD_BYTES
"""How many bytes pass at full speed after a pause. With less than the longest packet, a link
would not reach its rate."""
QUEUE_S = 0.08
"""Length of a queue, in seconds of its link's rate. Shorter ones drop packets when all nodes send
to all, and every drop is sent again over links that have no room for it."""
SEND_BUFFER_BYTES = 256 * 1024
"""The most that a connection has on its way. With less, several that end at one node do not keep
its link busy while each waits in another node's queue too; with more, queues overflow."""
SMALL_PACKET_BYTES = 1500
"""`netem` counts packets and not bytes; its queue holds as many of this size as may wait."""
SHORTEST_RESEND = "20ms"
"""A packet that is lost all the same is sent again after this; the system's default is 200 ms."""
BARE_ACKNOWLEDGEMENT = (
    "match ip protocol 6 0xff match u8 0x05 0x0f at 0 match u16 0 0xff80 at 2 "
    "match u8 0x10 0xff at 33"
)
"""TCP packets shorter than 128 bytes that only acknowledge. They go ahead of data: behind a full
queue of it they would hold up the other direction, which has no more than a send buffer on its way.
"""
TOOLS = ("ip", "tc", "nsenter")

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_OWN = "/proc/thread-self/ns/net"


class Network:
    """Nodes 0, 1, ... with full-duplex links of these rates, in bits per second."""

    def __init__(
        self, rates_bits_per_s: Sequence[float], impairments: Impairments = UNIMPAIRED
    ) -> None:
        """Make the namespaces and the links between them.

        Args:
            rates_bits_per_s: the rate of every node's link, in each direction.
            impairments: what every link adds to what its node sends.

        Raises:
            InputError: no root, no iproute2, or a kernel that refuses.
        """
        check_available()
        self._impairments = impairments
        self._switch = _new_namespace()
        self._nodes = [_new_namespace() for _ in rates_bits_per_s]
        try:
            self._build(rates_bits_per_s)
        except BaseException:
            self.close()
            raise

    def _build(self, rates_bits_per_s: Sequence[float]) -> None:
        """Join every node to the bridge, and shape both ends of its link."""
        commands = ["link add br0 type bridge", f"link set br0 mtu {MTU_BYTES} up"]
        shaping: list[str] = []
        for node, rate in enumerate(rates_bits_per_s):
            inside = f"/proc/{os.getpid()}/fd/{self._nodes[node]}"
            commands += [
                f"link add port{node} mtu {MTU_BYTES} type veth "
                f"peer name {INTERFACE} mtu {MTU_BYTES} netns {inside}",
                f"link set port{node} gso_max_size {OFFLOAD_BYTES}",
                f"link set port{node} master br0 up",
            ]
            shaping += _shaped(f"port{node}", rate)
        _batch("ip", self._switch, commands)
        _batch("tc", self._switch, shaping)
        for node, rate in enumerate(rates_bits_per_s):
            mine = self.address(node)
            addresses = [
                "link set lo up",
                f"addr add {mine}/16 dev {INTERFACE}",
                f"link set {INTERFACE} gso_max_size {OFFLOAD_BYTES} up",
                # Cubic whatever the machine's default: others (bbr) leave a short queue unfilled.
                f"route change 10.77.0.0/16 dev {INTERFACE} proto kernel scope link src {mine} "
                f"congctl cubic rto_min {SHORTEST_RESEND}",
            ]
            _batch("ip", self._nodes[node], addresses)
            _batch("tc", self._nodes[node], _shaped(INTERFACE, rate, self._impairments))
            on_its_way_bytes = rate / 8 * 2 * self._impairments.delay_s
            _limit_send_buffers(
                self._nodes[node], max(SEND_BUFFER_BYTES, round(2 * on_its_way_bytes))
            )

    def address(self, node: int) -> str:
        """The IPv4 address of a node."""
        return f"10.77.{(node + 1) // 256}.{(node + 1) % 256}"

    def enter(self, node: int) -> None:
        """Move this thread to a node, with everything that it starts from now on."""
        _set_namespace(self._nodes[node])

    def set_link(self, node: int, *, up: bool) -> None:
        """Cut a node off, or join it again."""
        state = "up" if up else "down"
        _batch("ip", self._switch, [f"link set port{node} {state}"])

    def set_rate(self, node: int, rate_bits_per_s: float) -> None:
        """Give a node's link another rate, while packets pass; 0 cuts it off."""
        if not rate_bits_per_s:
            self.set_link(node, up=False)
            return
        self.set_link(node, up=True)
        _batch("tc", self._switch, _changed(f"port{node}", rate_bits_per_s))
        _batch("tc", self._nodes[node], _changed(INTERFACE, rate_bits_per_s))

    def close(self) -> None:
        """Release the namespaces; the kernel removes those in which no process is left."""
        for descriptor in (self._switch, *self._nodes):
            os.close(descriptor)
        self._nodes = []

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def unavailable() -> str | None:
    """The reason why networks cannot be made on this machine; None if none can be seen at once."""
    if not os.path.exists(_OWN):
        return "this system has no network namespaces (Linux has)"
    if os.geteuid() != 0:
        return "not root; run as root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found; install iproute2 and util-linux"
    return None


def check_available() -> None:
    """Raise an InputError if networks cannot be made here."""
    reason = unavailable()
    if reason is not None:
        raise InputError(f"emulated and shaped runs need network namespaces: {reason}")


def check_impairments(impairments: Impairments) -> None:
    """Raise an InputError if this kernel cannot delay or lose packets, and shall."""
    if not impairments:
        return
    check_available()
    namespace = _new_namespace()
    try:
        _batch("tc", namespace, [f"qdisc add dev lo root {_netem(impairments, 1e9)}"])
    except InputError:
        raise InputError(
            "--delay-s, --jitter-s, --packet-loss: this kernel has no queue `netem`, which adds "
            "them to links; load its module (modprobe sch_netem), or leave them out"
        ) from None
    finally:
        os.close(namespace)


def _netem(impairments: Impairments, rate_bits_per_s: float) -> str:
    """The queue of `tc` that adds delay, jitter and loss to a link of a rate."""
    held_s = QUEUE_S + impairments.delay_s + impairments.jitter_s
    packets = max(1000, round(rate_bits_per_s / 8 * held_s / SMALL_PACKET_BYTES))
    return (
        f"netem limit {packets} delay {impairments.delay_s * 1e6:.0f}us "
        f"{impairments.jitter_s * 1e6:.0f}us loss {impairments.packet_loss * 100:g}%"
    )


def _shaped(
    device: str, rate_bits_per_s: float, impairments: Impairments = UNIMPAIRED
) -> list[str]:
    """The commands of `tc` that hold what a device sends to a rate.

    Data wait in one queue (class 1:10), bare acknowledgements in another that goes first (1:11).
    Where a link has impairments, `netem` takes the place of both queues.
    """
    htb, queue = _htb(rate_bits_per_s), round(rate_bits_per_s / 8 * QUEUE_S)
    data = f"bfifo limit {max(queue, 2 * BURST_BYTES)}b"
    acknowledgements = f"bfifo limit {2 * BURST_BYTES}b"
    if impairments:
        data = acknowledgements = _netem(impairments, rate_bits_per_s)
    return [
        f"qdisc add dev {device} root handle 1: htb default 10",
        f"class add dev {device} parent 1: classid 1:1 {htb}",
        f"class add dev {device} parent 1:1 classid 1:10 {htb} prio 1",
        f"class add dev {device} parent 1:1 classid 1:11 {htb} prio 0",
        f"qdisc add dev {device} parent 1:10 handle 10: {data}",
        f"qdisc add dev {device} parent 1:11 handle 11: {acknowledgements}",
        f"filter add dev {device} parent 1: protocol ip u32 {BARE_ACKNOWLEDGEMENT} flowid 1:11",
    ]


def _changed(device: str, rate_bits_per_s: float) -> list[str]:
    """The commands of `tc` that hold a device to another rate. Its queues keep their length: what
    waits in them is not lost."""
    htb = _htb(rate_bits_per_s)
    return [
        f"class change dev {device} parent {parent} classid {name} {htb}{priority}"
        for parent, name, priority in (
            ("1:", "1:1", ""),
            ("1:1", "1:10", " prio 1"),
            ("1:1", "1:11", " prio 0"),
        )
    ]


def _htb(rate_bits_per_s: float) -> str:
    """A class of `tc` that sends at a rate."""
    rate = f"{round(rate_bits_per_s)}bit"
    return f"htb rate {rate} ceil {rate} burst {BURST_BYTES}b cburst {BURST_BYTES}b quantum 60000"


def _limit_send_buffers(namespace: int, most_bytes: int) -> None:
    """Limit what a connection inside a namespace has on its way."""
    own = os.open(_OWN, os.O_RDONLY)
    try:
        _set_namespace(namespace)
        Path("/proc/sys/net/ipv4/tcp_wmem").write_text(f"4096 16384 {most_bytes}")
    finally:
        _set_namespace(own)
        os.close(own)


def _new_namespace() -> int:
    """Make a network namespace, which lives as long as the file descriptor that is returned."""
    own = os.open(_OWN, os.O_RDONLY)
    try:
        _call("unshare", _CLONE_NEWNET)
        namespace = os.open(_OWN, os.O_RDONLY)
        _set_namespace(own)
        return namespace
    finally:
        os.close(own)


def _set_namespace(descriptor: int) -> None:
    """Move this thread into a network namespace."""
    _call("setns", descriptor, _CLONE_NEWNET)


def _call(function: str, *arguments: int) -> None:
    """Call a function of the C library that Python does not have.

    Raises:
        InputError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments):
        reason = os.strerror(ctypes.get_errno())
        raise InputError(f"emulated and shaped runs need network namespaces: {function}: {reason}")


def _batch(tool: str, namespace: int, commands: Sequence[str]) -> None:
    """Run many commands of `ip` or `tc` inside a namespace, in one process.

    Raises:
        InputError: one of them failed.
    """
    done = subprocess.run(
        ["nsenter", f"--net=/proc/self/fd/{namespace}", tool, "-batch", "-"],
        input="\n".join(commands) + "\n",
        pass_fds=[namespace],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()
        raise InputError(
            f"network namespaces: {tool} failed: {reason[0] if reason else done.returncode}"
        )
