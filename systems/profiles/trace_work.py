"""Finds out in a trace which work was done for which layer, in which pass.

A piece of work is an operator that no other operator has called, with all that it called and all
kernels that it started. On a CPU it takes as long as the operator; on a GPU, as its kernels.

Forward, work belongs to the layer in whose range (a call of a module, or a range that
`record_function` has named) the operator began. Backward it has no range: autograd runs the nodes
of its graph, in a thread of its own where there is a GPU. But each node has the sequence number of
the forward operator that made it. Operators that make no node note the number of the next node, so
several have the same one: the last of them to begin is the one that made it.

Autograd runs a node that accumulates the gradient of a parameter before all others. So it follows
the node that computed the gradient, and tells which layer the parameter belongs to.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from systems.profiles.trace_file import CALL, LAUNCHES, MODULE, ON_GPU, OPERATOR, RANGE, Event

STEP = "ProfilerStep#"
"""How the range begins that a profiler with a schedule puts around every step."""
OPTIMIZER = "Optimizer."
"""How the ranges begin that torch puts around what an optimizer does."""
NODE = "autograd::engine::evaluate_function: "
"""How the operator is called that runs a node of the backward pass."""
ACCUMULATION = "torch::autograd::AccumulateGrad"
"""The node that accumulates the gradient of a parameter."""
COMMUNICATION = "nccl"
"""How the kernels begin that send and receive."""
OF_TORCH = (STEP, OPTIMIZER, "enumerate(DataLoader)", "DistributedDataParallel", "Torch-Compiled")
"""How ranges begin that torch names itself. They are no layers."""
TYPES = {
    "double": torch.float64,
    "float": torch.float32,
    "c10::Half": torch.float16,
    "c10::BFloat16": torch.bfloat16,
    "long int": torch.int64,
    "int": torch.int32,
    "unsigned char": torch.uint8,
    "bool": torch.bool,
}
"""The types of tensors, by the names that traces give them."""


@dataclass(eq=False)
class Span:
    """One call of a module, or one range that a user has named."""

    name: str
    """The module as torch counts it, such as "Conv2d_3", or the name of the range."""
    start_us: float
    """When it began."""
    outer: "Span | None"
    """The span that it lies in."""
    thread: tuple[object, object]
    """The thread that it ran in."""


@dataclass(eq=False)
class Work:
    """An operator that no other has called, and all that was done for it."""

    operator: Event
    """The operator."""
    span: Span | None
    """The innermost span that it began in."""
    in_optimizer: bool
    """Whether an optimizer has called it."""
    answers: "Work | None" = None
    """For work of the backward pass: the work of the forward pass that made its node."""
    kernels_us: float = 0.0
    """How long its kernels took, without those that communicate."""
    communication_us: float = 0.0
    """How long its kernels took that communicate."""
    gradient_bytes: int | None = None
    """For work of the backward pass: the bytes of the gradients that its node takes. They are as
    large as what the forward pass has returned. None: the trace has no shapes."""
    takes: tuple[list[int], torch.dtype] | None = None
    """The shape and the type of the first tensor that it takes. None: nobody has said."""

    @property
    def start_us(self) -> float:
        """The microsecond at which the work began."""
        return self.operator.start_us

    @property
    def is_backward(self) -> bool:
        """Whether it is a node of the backward pass."""
        return self.operator.name.startswith(NODE)

    @property
    def accumulates(self) -> bool:
        """Whether it adds a gradient to that of a parameter."""
        return self.operator.name == NODE + ACCUMULATION


@dataclass(kw_only=True)
class TracedWork:
    """All spans and all work of a trace, in the order in which they began."""

    spans: list[Span]
    works: list[Work]
    steps: list[Event]
    """The steps that the profiler has marked."""
    again: list[str]
    """The names of spans that began in the backward pass, because nothing was kept of them."""
    unclaimed_us: float = 0.0
    """How long those kernels took that no operator is known to have started."""


def find_work(events: Iterable[Event], *, modules: bool) -> TracedWork:
    """Sort the events of a trace, which are ordered by start.

    Args:
        modules: whether calls of modules are the spans; else ranges that the user has named.
    """
    traced = TracedWork(spans=[], works=[], steps=[], again=[])
    span_of: dict[int, Span] = {}  # by the identity of its event
    work_of: dict[int, Work] = {}
    claims: dict[tuple[str, object], Work] = {}  # a kernel's number, and who started it
    made: dict[int, Work] = {}  # a sequence number, and who made the node
    kernels = []
    for event, around in _nested(events):
        if event.kind in ON_GPU:
            kernels.append(event)
        elif event.kind == OPERATOR or event.kind in LAUNCHES:
            root = next((e for e in around if id(e) in work_of), event)
            if root is event:
                work_of[id(event)] = _new_work(event, around, span_of)
                traced.works.append(work_of[id(event)])
            _add(event, work_of[id(root)], made, claims)
        elif event.name.startswith(STEP):
            traced.steps.append(event)
        elif _is_span(event, modules):
            name = event.name.removeprefix(MODULE)
            if any(e.name.startswith(NODE) for e in around):
                traced.again.append(name)
                continue
            outer = next((span_of[id(e)] for e in reversed(around) if id(e) in span_of), None)
            span_of[id(event)] = Span(name, event.start_us, outer, event.thread)
            traced.spans.append(span_of[id(event)])
    for kernel in kernels:
        _charge(kernel, claims, traced)
    return traced


def _nested(events: Iterable[Event]) -> Iterator[tuple[Event, list[Event]]]:
    """Yield each event with the events of its thread that it lies in, the outermost first."""
    open_of: dict[object, list[Event]] = defaultdict(list)
    for event in events:
        around = open_of[event.thread]
        while around and around[-1].end_us <= event.start_us:
            around.pop()
        yield event, around
        around.append(event)


def _is_span(event: Event, modules: bool) -> bool:
    """Whether an event is a span; see `find_work`."""
    if modules:
        return event.kind == CALL
    return event.kind == RANGE and not event.name.startswith(OF_TORCH)


def _new_work(operator: Event, around: list[Event], span_of: dict[int, Span]) -> Work:
    """The work that an operator begins, which lies in some events."""
    span = next((span_of[id(e)] for e in reversed(around) if id(e) in span_of), None)
    in_optimizer = any(e.name.startswith(OPTIMIZER) for e in around)
    return Work(operator, span, in_optimizer)


def _add(
    event: Event, work: Work, made: dict[int, Work], claims: dict[tuple[str, object], Work]
) -> None:
    """Add what an operator of a piece of work tells: what it answers, makes, starts and takes."""
    arguments = event.arguments
    for key in ("External id", "correlation"):
        if key in arguments:
            claims[key, arguments[key]] = work
    number = arguments.get("Sequence number")
    if work.is_backward:
        if number is not None and work.answers is None:
            work.answers = made.get(number)
        if work.gradient_bytes is None and event.name == work.operator.name.removeprefix(NODE):
            work.gradient_bytes = _bytes(arguments)
    else:
        if number is not None and not arguments.get("Fwd thread id"):
            made[number] = work
        shapes = zip(arguments.get("Input Dims", ()), arguments.get("Input type", ()), strict=False)
        tensors = ((dims, TYPES[kind]) for dims, kind in shapes if dims and kind in TYPES)
        work.takes = work.takes or next(tensors, None)


def _bytes(arguments: Mapping[str, Any]) -> int | None:
    """The bytes of all tensors that an operator takes; None if the trace does not tell."""
    if "Input Dims" not in arguments or "Input type" not in arguments:
        return None
    total = 0
    for dims, kind in zip(arguments["Input Dims"], arguments["Input type"], strict=True):
        if kind in TYPES:
            total += math.prod(dims) * TYPES[kind].itemsize
        elif dims:  # a list of tensors, or a type of which nothing is known
            return None
    return total


def _charge(kernel: Event, claims: dict[tuple[str, object], Work], traced: TracedWork) -> None:
    """Add the time of a kernel to the work that has started it."""
    keys = [(key, kernel.arguments.get(key)) for key in ("correlation", "External id")]
    work = next((claims[key] for key in keys if key in claims), None)
    if work is None:
        traced.unclaimed_us += kernel.duration_us
    elif kernel.name.startswith(COMMUNICATION):
        work.communication_us += kernel.duration_us
    else:
        work.kernels_us += kernel.duration_us
