"""Draws the time of the verification region: relative improvement, and achieved bandwidth."""

from pathlib import Path

from speculative.experiments.timed import Timed
from systems.figures.draw import Bars, draw
from systems.figures.experiment import Figure
from systems.figures.text import machine, table

PAPER = {"exact": (6, 13), "sigmoid": (37, 94)}
"""Percent less profiling time than the plain implementation, on GPUs."""
SETTING = "batch 1, float32, one thread; self time, median; methods take turns"


def improvement(timed: Timed, folder: Path) -> Figure:
    """Draw figure (a): percent less time than transformers' function, over V and gamma."""
    vocabularies, gammas = _axes(timed)
    panels = [
        Bars(
            groups=[f"V = {v:,}" for v in vocabularies],
            series={
                f"gamma {g}": [[1e2 * (1 - 1 / timed.speedup(method, v, g))] for v in vocabularies]
                for g in gammas
            },
            unit="% less time than transformers",
            title=f"{method} verification (measured)",
            paper_range=PAPER.get(method),
            paper_format="{} %",
            reference=0.0,
        )
        for method in ("exact", "sigmoid", "calibrated")
    ]
    return draw(
        folder / "verification-improvement",
        panels,
        f"{SETTING}; {machine()}",
        title="(a) Verification against transformers' function",
        tier="measured",
        caption="Percent of transformers' time that is saved; bands are what the paper reports for "
        "GPUs. Sigmoid and calibrated are approximations: see their distance from the target's "
        "distribution.",
    )


def bandwidth(timed: Timed, folder: Path) -> Figure:
    """Draw figure (b): bytes that must move per second, against a copy's."""
    vocabularies, gammas = _axes(timed)
    gamma = 8 if 8 in gammas else gammas[-1]
    floors = {
        "all rows once": ("transformers", "two softmaxes", "exact"),
        "one row pair": ("sigmoid", "calibrated"),
    }
    panels = [
        Bars(
            groups=[f"V = {v:,}" for v in vocabularies],
            series={
                m: [[timed.rows[m, v, gamma].bandwidth() / 1e9] for v in vocabularies]
                for m in methods
            },
            unit="GB/s of the floor's bytes",
            title=f"floor: {floor}, gamma {gamma} (measured)",
            reference=timed.copy_bytes_per_s / 1e9,
        )
        for floor, methods in floors.items()
    ]
    note = f"dashed: a large copy, read and written, {timed.copy_bytes_per_s / 1e9:.1f} GB/s"
    return draw(
        folder / "verification-bandwidth",
        panels,
        f"{note}; {SETTING}; {machine()}",
        title="(b) Achieved bandwidth",
        tier="measured",
        caption="Bytes of the logits that a method must read, each once, over its time. Exact "
        "stops at the first rejection, and small vocabularies stay in cache.",
    )


def summary(timed: Timed) -> str:
    """Every time, in Markdown."""
    names = list(dict.fromkeys(method for method, _, _ in timed.rows))
    rows = []
    for v, gamma in timed.grid():
        times = [f"{timed.rows[name, v, gamma].call_s.median * 1e6:.0f}" for name in names]
        accepted = f"{timed.rows['exact', v, gamma].acceptance:.2f}"
        rows.append((f"{v:,}", gamma, *times, accepted))
    return table(("V", "gamma", *(f"{name}, us" for name in names), "accepted"), rows)


def _axes(timed: Timed) -> tuple[list[int], list[int]]:
    """All vocabularies and all gammas that were timed, in order."""
    vocabularies, gammas = zip(*timed.grid(), strict=True)
    return sorted(set(vocabularies)), sorted(set(gammas))
