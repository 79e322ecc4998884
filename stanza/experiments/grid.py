"""The grid of emulated runs: the paper's models by every scheme, on emulated nodes at 10 Gb/s.

Every point of the grid is known twice: played by the simulator, and run by the trainer over shaped
links. This file says what is run and reads the results; `grid_claims` judges them.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from stanza.experiments.simulated import at_rate
from stanza.experiments.targets import AUTO, CLUSTER, MODELS
from stanza.options import Options
from systems.clusters.cluster import load
from systems.figures.experiment import Case, Comparison, Level, Results, compare_step_times
from systems.figures.text import table

NODES = 10
"""The nodes of the paper's cluster."""
FEWER_NODES = 4
SWEEP_NODES = (2, 6, 8)
"""More sizes at which the schemes of the figure over nodes are emulated."""
MOST_FC_WORKERS = 5
WARM_UP_STEPS, MEASURED_STEPS = 2, 3
AGREE = 0.1
"""Simulation and emulation should agree this well."""

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
OVER_F = ("stanza f=1", "stanza f=2")
"""The schemes that only the figure over FC workers needs."""
OVER_NODES = ("ps-blocking", "ps-sharded", "ddp", "auto")
"""The schemes of the figure over nodes."""


def case_name(model: str, scheme: str, nodes: int, gigabits: float | None = None) -> str:
    """The name of a point of the grid, or of one at another link rate."""
    return f"{model} {scheme} {nodes}" + ("" if gigabits is None else f" at {gigabits:g}g")


def _case(model: str, scheme: str, nodes: int, level: Level, gigabits: float | None = None) -> Case:
    """A point of the grid; a scheme "stanza f=5" that has no entry has that many FC workers."""
    named = SCHEMES | MODES
    changes = named[scheme] if scheme in named else {"fc_workers": int(scheme.split("=")[1])}
    steps = WARM_UP_STEPS + MEASURED_STEPS
    options = Options(model=model, steps=steps, warm_up_steps=WARM_UP_STEPS)
    return Case(
        name=case_name(model, scheme, nodes, gigabits),
        options=dataclasses.replace(options, **changes),
        nodes=nodes,
        cluster=None if gigabits is None else at_rate(load(CLUSTER), gigabits),
        level=level,
    )


def _cases(model: str) -> Iterator[Case]:
    """All points of a model."""
    for scheme in SCHEMES:
        yield _case(model, scheme, NODES, "full" if scheme in OVER_F else "quick")
        yield _case(model, scheme, FEWER_NODES, "full")
    for scheme in OVER_NODES:
        yield from (_case(model, scheme, nodes, "full") for nodes in SWEEP_NODES)
    for scheme in ("ddp", "auto"):
        yield from (_case(model, scheme, NODES, "full", gigabits) for gigabits in GIGABITS)
    for f in range(3, MOST_FC_WORKERS + 1):
        yield _case(model, f"stanza f={f}", NODES, "full")
    for mode in MODES:
        if model != "inception-v3" or "columns" not in mode:  # its FC part is no chain
            yield _case(model, mode, NODES, "full")


CASES = tuple(case for model in MODELS for case in _cases(model))


def emulated_s(run: Mapping[str, Any]) -> float:
    """The emulated step time of a result."""
    return float(run["step_s"]["median"])


def throughput(run: Mapping[str, Any]) -> float:
    """Emulated samples/s of a result, by the median step."""
    return float(run["samples_per_step"]) / emulated_s(run)


def compared(results: Results) -> dict[str, tuple[float, float]]:
    """Return the simulated and the emulated step time of every point of the grid that was run."""
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
    """Compare the simulated with the emulated step time of the same points, for the report."""
    return [
        compare_step_times(
            f"{name} nodes",
            simulated_s,
            [emulated_s(run) for run in results[name]],
            predicted_by="simulator",
            tier="emulated",
        )
        for name, (simulated_s, _) in compared(results).items()
    ]


def speedups(
    results: Results, model: str, over: str, of: str = "auto", gigabits: float | None = None
) -> list[float]:
    """Emulated throughput of one scheme over another's, for every repetition."""
    chosen = results[case_name(model, of, NODES, gigabits)]
    baseline = results[case_name(model, over, NODES, gigabits)]
    return [throughput(a) / throughput(b) for a, b in zip(chosen, baseline, strict=True)]


def over_rates(results: Results, model: str, over: str) -> dict[float, float]:
    """Emulated speed-up of the planner's choice by link rate in Gb/s, as far as it was run."""
    in_names: dict[float, float | None] = {10: None, **{rate: rate for rate in GIGABITS}}
    return {
        rate: median(speedups(results, model, over, gigabits=in_name))
        for rate, in_name in sorted(in_names.items())
        if case_name(model, over, NODES, in_name) in results
    }


def points_table(results: Results) -> str:
    """Write the grid as a table in Markdown, point by point; a point where the tiers disagree is
    marked."""
    rows = []
    for name, (simulated_s, step_s) in compared(results).items():
        run = results[name][0]
        low, high = (run["step_s"][end] * 1e3 for end in ("low", "high"))
        ratio = step_s / simulated_s
        scale, dilate = (run["emulation"].get(factor, 1) for factor in ("scale", "dilate"))
        rows.append(
            (
                name,
                f"{simulated_s * 1e3:.1f}",
                f"{step_s * 1e3:.1f} [{low:.1f}, {high:.1f}]",
                f"{ratio:.3f}" + (" **off**" if abs(ratio - 1) > AGREE else ""),
                f"{scale:.3g}",
                f"{dilate:.3g}",
            )
        )
    return table(
        ("model, scheme, nodes", "simulated", "emulated [quartiles]", "ratio", "scale", "dilate"),
        rows,
        "Step times of the grid, milliseconds; `off` marks more than 10 % between the two tiers:",
    )


def modes_table(results: Results) -> str:
    """Write a table of what every mode gains over DDP, by both tiers, in Markdown."""
    modes = ("as published", "stanza f=1", "stanza f=2", *MODES, "auto")
    rows = [(mode, *(_gain(results, model, mode) for model in MODELS)) for mode in modes]
    return table(
        ("mode", *MODELS),
        [row for row in rows if any(row[1:])],
        "What Stanza's modes gain over DDP, 10 nodes, 10 Gb/s (emulated; simulated):",
    )


def _gain(results: Results, model: str, mode: str) -> str:
    """The throughput of a mode over DDP's, emulated and simulated; empty if it was not run."""
    runs, ddp = (results.get(case_name(model, name, NODES)) for name in (mode, "ddp"))
    if not runs or not ddp:
        return ""
    played = [run["samples_per_step"] / run["simulated_step_s"] for run in (runs[0], ddp[0])]
    emulated = throughput(runs[0]) / throughput(ddp[0])
    return f"{emulated:.2f}x; {played[0] / played[1]:.2f}x"


def calibration(results: Results) -> str:
    """Say what the emulated links gave, in a sentence for each size of the cluster."""
    by_nodes: dict[int, Mapping[str, Any]] = {}
    for runs in results.values():
        measured = runs[0]["calibration"]
        by_nodes[len(measured["rate_bits_per_s"])] = measured
    return " ".join(
        f"Links of {nodes} nodes at {measured['rate_bits_per_s'][0] / 1e9:.3g} Gb/s, measured over "
        f"ideal time: send and receive {min(measured['send_receive']):.3f} to "
        f"{max(measured['send_receive']):.3f}, all-reduce {measured['all_reduce']:.3f}; latency "
        f"{measured['latency_s'] * 1e3:.2f} ms."
        for nodes, measured in sorted(by_nodes.items())
    )
