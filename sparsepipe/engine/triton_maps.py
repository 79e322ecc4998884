"""The tables of kernel maps by Triton's kernels: the same launches make as many as are wanted.

What a table is made of is a job, a row of a small tensor that goes to the device:

    look up     A program (a block of GPU threads) looks up a tile of outputs of one job under all
                offsets, in the order of `sparsepipe.engine.lookup.searches`:

                    for each offset:
                        walk up from the inputs before, or begin a new binary search
                        is there the key that is wanted?                the row of the table
                        set the offset's bit in the masks of those outputs that have an input

    sort        The masks of all tables, those of a table side by side: its number stands in the
                bits above.
    arrange     A program copies a tile of columns to where they were sorted to.

The kernels run on CUDA, and on a CPU only with TRITON_INTERPRET=1, which is slow and for tests.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsepipe.engine.kernel import Kernel
from sparsepipe.engine.layouts import Neighbours
from sparsepipe.engine.lookup import MASK_BITS, MOST_TABLES, Table, Wanted, mask_type, searches

ROWS = 64
"""The outputs of a tile."""
WARPS = 2
"""The warps of a program: a thread for each output."""
REGISTERS = 48
"""What a thread takes of them. Not told so, the compiler may spill a few for more threads."""


class Job(NamedTuple):
    """What the kernels know of a table, in the order in which they read it."""

    program: int
    """The number of its first program."""
    keys: int
    queries: int
    plan: int
    """The addresses of the keys of inputs and outputs, and of the searches."""
    inputs: int
    """The number of inputs."""
    height: int
    """The number of outputs."""
    offsets: int
    doublings: int
    """2^doublings is more than the number of inputs."""
    column: int
    """Where its outputs begin among those of all tables."""
    cell: int
    """Where its table begins among all tables."""


FIELDS = len(Job._fields)


def look_up(wanted: Wanted) -> Table:
    """See `sparsepipe.engine.lookup.look_up`."""
    jobs = _jobs([wanted])
    inputs, masks = _looked_up(jobs, _on_device(jobs, wanted.keys.device))
    return Table(inputs.view(jobs[0].offsets, -1), masks)


def side_by_side(wanted: Sequence[Wanted]) -> list[Neighbours]:
    """What `sparsepipe.engine.layouts.side_by_side` makes of each of some tables, of which all are
    on one device. The same launches make as many as `MOST_TABLES`."""
    found: list[Neighbours] = []
    for start in range(0, len(wanted), MOST_TABLES):
        found += _side_by_side(wanted[start : start + MOST_TABLES])
    return found


def _side_by_side(wanted: Sequence[Wanted]) -> list[Neighbours]:
    """`MOST_TABLES` of them, or fewer."""
    jobs = _jobs(wanted)
    there = _on_device(jobs, wanted[0].keys.device)
    table, masks = _looked_up(jobs, there)
    order = masks.argsort(stable=True)
    outputs, inputs = torch.empty_like(order), torch.empty_like(table)
    programs = _programs(jobs)
    if programs:
        with torch.cuda.device_of(order):
            arrange_kernel[(programs,)](
                there, len(jobs), order, table, outputs, inputs, **_constants()
            )
    heights = [job.height for job in jobs]
    sizes = [job.offsets * job.height for job in jobs]
    return [
        Neighbours(of_table, cells.view(job.offsets, job.height))
        for job, of_table, cells in zip(
            jobs, outputs.split(heights), inputs.split(sizes), strict=True
        )
    ]


def _looked_up(jobs: list[Job], there: Tensor) -> tuple[Tensor, Tensor]:
    """All tables one after the other, int32, and the masks of all outputs, which sort the outputs
    of each table side by side."""
    columns = sum(job.height for job in jobs)
    cells = sum(job.offsets * job.height for job in jobs)
    alone = mask_type(jobs[0].offsets) if len(jobs) == 1 else torch.int64
    table = torch.empty(cells, dtype=torch.int32, device=there.device)
    masks = torch.empty(columns, dtype=alone, device=there.device)
    programs = _programs(jobs)
    if programs:
        with torch.cuda.device_of(there):
            look_up_kernel[(programs,)](
                there, len(jobs), table, masks, MASK_BITS=MASK_BITS, **_constants()
            )
    return table, masks


def _jobs(wanted: Sequence[Wanted]) -> list[Job]:
    """The jobs of some tables."""
    jobs: list[Job] = []
    program = column = cell = 0
    for keys, queries, kernel, backwards in wanted:
        plan = _plan(kernel, backwards, keys.device)
        addresses = keys.data_ptr(), queries.data_ptr(), plan.data_ptr()
        sizes = len(keys), len(queries), len(plan), len(keys).bit_length()
        jobs.append(Job(program, *addresses, *sizes, column, cell))
        program += triton.cdiv(len(queries), ROWS)
        column += len(queries)
        cell += len(plan) * len(queries)
    return jobs


def _on_device(jobs: list[Job], device: torch.device) -> Tensor:
    """The jobs as the kernels read them, int64 [jobs, fields]. The host does not wait for the
    copy."""
    there = torch.empty((len(jobs), FIELDS), dtype=torch.int64, device=device)
    return there.copy_(torch.tensor(jobs), non_blocking=True)


def _programs(jobs: list[Job]) -> int:
    """The programs of all jobs."""
    return jobs[-1].program + triton.cdiv(jobs[-1].height, ROWS)


def _constants() -> dict[str, int]:
    """The constants of both kernels, and what their compiler is told."""
    told = {"num_warps": WARPS, "maxnreg": REGISTERS}
    return {"ROWS": ROWS, "MOST": MOST_TABLES, "FIELDS": FIELDS, **told}


@lru_cache(maxsize=256)
def _plan(kernel: Kernel, backwards: bool, device: torch.device) -> Tensor:
    """The searches for all offsets, int64 [K, 4], on the device."""
    return torch.tensor(searches(kernel, backwards), device=device)


@triton.jit
def own_job(
    jobs: tl.tensor, number: tl.tensor, MOST: tl.constexpr, FIELDS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """The job of this program out of a number of jobs, and where its record lies."""
    others = tl.arange(0, MOST)
    firsts = tl.load(jobs + others * FIELDS, mask=others < number, other=0)
    begun = (firsts <= tl.program_id(0)) & (others < number)
    job = tl.sum(begun.to(tl.int64), 0) - 1
    return job, jobs + job * FIELDS


@triton.jit(do_not_specialize=["number"])
def look_up_kernel(
    jobs: tl.tensor,
    number: tl.tensor,
    table: tl.tensor,
    masks: tl.tensor,
    ROWS: tl.constexpr,
    MOST: tl.constexpr,
    FIELDS: tl.constexpr,
    MASK_BITS: tl.constexpr,
) -> None:
    """Fill the tables of a number of jobs, and the masks of their outputs."""
    number_of_job, job = own_job(jobs, number, MOST, FIELDS)
    keys = tl.load(job + 1).to(tl.pointer_type(tl.int64))
    queries = tl.load(job + 2).to(tl.pointer_type(tl.int64))
    plan = tl.load(job + 3).to(tl.pointer_type(tl.int64))
    count, height = tl.load(job + 4), tl.load(job + 5)
    offsets, doublings = tl.load(job + 6), tl.load(job + 7)
    table += tl.load(job + 9)
    rows = (tl.program_id(0) - tl.load(job)) * ROWS + tl.arange(0, ROWS)
    inside = rows < height
    query = tl.load(queries + rows, mask=inside, other=0)
    mask = tl.zeros((ROWS,), dtype=tl.int64)
    place = tl.zeros((ROWS,), dtype=tl.int64)  # how many keys are below the one that is wanted
    for _ in range(offsets):
        wanted = query + tl.load(plan)
        steps = tl.load(plan + 1)
        if steps < 0:
            place = tl.zeros((ROWS,), dtype=tl.int64)
            for halving in range(doublings):
                further = place + (tl.full((), 1, tl.int64) << (doublings - 1 - halving))
                below = tl.load(keys + further - 1, mask=further <= count, other=0) < wanted
                place = tl.where(below & (further <= count), further, place)
        for _ in range(steps):
            below = tl.load(keys + place, mask=place < count, other=0) < wanted
            place = tl.where(below & (place < count), place + 1, place)
        there = tl.load(keys + place, mask=place < count, other=0) == wanted
        there = there & (place < count) & inside
        tl.store(table + tl.load(plan + 2) * height + rows, tl.where(there, place, -1), mask=inside)
        mask = mask | (there.to(tl.int64) << tl.load(plan + 3))
        plan += 4
    mask = mask | (number_of_job << MASK_BITS)
    tl.store(masks + tl.load(job + 8) + rows, mask, mask=inside)


@triton.jit(do_not_specialize=["number"])
def arrange_kernel(
    jobs: tl.tensor,
    number: tl.tensor,
    order: tl.tensor,
    table: tl.tensor,
    outputs: tl.tensor,
    inputs: tl.tensor,
    ROWS: tl.constexpr,
    MOST: tl.constexpr,
    FIELDS: tl.constexpr,
) -> None:
    """Fill outputs and inputs, the columns of all tables in an order of all outputs, which leaves
    those of each job together. Outputs are numbered from 0 in each job."""
    _, job = own_job(jobs, number, MOST, FIELDS)
    height, offsets = tl.load(job + 5), tl.load(job + 6)
    column, cell = tl.load(job + 8), tl.load(job + 9)
    rows = (tl.program_id(0) - tl.load(job)) * ROWS + tl.arange(0, ROWS)
    inside = rows < height
    source = tl.load(order + column + rows, mask=inside, other=0) - column
    tl.store(outputs + column + rows, source, mask=inside)
    for _ in range(offsets):
        found = tl.load(table + cell + source, mask=inside, other=0)
        tl.store(inputs + cell + rows, found, mask=inside)
        cell += height
