"""What is claimed of the grid of emulated runs: that the tiers agree, and emulated speed-ups."""

from collections.abc import Iterator

from stanza.experiments import grid
from stanza.experiments.digits_figures import busiest
from stanza.experiments.targets import (
    AS_FAST,
    MODELS,
    OVER_DDP,
    OVER_PIPELINED,
    PAPER,
    PAPER_RANGE,
    RANGE_WORDS,
    SAVES,
    SPEEDUP_SOURCE,
    SPEEDUP_TARGETS,
)
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Results

AGREEING = 0.9
"""The part of the grid on which simulation and emulation should agree."""


def claims(results: Results) -> Iterator[Claim]:
    """Claim the agreement of the two tiers, and emulated speed-ups; nothing where nothing was
    emulated."""
    pairs = grid.compared(results).values()
    if not pairs:
        return
    within = [abs(emulated / simulated - 1) <= grid.AGREE for simulated, emulated in pairs]
    yield claim(
        "stanza.emulated-agrees-with-simulated.grid.emulated",
        f"part of {len(pairs)} points (model x scheme x nodes, 10 Gb/s) whose emulated and "
        "simulated step times are within 10 % of each other",
        [sum(within) / len(within)],
        Target(least=AGREEING, unit="fraction"),
    )
    for model in MODELS:
        yield from _as_published(model, results)
        yield from _least_over_ddp(model, results)
        yield from _speedups(model, results)


def _as_published(model: str, results: Results) -> Iterator[Claim]:
    """Compare Stanza with one FC worker and no micro-batches with one blocking parameter server.
    Claims its speed-up, and how many times more bytes the busiest node carries with the server in a
    step."""
    yield claim(
        f"stanza.speedup-as-published-over-ps-blocking.{model}.emulated",
        "throughput of Stanza as published (one FC worker, no micro-batches) over one blocking "
        f"parameter server, {grid.NODES} nodes, 10 Gb/s",
        grid.speedups(results, model, "ps-blocking", of="as published"),
        Target(least=PAPER_RANGE[0], most=PAPER_RANGE[1], source=PAPER, unit="x"),
        paper=RANGE_WORDS,
    )
    separated, server = (
        busiest(results[grid.case_name(model, scheme, grid.NODES)][0], "tcp")
        for scheme in ("as published", "ps-blocking")
    )
    if separated and server:
        yield claim(
            f"stanza.bytes-of-ps-blocking-over-stanza.{model}.emulated",
            "TCP bytes per step of the busiest node, with one blocking parameter server over "
            f"Stanza as published, {grid.NODES} nodes",
            [server / separated],
            SAVES,
        )


def _least_over_ddp(model: str, results: Results) -> Iterator[Claim]:
    """Claim the smallest speed-up over DDP at any link rate, where several rates were emulated."""
    by_rate = grid.over_rates(results, model, "ddp")
    if len(by_rate) > 1:
        rates = ", ".join(f"{rate:g}" for rate in by_rate)
        yield claim(
            f"stanza.least-chosen-over-ddp.{model}.emulated",
            f"the least of auto over DDP at {rates} Gb/s, {grid.NODES} nodes",
            [min(by_rate.values())],
            AS_FAST,
        )


def _speedups(model: str, results: Results) -> Iterator[Claim]:
    """Claim the speed-up of the planner's choice over every baseline, at the paper's scale."""
    targets = {
        "ps-blocking": Target(least=SPEEDUP_TARGETS[model], unit="x", source=SPEEDUP_SOURCE),
        "ps-pipelined": Target(least=OVER_PIPELINED[model], unit="x"),
        "ps-sharded": AS_FAST,
        "ddp": Target(least=OVER_DDP[model], unit="x"),
    }
    for scheme, target in targets.items():
        yield claim(
            f"stanza.chosen-over-{scheme}.{model}.emulated",
            f"throughput of the planner's choice over {scheme}, {grid.NODES} nodes, 10 Gb/s, "
            "float32",
            grid.speedups(results, model, scheme),
            target,
            paper=RANGE_WORDS if scheme.startswith("ps") else None,
        )
