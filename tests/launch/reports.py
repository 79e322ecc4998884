"""A small section of a report, with everything that a report can show."""

from pathlib import Path

from launch.reproduction.report import Concluded, Section
from stanza.experiments import EXPERIMENTS
from systems.figures.claims import Target, claim
from systems.figures.draw import Lines, draw
from systems.figures.experiment import Comparison, Outcome
from systems.figures.paper import Answer, Paper, Statement

PLANNER = next(e for e in EXPERIMENTS if e.id == "planner")
TITLE = "A line <script>alert(1)</script>"


def example_section(folder: Path) -> Section:
    """One experiment: a figure, a wide table, claims with and without spread, a prediction."""
    curve = Lines(series={"y": ([0, 1], [0, 1])}, x_label="x", y_label="y", title="test")
    figure = draw(
        folder / "figures" / "line",
        [curve],
        "a test's figure",
        title=TITLE,
        tier="simulated",
        caption="A caption.",
    )
    target = Target(least=3.0, unit="x", source="test")
    wide = " | ".join(f"column {i}" for i in range(30))
    outcome = Outcome(
        figures=(figure,),
        claims=(
            claim(
                "stanza.speed.a-b+c.1.measured",
                "speed with <brackets> & more",
                [1.0, 1.5, 2.0],
                target,
                paper="3x",
            ),
            claim("stanza.speed.d.simulated", "another speed", [4.0], target),
        ),
        notes=(f"| {wide} |\n|{' --- |' * 30}\n| {wide} |",),
        comparisons=(
            Comparison(
                what="step time",
                predicted=20.0,
                predicted_by="planner",
                found=25.0,
                unit="ms",
                tier="measured",
                n=3,
            ),
        ),
    )
    paper = Paper(
        title="A paper",
        arxiv="0000.00000",
        idea="An idea.",
        figure="line",
        statements=(
            Statement(
                text="It is fast.", answers=(Answer(quantity="sp*", sentence="How fast it is."),)
            ),
            Statement(
                text="It is small.", answers=(Answer(quantity="size", sentence="How large it is."),)
            ),
        ),
    )
    return Section("stanza", paper, [Concluded(PLANNER, outcome, 1.0, "quick")])
