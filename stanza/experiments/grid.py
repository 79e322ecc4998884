"""The grid of emulated runs: the paper's models by every scheme, on emulated nodes at 10 Gb/s.

Every point is known twice: played by the simulator, and run by the trainer over shaped links. Here
is what is run, and what is claimed of it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from stanza.experiments.digits_figures import busiest
from stanza.experiments.simulated import at_rate
from stanza.experiments.targets import (
    AUTO,
    CLUSTER,
    MODELS,
    OVER_DDP,
    PAPER,
    PAPER_RANGE,
    SPEEDUP_SOURCE,
    SPEEDUP_TARGETS,
)
from stanza.options import Options
from systems.clusters.cluster import load
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Case, Comparison, Results

NODES = 10
"""Of the paper's cluster."""
FEWER_NODES = 4
SWEEP_NODES = (2, 6, 8)
"""More sizes at which the schemes of the figure over nodes are emulated."""
MOST_FC_WORKERS = 5
WARM_UP_STEPS, MEASURED_STEPS = 2, 3
AGREE = 0.1
"""Simulation and emulation should agree this well ..."""
AGREEING = 0.9
"""... on this part of the grid."""
OVER_PIPELINED = {"alexnet": 10.0, "vgg16": 4.5, "resnet50": 1.2, "inception-v3": 1.2}
"""Against one-server pipelined PS: this project's targets."""

_PS = {"scheme": "ps", "ps_mode": "pipelined"}
SCHEMES: dict[str, dict[str, Any]] = {
    "ps-blocking": {"scheme": "ps"},
    "ps-pipelined": _PS,
    "ps-sharded": {**_PS, "ps_placement": "colocated"},
    "ddp": {"scheme": "ddp"},
    "stanza f=1": {"fc_workers": 1},
    "stanza f=2": {"fc_workers": 2},
    "auto": AUTO,
    "as published": {"fc_workers": 1, "micro_batches": 1},
}
MODES: dict[str, dict[str, Any]] = {
    "columns f=2": {"fc_workers": 2, "fc_parallel": "columns"},
    "both roles f=1": {"fc_workers": 1, "fc_placement": "colocated"},
    "both roles, columns f=10": {
        "fc_workers": 10,
        "fc_parallel": "columns",
        "fc_placement": "colocated",
    },
    "bfloat16 cut": {"fc_workers": 1, "cut_dtype": "bfloat16"},
}
"""What goes beyond the paper beside micro-batches; emulated at the full level."""
GIGABITS = (1, 25, 100)
"""More link rates at which the planner's choice and DDP are emulated."""
OVER_NODES = ("ps-blocking", "ps-sharded", "ddp", "auto")
"""The schemes of the figure over nodes."""


def case_name(model: str, scheme: str, nodes: int, gigabits: float | None = None) -> str:
    """The name of a point of the grid, or of one at another link rate."""
    return f"{model} {scheme} {nodes}" + ("" if gigabits is None else f" at {gigabits:g}g")


def _case(model: str, scheme: str, nodes: int, level: Any, gigabits: float | None = None) -> Case:
    known = SCHEMES | MODES
    chosen = known[scheme] if scheme in known else {"fc_workers": int(scheme.split("=")[1])}
    steps = WARM_UP_STEPS + MEASURED_STEPS
    options = Options(model=model, steps=steps, warm_up_steps=WARM_UP_STEPS)
    return Case(
        name=case_name(model, scheme, nodes, gigabits),
        options=dataclasses.replace(options, **chosen),
        nodes=nodes,
        cluster=None if gigabits is None else at_rate(load(CLUSTER), gigabits),
        level=level,
    )


CASES = (
    *(_case(model, scheme, NODES, "quick") for model in MODELS for scheme in SCHEMES),
    *(_case(model, scheme, FEWER_NODES, "full") for model in MODELS for scheme in SCHEMES),
    *(
        _case(model, scheme, nodes, "full")
        for model in MODELS
        for scheme in OVER_NODES
        for nodes in SWEEP_NODES
    ),
    *(
        _case(model, f"stanza f={f}", NODES, "full")
        for model in MODELS
        for f in range(3, MOST_FC_WORKERS + 1)
    ),
    *(
        _case(model, mode, NODES, "full")
        for model in MODELS
        for mode in MODES
        if model != "inception-v3" or "columns" not in mode  # its FC part is no chain
    ),
    *(
        _case(model, scheme, NODES, "full", gigabits)
        for model in MODELS
        for scheme in ("ddp", "auto")
        for gigabits in GIGABITS
    ),
)


