"""Sums up what every layer of a model cost in each training step of a trace.

A layer is a span in which no other lies: a call of a module without modules inside it, or a range
of the user's own. A module that is called outside all others, such as a loss beside a model, is
none.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from systems.measure import Spread, spread
from systems.profiles.trace_file import CALL, REMEDY, Event, Trace
from systems.profiles.trace_work import NODE, Span, TracedWork, Work, find_work
from systems.schema import InputError

COMPILED = "CompiledFunction"
"""How the operators begin that run what torch.compile has made of several layers."""
T = TypeVar("T", Span, Work)
COMMUNICATION, OPTIMIZER = "communication between ranks", "the optimizer"
ACCUMULATION = "accumulation of gradients"
IDLE = {False: "no operator ran: Python, waits", True: "no kernel ran: the GPU was idle"}
"""What the rest of a step is called, on a CPU and on a GPU."""


@dataclass(kw_only=True)
class LayerCost:
    """What one call of a layer cost in one step."""

    name: str
    """The name of its span."""
    forward_us: float = 0.0
    """Microseconds of the forward pass."""
    backward_us: float = 0.0
    """Microseconds of the backward pass."""
    activation_bytes: int | None = None
    """Size of the layer's output. None: it has no backward pass, or the trace has no shapes."""
    parameter_bytes: int = 0
    """Size of the parameters whose gradients it computes. A parameter that several layers share is
    counted for the one that ran first."""


