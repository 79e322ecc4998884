"""What is concluded from a grid of emulated runs: figures of every point, claims that can fail."""

from pathlib import Path
from typing import Any

import pytest

from stanza.experiments import grid, grid_claims, scale
from stanza.experiments.targets import MODELS
from systems.figures.claims import Claim
from systems.figures.experiment import Results

STEP_S = {
    "ps-blocking": 20.0,
    "ps-pipelined": 15.0,
    "ps-sharded": 4.0,
    "ddp": 4.0,
    "as published": 2.0,
}


def run(scheme: str, nodes: int, ratio: float = 1.0) -> dict[str, Any]:
    """A result whose emulated step lasts `ratio` times the simulated one."""
    simulated_s = STEP_S.get(scheme, 1.0)
    median = simulated_s * ratio
    return {
        "step_s": {"median": median, "low": median, "high": median, "n": 3},
        "simulated_step_s": simulated_s,
        "samples_per_step": 100,
        "bytes_per_step": [{f"tcp_{way}": 1e6 * simulated_s for way in ("sent", "received")}],
        "emulation": {"scale": 4.0, "dilate": 10.0},
        "calibration": {
            "rate_bits_per_s": [2.5e8] * nodes,
            "send_receive": [1.0] * nodes,
            "all_reduce": 1.01,
            "latency_s": 1e-4,
        },
    }


def results(**ratios: float) -> Results:
    """Every point of the full level; some schemes' emulated steps differ from simulated ones."""
    found: dict[str, list[dict[str, Any]]] = {}
    for case in grid.CASES:
        _, rest = case.name.partition(" at ")[0].split(" ", 1)
        scheme, nodes = rest.rsplit(" ", 1)
        found[case.name] = [run(scheme, int(nodes), ratios.get(scheme, 1.0))]
    return found


def claims(results: Results) -> dict[str, Claim]:
    return {claim.id: claim for claim in grid_claims.claims(results)}


def test_every_point_is_compared_with_its_simulation() -> None:
    found = {pair.what: pair for pair in grid.comparisons(results(ddp=1.5))}
    ddp = found["vgg16 ddp 10 nodes: step time"]
    assert (ddp.predicted, ddp.found, ddp.unit, ddp.ratio) == (4000.0, 6000.0, "ms", 1.5)
    assert found["vgg16 auto 4 nodes: step time"].ratio == 1.0


def test_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in grid.CASES}) == len(grid.CASES)
    quick = [case for case in grid.CASES if case.level == "quick"]
    assert {case.nodes for case in quick} == {10}
    assert len(quick) == len(MODELS) * (len(grid.SCHEMES) - len(grid.OVER_F))


def test_good_results_pass_and_every_point_is_drawn(few_scales: None, tmp_path: Path) -> None:
    outcome = scale.conclude(results(), tmp_path)
    found = {c.id: c for c in outcome.claims if c.tier == "emulated"}
    assert {claim.status for claim in found.values()} == {"pass"}
    assert found["stanza.chosen-over-ps-blocking.alexnet.emulated"].ours == 20
    assert found["stanza.speedup-as-published-over-ps-blocking.alexnet.emulated"].ours == 10
    assert found["stanza.bytes-of-ps-blocking-over-stanza.alexnet.emulated"].ours == 10
    assert len(found) == 1 + len(MODELS) * 7
    assert len(outcome.comparisons) == len(grid.compared(results()))
    agreement = next(f for f in outcome.figures if f.path.stem == "scale-agreement")
    rows = agreement.path.with_suffix(".csv").read_text().splitlines()
    assert len(rows) == 1 + len(MODELS) * len(grid.SCHEMES) * 2
    assert any("both roles, columns f=10" in note for note in outcome.notes)
    assert not any("**off**" in note for note in outcome.notes)


def test_tiers_that_disagree_are_off() -> None:
    disagreeing = results(ddp=1.2)
    agreement = claims(disagreeing)["stanza.emulated-agrees-with-simulated.grid.emulated"]
    assert agreement.status == "near"  # 7 of 8 schemes
    assert agreement.ours == pytest.approx(7 / 8)
    assert "1.200 **off**" in grid.points_table(disagreeing)


def test_a_choice_that_loses_is_off() -> None:
    found = claims(results(auto=5.0))
    assert found["stanza.chosen-over-ddp.resnet50.emulated"].status == "off"


def test_a_link_rate_at_which_the_choice_loses_is_off() -> None:
    slow = dict(results())
    slow["vgg16 auto 10 at 25g"] = [run("auto", 10, ratio=5.0)]
    least = claims(slow)["stanza.least-chosen-over-ddp.vgg16.emulated"]
    assert (least.ours, least.status) == (pytest.approx(0.8), "off")
    assert "1, 10, 25, 100 Gb/s" in least.what


def test_other_link_rates_are_other_clusters() -> None:
    rates = {c.cluster.slowest_link.bandwidth_bits_per_s for c in grid.CASES if c.cluster}
    assert rates == {rate * 1e9 for rate in grid.GIGABITS}
    assert len({c.cluster.name for c in grid.CASES if c.cluster}) == len(grid.GIGABITS)


def test_without_emulation_the_figures_are_simulated(few_scales: None, tmp_path: Path) -> None:
    outcome = scale.conclude({}, tmp_path)
    assert {figure.tier for figure in outcome.figures} == {"simulated"}
    assert {claim.tier for claim in outcome.claims} == {"simulated"}
    for figure in outcome.figures:
        assert "emulated" not in figure.path.with_suffix(".csv").read_text()