def emulated_s(run: Mapping[str, Any]) -> float:
    """The emulated step time of a result."""
    return float(run["step_s"]["median"])


def throughput(run: Mapping[str, Any]) -> float:
    """Emulated samples/s of a result, by the median step."""
    return float(run["samples_per_step"]) / emulated_s(run)


def compared(results: Results) -> dict[str, tuple[float, float]]:
    """Simulated and emulated step time of every point of the grid that was run."""
    names = [
        case_name(model, scheme, nodes)
        for nodes in (FEWER_NODES, NODES)
        for model in MODELS
        for scheme in SCHEMES
    ]
    return {
        name: (
            float(results[name][0]["simulated_step_s"]),
            median(emulated_s(run) for run in results[name]),
        )
        for name in names
        if name in results
    }


def comparisons(results: Results) -> list[Comparison]:
    """The same points, for the report."""
    return [
        Comparison(
            what=f"{name} nodes: step time",
            predicted=simulated_s * 1e3,
            predicted_by="simulator",
            found=step_s * 1e3,
            unit="ms",
            tier="emulated",
            n=len(results[name]),
        )
        for name, (simulated_s, step_s) in compared(results).items()
    ]


def claims(results: Results) -> list[Claim]:
    """Agreement of the two tiers, and emulated speed-ups."""
    points = compared(results)
    if not points:
        return []
    agreeing = [abs(emulated / simulated - 1) <= AGREE for simulated, emulated in points.values()]
    agreement = claim(
        "stanza",
        "emulated-agrees-with-simulated",
        "grid",
        "emulated",
        what=f"part of {len(points)} points (model x scheme x nodes, 10 Gb/s) whose emulated and "
        "simulated step times are within 10 % of each other",
        values=[sum(agreeing) / len(agreeing)],
        unit="fraction",
        target=Target(least=AGREEING, source="this project's target"),
    )
    return [agreement, *(c for model in MODELS for c in _speedups(model, results))]


def _speedups(model: str, results: Results) -> list[Claim]:
    targets = {
        "ps-blocking": Target(least=SPEEDUP_TARGETS[model], source=SPEEDUP_SOURCE),
        "ps-pipelined": Target(least=OVER_PIPELINED[model], source="this project's target"),
        "ps-sharded": Target(least=0.98, source="f = 0 is among the choices; within 2 %"),
        "ddp": Target(least=OVER_DDP[model], source="this project's target"),
    }
    return [
        _as_published(model, results),
        *_saving(model, results),
        *_least_over_ddp(model, results),
        *(_speedup(model, results, scheme, target) for scheme, target in targets.items()),
    ]


def _least_over_ddp(model: str, results: Results) -> list[Claim]:
    by_rate = over_rates(results, model, "ddp")
    if len(by_rate) < 2:
        return []
    rates = ", ".join(f"{rate:g}" for rate in by_rate)
    return [
        claim(
            "stanza",
            "least-chosen-over-ddp",
            model,
            "emulated",
            what=f"the least of auto over DDP at {rates} Gb/s, {NODES} nodes",
            values=[min(by_rate.values())],
            unit="x",
            target=Target(least=0.98, source="f = 0 is among the choices; within 2 %"),
        )
    ]


def _as_published(model: str, results: Results) -> Claim:
    return claim(
        "stanza",
        "speedup-as-published-over-ps-blocking",
        model,
        "emulated",
        what="throughput of Stanza as published (one FC worker, no micro-batches) over one "
        f"blocking parameter server, {NODES} nodes, 10 Gb/s",
        values=speedups(results, model, "ps-blocking", of="as published"),
        unit="x",
        target=Target(least=PAPER_RANGE[0], most=PAPER_RANGE[1], source=PAPER),
        paper="1.34x to 13.9x",
    )


def _saving(model: str, results: Results) -> list[Claim]:
    """How many times more bytes the busiest node carries with a parameter server, each step."""
    separated, server = (
        busiest(results[case_name(model, scheme, NODES)][0], "tcp")
        for scheme in ("as published", "ps-blocking")
    )
    if not separated or not server:
        return []
    return [
        claim(
            "stanza",
            "bytes-of-ps-blocking-over-stanza",
            model,
            "emulated",
            what="TCP bytes per step of the busiest node, with one blocking parameter server over "
            f"Stanza as published, {NODES} nodes",
            values=[server / separated],
            unit="x",
            target=Target(least=1.0, source="separation should save bytes"),
        )
    ]