@dataclass(kw_only=True)
class StepCost:
    """What one step cost."""

    name: str
    """The name of the step, such as "ProfilerStep#3"."""
    duration_us: float
    """How long it took, whether or not anything was computed."""
    layers: list[LayerCost]
    """Every call of a layer, in the order of the forward pass."""
    outside_us: dict[str, float]
    """What was done for no layer, by what it was."""
    outside_bytes: int
    """Size of the parameters whose gradients were computed for no layer."""
    takes: tuple[list[int], torch.dtype] | None
    """The shape and the type of what the model takes: of the first tensor that an operator in a
    span takes. None: the trace has no shapes."""

    @property
    def layers_us(self) -> float:
        """The microseconds that both passes of all layers took."""
        return sum(layer.forward_us + layer.backward_us for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class TracedLayers:
    """What a trace tells of the layers of a model."""

    steps: list[StepCost]
    """The steps that count, all with the same layers."""
    notes: list[str]
    """What was left out of it and why, in sentences."""
    of_modules: bool
    """Whether layers are calls of modules; else they are ranges that the user has named."""

    @property
    def step_s(self) -> Spread:
        """The seconds of a step."""
        return spread([step.duration_us / 1e6 for step in self.steps])

    @property
    def outside_s(self) -> dict[str, float]:
        """The median seconds of a step that were spent for no layer, by what was done."""
        names = {name: None for step in self.steps for name in step.outside_us}
        return {
            name: statistics.median(step.outside_us.get(name, 0.0) for step in self.steps) / 1e6
            for name in names
        }


def find_layers(trace: Trace, path: Path, layers: str | None = None) -> TracedLayers:
    """Find the layers of a model in a trace of its training, and what they cost in each step.

    The first of several steps is left out, for it warms up.

    Args:
        path: the file of the trace, for errors.
        layers: "modules" or "ranges". None takes modules where the trace names some.

    Raises:
        InputError: there are no layers, no backward pass or no steps where they are needed, or the
            steps do not have the same layers.
    """
    if layers is None:
        of_modules = any(event.kind == CALL for event in trace.events)
    else:
        of_modules = layers == "modules"
    traced = find_work(trace.events, modules=of_modules)
    where = f"trace {path}"
    if any(event.name.startswith(COMPILED) for event in trace.events):
        raise InputError(f"{where}: torch.compile has fused its layers; trace the model without it")
    _check(traced, where)
    spans, notes = _layer_spans(traced, of_modules)
    if not spans:
        raise InputError(f"{where}: no range has a backward pass; name layers, or {REMEDY}")
    if len({span.thread for span in (traced.spans if of_modules else spans)}) > 1:
        raise InputError(
            f"{where}: layers ran in several threads, as those of nn.DataParallel do; give a trace "
            "of one rank that has one model"
        )
    steps = []
    for window in traced.steps or [_whole(traced)]:
        works, layer_spans = _within(traced.works, window), _within(spans, window)
        _check_passes(window, works, layer_spans, where)
        steps.append(_cost(window, works, layer_spans, trace.on_gpu))
    if traced.unclaimed_us:
        notes.append(
            f"no operator is known to have started kernels of {traced.unclaimed_us / 1e3:.3f} ms "
            "in the whole trace"
        )
    return TracedLayers(
        steps=_alike(steps, notes, marked=bool(traced.steps), where=where),
        notes=notes,
        of_modules=of_modules,
    )


def _check(traced: TracedWork, where: str) -> None:
    """Refuse a trace that has no spans, or no backward pass of theirs."""
    if not traced.spans:
        raise InputError(
            f"{where}: has neither calls of modules nor ranges of record_function; {REMEDY}"
        )
    if traced.again:
        raise InputError(
            f"{where}: {traced.again[0]} ran again in the backward pass, where its forward and "
            "backward times cannot be told apart; trace without activation checkpointing"
        )
    if not any(work.is_backward for work in traced.works):
        raise InputError(f"{where}: has no backward pass; trace training steps: {REMEDY}")
    if not any(work.answers is not None for work in traced.works):
        raise InputError(
            f"{where}: nothing ties its backward pass to the forward pass (no sequence numbers); "
            f"{REMEDY}"
        )


def _layer_spans(traced: TracedWork, of_modules: bool) -> tuple[list[Span], list[str]]:
    """The spans that are layers, in order, and notes about the others."""
    containers = {span.outer.name for span in traced.spans if span.outer is not None}
    leaves = [span for span in traced.spans if span.name not in containers]
    if of_modules:
        inside = [span for span in leaves if span.outer is not None] or leaves
        others = {span.name for span in leaves} - {span.name for span in inside}
        why = "it is called outside the model"
    else:
        answered = {work.answers.span for work in traced.works if work.answers is not None}
        named = {span.name for span in answered if span is not None}
        inside = [span for span in leaves if span.name in named]
        others = {span.name for span in leaves} - named
        why = "nothing in the backward pass belongs to it"
    return inside, [f"{name} is no layer: {why}" for name in sorted(others)]


def _whole(traced: TracedWork) -> Event:
    """The time from the first span or operator of a trace to its last operator, as a step."""
    first = traced.works[0].operator
    start_us = min(first.start_us, traced.spans[0].start_us)
    end_us = max(work.operator.end_us for work in traced.works)
    return replace(first, name="the whole trace", start_us=start_us, duration_us=end_us - start_us)


def _within(items: Sequence[T], window: Event) -> list[T]:
    """Choose the work, or the spans, that began in a window of time."""
    return [item for item in items if window.start_us <= item.start_us < window.end_us]


def _check_passes(window: Event, works: list[Work], layers: list[Span], where: str) -> None:
    """Refuse a step in which a backward pass does not follow the forward pass of all its layers."""
    backward = next((work.start_us for work in works if work.answers is not None), None)
    if layers and backward is None:
        raise InputError(
            f"{where}: {window.name} has layers and no backward pass; trace training steps alone"
        )
    again = [span for span in layers if backward is not None and span.start_us > backward]
    if again:
        raise InputError(
            f"{where}: {again[0].name} runs after a backward pass in {window.name}, which is more "
            f"than one batch; call p.step() after every batch, or {REMEDY}"
        )


def _cost(window: Event, works: list[Work], layers: list[Span], on_gpu: bool) -> StepCost:
    """Sum up one step: the work that began in it, for the layers that began in it."""
    cost_of = {span: LayerCost(name=span.name) for span in layers}
    outside_us: dict[str, float] = defaultdict(float)
    outside_bytes, owner = 0, None
    for work in works:
        # A node of the backward pass belongs to the layer whose forward operator made it.
        forward = work.answers or work
        took_us = work.kernels_us if on_gpu else work.operator.duration_us
        if work.communication_us:
            outside_us[COMMUNICATION] += work.communication_us
        if work.accumulates:
            outside_us[ACCUMULATION] += took_us
            # Autograd accumulates a parameter's gradient just after the node that computed it.
            if owner is None:
                outside_bytes += work.gradient_bytes or 0
            else:
                owner.parameter_bytes += work.gradient_bytes or 0
            continue
        layer = cost_of.get(forward.span) if forward.span is not None else None
        if work.is_backward:
            owner = layer
        if layer is None:
            outside_us[_described(work, forward)] += took_us
        elif work.is_backward:
            layer.backward_us += took_us
            if layer.activation_bytes is None:  # of its nodes the last that was made runs first
                layer.activation_bytes = work.gradient_bytes
        else:
            layer.forward_us += took_us
    busy_us = sum(outside_us.values())
    busy_us += sum(cost.forward_us + cost.backward_us for cost in cost_of.values())
    outside_us[IDLE[on_gpu]] = max(0.0, window.duration_us - busy_us)
    return StepCost(
        name=window.name,
        duration_us=window.duration_us,
        layers=list(cost_of.values()),
        outside_us=dict(outside_us),
        outside_bytes=outside_bytes,
        takes=next((work.takes for work in works if work.span and work.takes), None),
    )


def _described(work: Work, forward: Work) -> str:
    """Say what a piece of work was that was done for no layer."""
    return OPTIMIZER if work.in_optimizer else forward.operator.name.removeprefix(NODE)


def _alike(steps: list[StepCost], notes: list[str], *, marked: bool, where: str) -> list[StepCost]:
    """The steps that count, which all have the same layers; adds notes about the others."""
    with_layers = [step for step in steps if step.layers]
    if not with_layers:
        raise InputError(f"{where}: no layer ran inside a step of the profiler; {REMEDY}")
    if len(with_layers) < len(steps):
        notes.append(f"{len(steps) - len(with_layers)} steps have no layers and are left out")
    if not marked:
        notes.append("no steps are marked: the whole trace is taken for one, its warm-up included")
    elif len(with_layers) > 1:
        notes.append(f"{with_layers[0].name} is left out: the first step warms up")
        with_layers = with_layers[1:]
    else:
        notes.append("there is one step alone, its warm-up included")
    first = with_layers[0]
    for step in with_layers[1:]:
        names = [[layer.name for layer in s.layers] for s in (first, step)]
        if names[0] != names[1]:
            pairs = zip(*([*n, "nothing"] for n in names), strict=False)
            here, there = next(pair for pair in pairs if pair[0] != pair[1])
            raise InputError(
                f"{where}: {step.name} runs {there} where {first.name} runs {here}; trace steps "
                "that are alike"
            )
    return with_layers
