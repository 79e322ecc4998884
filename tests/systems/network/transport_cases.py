"""What every transport must do, as functions that run on each of three ranks.

The tests run them over gloo in processes of their own, and over MPI by starting this module:

    mpirun -np 3 python -m tests.systems.network.transport_cases {cases,killed} FOLDER

which leaves `FOLDER/rank-N.json`: the error of every case, empty where it passed.
"""

import dataclasses
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from systems.environment import environment
from systems.network.distributed import Backend, World, start, stop
from systems.network.mpi_transport import MpiTransport
from systems.network.open_transport import open_transport
from systems.network.transport import Transfer, Transport, TransportError

ROLES = ("conv", "conv", "fc")
CHANNELS = ("activation", "gradient", "label")
TIMEOUT_S = 20.0
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int64)

Outcome = dict[str, str]
"""The traceback of every case by name; empty where it passed."""


def message(size: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor that no other seed gives."""
    return (torch.arange(size) * 7 % 101 + seed).to(dtype)


def expect(buffer: Tensor, wanted: Tensor) -> None:
    assert torch.equal(buffer, wanted), f"{buffer.flatten()[:4]} is not {wanted.flatten()[:4]}"


def ring(world: World) -> tuple[int, int]:
    """The next and the previous rank."""
    return (world.rank + 1) % world.world_size, (world.rank - 1) % world.world_size


def messages_of_all_sizes(transport: Transport, world: World) -> None:
    following, previous = ring(world)
    for size in (1, 2, 1000, 65_537, 3_000_000):
        buffer = torch.zeros(size)
        receive = transport.irecv(buffer, previous, "activation")
        send = transport.isend(message(size, world.rank), following, "activation")
        receive.wait()
        send.wait()
        expect(buffer, message(size, previous))


def every_dtype(transport: Transport, world: World) -> None:
    following, previous = ring(world)
    for dtype in DTYPES:
        buffer = torch.zeros(129, dtype=dtype)
        receive = transport.irecv(buffer, previous, "activation")
        send = transport.isend(message(129, world.rank, dtype), following, "activation")
        receive.wait()
        send.wait()
        expect(buffer, message(129, previous, dtype))


def every_shape(transport: Transport, world: World) -> None:
    """Scalars, many dimensions, part of a larger tensor, and a parameter."""
    following, previous = ring(world)
    wide = message(60, 5).reshape(3, 4, 5)
    whole = message(100, 9)
    for sent in (torch.tensor(3.5), wide, whole[20:60], torch.nn.Parameter(wide.clone())):
        buffer = torch.zeros(sent.shape)
        receive = transport.irecv(buffer, previous, "gradient")
        transport.isend(sent, following, "gradient").wait()
        receive.wait()
        expect(buffer, sent)
        assert not buffer.requires_grad


def order_within_a_channel(transport: Transport, world: World) -> None:
    """Many messages under way at once, both ways, waited for from the last to the first."""
    sizes = [5, 100_000, 1, 333, 50_000, 2, 70_001, 8]
    following, previous = ring(world)
    buffers = [torch.zeros(size) for size in sizes]
    receives = [transport.irecv(buffer, previous, "activation") for buffer in buffers]
    sends = [
        transport.isend(message(size, 10 * world.rank + i), following, "activation")
        for i, size in enumerate(sizes)
    ]
    for transfer in [*reversed(receives), *reversed(sends)]:
        transfer.wait()
    for i, (size, buffer) in enumerate(zip(sizes, buffers, strict=True)):
        expect(buffer, message(size, 10 * previous + i))


def messages_before_anyone_receives(transport: Transport, world: World) -> None:
    sizes = [3, 40_000, 7, 1]
    if world.rank == 0:
        sends = [transport.isend(message(size, i), 1, "label") for i, size in enumerate(sizes)]
        world.store.set("sent", "")
        for send in sends:
            send.wait()
    if world.rank == 1:
        world.store.wait(["sent"])
        time.sleep(0.1)
        for i, size in enumerate(sizes):
            buffer = torch.zeros(size)
            transport.irecv(buffer, 0, "label").wait()
            expect(buffer, message(size, i))


def channels_do_not_wait_for_each_other(transport: Transport, world: World) -> None:
    """A large message that nobody takes does not hold up small ones of other channels."""
    large = 2_000_000
    if world.rank == 0:
        blocked = transport.isend(message(large, 1), 1, "activation")
        small_sends = [
            transport.isend(message(4, 2), 1, "label"),
            transport.isend(message(4, 3), 1, "gradient"),
        ]
        for send in (*small_sends, blocked):
            send.wait()
    if world.rank == 1:
        small, buffer = torch.zeros(4), torch.zeros(large)
        transport.irecv(small, 0, "gradient").wait()  # sent last, taken first
        expect(small, message(4, 3))
        transport.irecv(small, 0, "label").wait()
        expect(small, message(4, 2))
        transport.irecv(buffer, 0, "activation").wait()
        expect(buffer, message(large, 1))


def a_thread_for_every_channel(transport: Transport, world: World) -> None:
    following, previous = ring(world)
    failures: list[str] = []

    def exchange(channel: str, seed: int) -> None:
        try:
            for i in range(20):
                buffer = torch.zeros(1000 + i)
                receive = transport.irecv(buffer, previous, channel)
                transport.isend(message(1000 + i, seed + i), following, channel).wait()
                receive.wait()
                expect(buffer, message(1000 + i, seed + i))
        except Exception:
            failures.append(traceback.format_exc())

    threads = [
        threading.Thread(target=exchange, args=(channel, 100 * n))
        for n, channel in enumerate(CHANNELS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert transport.sent_bytes[following] == len(CHANNELS) * sum(4 * (1000 + i) for i in range(20))


def message_to_itself(transport: Transport, world: World) -> None:
    me = world.rank
    sent = message(10, me)
    transport.isend(sent, me, "activation").wait()
    sent.zero_()
    buffer = torch.zeros(10)
    transport.irecv(buffer, me, "activation").wait()
    expect(buffer, message(10, me))
    early = transport.irecv(buffer, me, "gradient")
    transport.isend(message(10, me + 1), me, "gradient").wait()
    early.wait()
    expect(buffer, message(10, me + 1))
    assert not any(transport.sent_bytes)
    assert not any(transport.received_bytes)


def messages_to_itself_keep_their_order(transport: Transport, world: World) -> None:
    buffers = [torch.zeros(size) for size in (3, 5, 2, 8)]
    for i in range(2):
        transport.isend(message(len(buffers[i]), i), world.rank, "label").wait()
    receives = [transport.irecv(buffer, world.rank, "label") for buffer in buffers]
    for i in range(2, 4):
        transport.isend(message(len(buffers[i]), i), world.rank, "label").wait()
    for receive in reversed(receives):
        receive.wait()
    for i, buffer in enumerate(buffers):
        expect(buffer, message(len(buffer), i))


def empty_messages(transport: Transport, world: World) -> None:
    """Nothing is a message too, in its place among others."""
    following, previous = ring(world)
    buffers = [torch.zeros(0), torch.zeros(3), torch.zeros(0, 4)]
    receives = [transport.irecv(buffer, previous, "activation") for buffer in buffers]
    sends = [
        transport.isend(sent, following, "activation")
        for sent in (torch.zeros(0), message(3, 1), torch.zeros(0, 4))
    ]
    for transfer in (*receives, *sends):
        transfer.wait()
    expect(buffers[1], message(3, 1))
    assert transport.sent_bytes[following] == 12
    transport.isend(torch.zeros(0), world.rank, "label").wait()
    transport.irecv(torch.zeros(0), world.rank, "label").wait()


def bytes_are_counted_by_peer(transport: Transport, world: World) -> None:
    following, previous = ring(world)
    assert transport.sent_bytes == transport.received_bytes == [0, 0, 0]
    transfers: list[Transfer] = []
    for _ in range(2):
        mine = message(100 * (world.rank + 1), 1, torch.int64)
        theirs = torch.zeros(100 * (previous + 1), dtype=torch.int64)
        transfers.append(transport.irecv(theirs, previous, "activation"))
        transfers.append(transport.isend(mine, following, "activation"))
    half = torch.zeros(7, dtype=torch.bfloat16)
    transfers.append(transport.irecv(torch.zeros_like(half), following, "label"))
    transfers.append(transport.isend(half, previous, "label"))
    for transfer in transfers:
        transfer.wait()
        transfer.wait()
    sent, received = [0, 0, 0], [0, 0, 0]
    sent[following], sent[previous] = 2 * 800 * (world.rank + 1), 14
    received[previous], received[following] = 2 * 800 * (previous + 1), 14
    assert transport.sent_bytes == sent
    assert transport.received_bytes == received


def what_is_not_contiguous_is_refused(transport: Transport, world: World) -> None:
    turned = torch.zeros(3, 4).t()
    for start_transfer in (transport.isend, transport.irecv):
        for peer in range(world.world_size):
            with pytest.raises(ValueError, match="'activation': the tensor is not contiguous"):
                start_transfer(turned, peer, "activation")
    assert not any(transport.sent_bytes)
    assert not any(transport.received_bytes)


def unknown_channel_is_refused(transport: Transport, world: World) -> None:
    for start_transfer in (transport.isend, transport.irecv):
        for peer in range(world.world_size):
            with pytest.raises(ValueError, match="'push': not one of activation, gradient, label"):
                start_transfer(torch.zeros(3), peer, "push")


def waiting_twice_is_harmless(transport: Transport, world: World) -> None:
    following, previous = ring(world)
    first, second = torch.zeros(5), torch.zeros(5)
    receive = transport.irecv(first, previous, "activation")
    send = transport.isend(message(5, 1), following, "activation")
    for transfer in (receive, receive, send, send, receive):
        transfer.wait()
    later = transport.irecv(second, previous, "activation")
    receive.wait()
    transport.isend(message(5, 2), following, "activation").wait()
    later.wait()
    later.wait()
    expect(first, message(5, 1))
    expect(second, message(5, 2))


def silent_peer_is_named(transport: Transport, world: World) -> None:
    """A time-out names the message and the peer; over MPI a late message still arrives."""
    kind = "mpi" if isinstance(transport, MpiTransport) else "torch"
    impatient = dataclasses.replace(world, timeout_s=2.0)
    quick = open_transport(kind, impatient, ["activation"])
    if world.rank == 0:
        buffer = torch.zeros(1000)
        receive = quick.irecv(buffer, 1, "activation")
        with pytest.raises(TransportError) as caught:
            receive.wait()
        world.store.set("timed out", "")
        wanted = "rank 0 (conv): activation (4,000 bytes) from rank 1 (conv) timed out after "
        assert str(caught.value).startswith(wanted), caught.value
        if kind == "mpi":
            receive.wait()
            expect(buffer, message(1000, 1))
    else:
        while not world.store.check(["timed out"]):
            time.sleep(0.05)
        if world.rank == 1 and kind == "mpi":
            quick.isend(message(1000, 1), 0, "activation").wait()
    world.barrier("the end of the silence")
    quick.close()


CASES: tuple[Callable[[Transport, World], None], ...] = (
    messages_of_all_sizes,
    every_dtype,
    every_shape,
    order_within_a_channel,
    messages_before_anyone_receives,
    channels_do_not_wait_for_each_other,
    a_thread_for_every_channel,
    message_to_itself,
    messages_to_itself_keep_their_order,
    empty_messages,
    bytes_are_counted_by_peer,
    what_is_not_contiguous_is_refused,
    unknown_channel_is_refused,
    waiting_twice_is_harmless,
    silent_peer_is_named,
)
NAMES = tuple(case.__name__ for case in CASES)


def run_cases(kind: str, names: Sequence[str] = NAMES) -> Outcome:
    """One rank's part of the named cases, each with a transport of its own."""
    backend: Backend = "nccl" if kind == "nccl" else "gloo"
    world = start(environment(), ROLES, timeout_s=TIMEOUT_S, device="cpu", backend=backend)
    outcome: Outcome = {}
    for name, case in zip(NAMES, CASES, strict=True):
        if name not in names:
            continue
        transport = open_transport(kind, world, CHANNELS)
        try:
            case(transport, world)
            outcome[name] = ""
        except Exception:
            outcome[name] = traceback.format_exc()
        world.barrier(f"the end of {name}")
        transport.close()
    stop(world)
    return outcome


def meet_death(kind: str) -> str:
    """Rank 1 is killed while the others wait for it. What a survivor is told."""
    world = start(environment(), ROLES, timeout_s=60, device="cpu")
    transport = open_transport(kind, world, CHANNELS)
    world.barrier("the last moment")
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    buffer = torch.zeros(1000)
    try:
        transport.irecv(buffer, 1, "activation").wait()
    except TransportError as error:
        with pytest.raises(TransportError, match=r"to rank 1 \(conv\) failed, the peer is gone"):
            transport.isend(buffer, 1, "activation").wait()  # known as soon as it starts
        return str(error)
    return "nothing was noticed"


def main(part: str, folder: Path) -> None:
    """This MPI rank's part; its outcome goes to a file."""
    torch.set_num_threads(1)
    rank = os.environ["OMPI_COMM_WORLD_RANK"]
    outcome = run_cases("mpi") if part == "cases" else {"killed": meet_death("mpi")}
    (folder / f"rank-{rank}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
