"""The league: its cases, who wins, and what is claimed, from results that are made up here."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from stanza.experiments import accuracy, league, league_figures
from stanza.experiments.league_table import League, end_name, short_name
from stanza.options import Options
from systems.figures.claims import Claim
from systems.figures.experiment import Results

TESTS = [(0, 0.1), (100, 0.5), (200, 0.8), (300, 0.9)]
"""Steps, and the accuracy after them: 0.85 is reached after 250."""


def run(step_s: float, **changes: Any) -> dict[str, Any]:
    """A result whose steps take so long."""
    row = {"tcp_sent": 2e6, "tcp_received": 1e6}
    return {
        "samples_per_s": 96 / step_s,
        "samples_per_step": 96,
        "test_accuracy": 0.9,
        "tests": [
            {"steps": steps, "trained_s": steps * step_s, "test_accuracy": found}
            for steps, found in TESTS
        ],
        "bytes_per_step": [row, row],
        **changes,
    }


def results(**changes: Any) -> Results:
    """Every contestant: compressed ones are twice as fast as plain ones, and ten times on the
    slowest links; those of `ddp top-k` differ by `changes`."""
    made: dict[str, Any] = {}
    for name in league.CONTESTANTS:
        fast = 1.0 if name in ("ddp", "ps", "stanza") else 0.5
        of_one = changes if name == "ddp top-k" else {}
        made[end_name(name)] = [run(fast, **of_one) for _ in range(3)]
        made[short_name(name, 10.0)] = [run(fast) for _ in range(3)]
        made[short_name(name, 1.0)] = [run(4 * fast)]
        made[short_name(name, 0.1)] = [run(40 * (fast if fast == 1 else 0.1))]
    return made


def played(**changes: Any) -> League:
    return League(results(**changes), tuple(league.CONTESTANTS), league.RATES_GBIT, 0.85)


def test_the_time_to_the_target_is_steps_at_the_pace_of_the_links() -> None:
    made = played()
    assert made.seconds_to("ddp", 10.0) == pytest.approx([250.0] * 3)
    assert made.seconds_to("ddp", 1.0) == pytest.approx([1000.0] * 3)
    assert made.seconds_to("ddp bf16", 0.1) == pytest.approx([1000.0] * 3)
    assert made.gains("ddp bf16", "ddp", 0.1) == pytest.approx([10.0] * 3)


def test_who_begins_later_takes_the_steps_of_another_before() -> None:
    begins = {"ddp bf16": (100, "ddp")}
    made = dataclasses.replace(played(), begins=begins)
    assert made.seconds_to("ddp bf16", 0.1) == pytest.approx([100 * 40.0 + 150 * 4.0] * 3)
    assert made.curve("ddp bf16", 0.1)[0] == pytest.approx([0.0, 4000.0, 4400.0, 4800.0])


def test_who_does_not_reach_the_target_is_last() -> None:
    low = [{"steps": 100, "trained_s": 1.0, "test_accuracy": 0.3}]
    made = played(tests=low)
    assert made.ranking(10.0)[-1] == ("ddp top-k", None)
    assert made.ranking(10.0)[0][1] == pytest.approx(125.0)
    assert made.gains("ddp top-k", "ddp", 0.1) == [0.0] * 3
    assert made.gains("ddp", "ddp top-k", 0.1) == []
    assert made.quicker_steps("ddp top-k", "ddp", 0.1) == pytest.approx([10.0])


def claims(folder: Path, **changes: Any) -> dict[str, Claim]:
    return {c.id: c for c in league.conclude(results(**changes), folder).claims}


def test_good_results_pass_and_bad_ones_do_not(tmp_path: Path) -> None:
    good = claims(tmp_path)
    assert {claim.status for claim in good.values()} == {"pass"}
    top_k = good["stanza.sooner-than-plain.ps-top-k-at-0.1-gbit.shaped"]
    assert top_k.paper is not None
    assert top_k.paper.startswith("6.18x (bytedance/byteps")
    late = [{"steps": s, "trained_s": 9.0, "test_accuracy": s / 1e4} for s in (5000, 9000)]
    bad = claims(tmp_path, tests=late)
    assert bad["stanza.sooner-than-plain.ddp-top-k-at-0.1-gbit.shaped"].status == "off"


def test_what_is_published_is_drawn_beside_what_was_found(tmp_path: Path) -> None:
    (figure,) = league.conclude(results(), tmp_path).figures
    text = figure.path.with_suffix(".csv").read_text()
    assert '"BytePS, 200 epochs at 100 Mb/s (published)",ps top-k,6.17' in text
    assert figure.tier == "shaped"
    for name in league.CONTESTANTS:
        assert name in text


def test_the_rankings_say_how_they_were_obtained(tmp_path: Path) -> None:
    told = {"staleness_updates": {"mean": 1.5, "largest": 4}}
    notes = league.conclude(results(**told), tmp_path).notes
    assert "equivalent to 10 Gb/s (steps to the target times the measured step time)" in notes[0]
    assert "equivalent to 0.1 Gb/s" in notes[2]
    assert "1.5, 4" in notes[0]
    assert "| 2,000 |" in notes[0]
    assert "200 epochs" in notes[3]


def test_every_contestant_is_a_run_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "source", lambda: accuracy.SOURCES[0])
    cases = list(league._cases(0.05))
    assert len(cases) == 4 * len(league.CONTESTANTS)
    assert {case.level for case in cases} == {"full"}
    rates = {c.name: c.cluster.slowest_link.bandwidth_bits_per_s or 0 for c in cases if c.cluster}
    assert rates[short_name("ps", 10.0)] == pytest.approx(
        100 * rates[short_name("ps", 0.1)], rel=0.05
    )
    assert rates[end_name("ps")] == league.OPEN_BITS_PER_S
    assert rates[end_name("ps stale")] == rates[short_name("ps", 10.0)]
    steps = {case.name: case.options.steps for case in cases}
    assert steps[short_name("ps", 0.1)] < steps[short_name("local-sgd", 0.1)]
    options = cases[0].options
    assert isinstance(options, Options)
    scale = options.message_scale
    assert options == dataclasses.replace(league.options(), scheme="ddp", message_scale=scale)
    assert 200 < scale < 210
    assert set(league_figures.PUBLISHED_S) <= set(league.CONTESTANTS)
    assert set(league_figures.FEATURED) <= set(league.CONTESTANTS)


def test_at_level_quick_nothing_runs(tmp_path: Path) -> None:
    assert league.prepare("quick", tmp_path) == ()
    outcome = league.conclude({}, tmp_path)
    assert outcome.notes[0].startswith("The league was not run: ")
