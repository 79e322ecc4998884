"""Faults on emulated links: what they take there, beside what the simulator says."""

import json

import pytest

from systems.clusters.faults import Faults, LinkFault, OtherJob, Straggler
from systems.faulty import simulate_on
from systems.program import Program
from tests import emulation
from tests.emulation import needs_emulation
from tests.systems.topologies import small

RATE = 100e6
RANKS, STEPS = 3, 9
COMPUTE_S, SIZE_BYTES = 0.06, 1_000_000

JOB = f"""
import json, socket, threading
from systems import schema
from systems.clusters.faults import Faults
from tests.systems.network.emulated_faults import happening, waited_s
RANKS, STEPS, RATE, COMPUTE_S, SIZE = {RANKS}, {STEPS}, {RATE}, {COMPUTE_S}, {SIZE_BYTES}

def main(place):
    '''Compute, then send to the next rank and receive from the one before; all of this in steps.'''
    rank, chunk = place.rank, bytes(SIZE)
    server = socket.create_server((network.address(rank), 5000))
    for _ in range(100):
        try:
            after = socket.create_connection((network.address((rank + 1) % RANKS), 5000))
            break
        except OSError:
            time.sleep(0.05)
    before = server.accept()[0]
    time.sleep(max(0.0, began_s - time.monotonic()))
    for _ in range(STEPS):
        time.sleep(waited_s(faults, rank, began_s, COMPUTE_S))
        sending = threading.Thread(target=after.sendall, args=(chunk,))
        sending.start()
        left = SIZE
        while left:
            left -= len(before.recv(min(left, 65536)))
        sending.join()
        after.sendall(b"!")  # the next rank has got all that is before this, once it answers
        before.recv(1)
        before.sendall(b"!")
        after.recv(1)
    if rank == 0:
        os.write(1, json.dumps(time.monotonic() - began_s).encode() + b"\\n")

for text in sys.argv[1:]:
    faults = schema.read(Faults, json.loads(text), "faults")
    rates = [RATE] * RANKS
    with Network(rates) as network:
        began_s = time.monotonic() + 0.5
        with happening(faults, network, rates, began_s):
            code = emulate(network, RANKS, main)
    assert code == 0
"""

CASES = {
    "none": Faults(),
    "straggler": Faults(stragglers=(Straggler(rank=1, factor=3.0, from_s=0.4, until_s=1.2),)),
    "degraded link": Faults(links=(LinkFault(node=2, factor=0.25, from_s=0.5, until_s=1.5),)),
    "failed link": Faults(links=(LinkFault(node=1, factor=0.0, from_s=0.5, until_s=1.0),)),
    "second job": Faults(
        jobs=(OtherJob(name="backup", source=0, target=2, from_s=0.3, bandwidth_bits_per_s=40e6),)
    ),
}


def simulated_s(faults: Faults) -> float:
    """The same in the simulator."""
    program, before = Program(), [list[int]() for _ in range(RANKS)]
    for _ in range(STEPS):
        done = [program.compute(f"rank {r}", COMPUTE_S, after=before[r]) for r in range(RANKS)]
        sent = [
            program.flow(r, (r + 1) % RANKS, SIZE_BYTES, name="ring", after=[done[r]])
            for r in range(RANKS)
        ]
        before = [[sent[r], sent[r - 1]] for r in range(RANKS)]
    return simulate_on(program, small(RANKS, rate=RATE, faults=faults)).end_s


@needs_emulation
def test_faults_take_as_long_as_the_simulator_says() -> None:
    from systems import schema

    texts = [json.dumps(schema.dump(faults)) for faults in CASES.values()]
    done = emulation.run(JOB, *texts)
    assert done.returncode == 0, done.stderr
    emulated_s = dict(zip(CASES, map(float, done.stdout.split()), strict=True))
    expected_s = {name: simulated_s(faults) for name, faults in CASES.items()}
    assert emulated_s == pytest.approx(expected_s, rel=0.1), (emulated_s, expected_s)