def _speedup(model: str, results: Results, scheme: str, target: Target) -> Claim:
    return claim(
        "stanza",
        f"chosen-over-{scheme}",
        model,
        "emulated",
        what=f"throughput of the planner's choice over {scheme}, {NODES} nodes, 10 Gb/s, float32",
        values=speedups(results, model, scheme),
        unit="x",
        target=target,
        paper="1.34x to 13.9x" if scheme.startswith("ps") else None,
    )


def speedups(
    results: Results, model: str, over: str, of: str = "auto", gigabits: float | None = None
) -> list[float]:
    """Emulated throughput of one scheme over another's, for every repetition."""
    chosen = results[case_name(model, of, NODES, gigabits)]
    baseline = results[case_name(model, over, NODES, gigabits)]
    return [throughput(a) / throughput(b) for a, b in zip(chosen, baseline, strict=True)]


def over_rates(results: Results, model: str, over: str) -> dict[float, float]:
    """Emulated speed-up of the planner's choice by link rate in Gb/s, as far as it was run."""
    rates: dict[float, float | None] = {10: None, **{rate: rate for rate in GIGABITS}}
    return {
        rate: median(speedups(results, model, over, gigabits=given))
        for rate, given in sorted(rates.items())
        if case_name(model, over, NODES, given) in results
    }


def table(results: Results) -> str:
    """The grid, point by point; a point that is off is marked."""
    lines = [
        "Step times of the grid, milliseconds; `off` marks more than 10 % between the two tiers:",
        "",
        "| model, scheme, nodes | simulated | emulated [quartiles] | ratio | scale | dilate |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, (simulated_s, step_s) in compared(results).items():
        run = results[name][0]
        step, emulation = run["step_s"], run["emulation"]
        ratio = step_s / simulated_s
        mark = " **off**" if abs(ratio - 1) > AGREE else ""
        lines.append(
            f"| {name} | {simulated_s * 1e3:.1f} | {step_s * 1e3:.1f} "
            f"[{step['low'] * 1e3:.1f}, {step['high'] * 1e3:.1f}] | {ratio:.3f}{mark} "
            f"| {emulation.get('scale', 1):.3g} | {emulation.get('dilate', 1):.3g} |"
        )
    return "\n".join(lines)


def modes_table(results: Results) -> str:
    """What every mode gains over DDP, by both tiers."""
    lines = [
        "What Stanza's modes gain over DDP, 10 nodes, 10 Gb/s (emulated; simulated):",
        "",
        "| mode | " + " | ".join(MODELS) + " |",
        "| --- " * (len(MODELS) + 1) + "|",
    ]
    for mode in ("as published", "stanza f=1", "stanza f=2", *MODES, "auto"):
        cells = [_gain(results, model, mode) for model in MODELS]
        if any(cells):
            lines.append(f"| {mode} | " + " | ".join(cell or "" for cell in cells) + " |")
    return "\n".join(lines)


def _gain(results: Results, model: str, mode: str) -> str | None:
    runs, ddp = (results.get(case_name(model, name, NODES)) for name in (mode, "ddp"))
    if not runs or not ddp:
        return None
    played = [run["samples_per_step"] / run["simulated_step_s"] for run in (runs[0], ddp[0])]
    emulated = throughput(runs[0]) / throughput(ddp[0])
    return f"{emulated:.2f}x; {played[0] / played[1]:.2f}x"


def calibration(results: Results) -> str:
    """What the emulated links gave, for the report."""
    found: dict[int, Mapping[str, Any]] = {}
    for runs in results.values():
        measured = runs[0]["calibration"]
        found[len(measured["rate_bits_per_s"])] = measured
    return " ".join(_calibrated(nodes, found[nodes]) for nodes in sorted(found))


def _calibrated(nodes: int, measured: Mapping[str, Any]) -> str:
    ratios: Sequence[float] = measured["send_receive"]
    return (
        f"Links of {nodes} nodes at {measured['rate_bits_per_s'][0] / 1e9:.3g} Gb/s, measured over "
        f"ideal time: send and receive {min(ratios):.3f} to {max(ratios):.3f}, all-reduce "
        f"{measured['all_reduce']:.3f}; latency {measured['latency_s'] * 1e3:.2f} ms."
    )
