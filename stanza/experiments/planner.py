"""The paper's models on the paper's cluster, as the planner predicts them: nothing is run."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stanza.experiments.targets import (
    AUTO,
    BASELINES,
    CLUSTER,
    MODELS,
    PAPER,
    PAPER_RANGE,
    RANGE_WORDS,
    SPEEDUP_SOURCE,
    SPEEDUP_TARGETS,
)
from stanza.options import Options
from stanza.planner.candidates import WORTH_IT, predict_all
from stanza.planner.plan import load_profile, plan
from stanza.planner.predict import Prediction
from systems.clusters import cluster
from systems.figures.claims import Claim, Target, claim
from systems.figures.draw import Bars, draw
from systems.figures.experiment import Figure, Outcome, Results
from systems.figures.text import table

PUBLISHED, MICRO_BATCHES = "Stanza as published (m=1)", "Stanza with micro-batches"


def conclude(results: Results, folder: Path) -> Outcome:
    """Draw and judge the planner's predictions on the paper's cluster, from its GPUs' profiles."""
    del results  # nothing was run
    target = cluster.load(CLUSTER)
    rows = {name: _planned(name, target) for name in MODELS}
    return Outcome(
        figures=(_draw(rows, folder),),
        claims=tuple(c for name, row in rows.items() for c in _claims(name, row)),
        notes=(_table(rows),),
    )


def _draw(rows: Mapping[str, Mapping[str, float]], folder: Path) -> Figure:
    """Draw the speed-ups of every model's row of `_planned`."""
    columns = (PUBLISHED, MICRO_BATCHES, "auto")
    over_ps = {
        column: [[row[column] / row["ps-blocking"]] for row in rows.values()] for column in columns
    }
    over_best = {
        column: [[row[column] / _best_baseline(row)] for row in rows.values()] for column in columns
    }
    panels = [
        Bars(
            groups=MODELS,
            series=over_ps,
            unit="speed-up (x)",
            title="Over one parameter server, blocking (simulated)",
            paper_range=PAPER_RANGE,
            reference=1.0,
            logarithmic=True,
        ),
        Bars(
            groups=MODELS,
            series=over_best,
            unit="speed-up (x)",
            title="Over the best baseline (simulated)",
            reference=1.0,
        ),
    ]
    return draw(
        folder / "planner-speedup",
        panels,
        "10 nodes, 10 Gb/s; planner's recurrences, no processes; layer times measured by "
        "PipeDream's authors; best baseline: of PS blocking, pipelined, sharded, DDP",
        title="The planner's speed-ups at paper scale",
        tier="simulated",
        caption="Predicted throughput ratios; the hatched band is the paper's range, to "
        "be compared with Stanza as published. Micro-batches are this project's addition, "
        "and the profiles, taken at one batch size, charge nothing for small ones: read "
        "those bars as upper bounds.",
    )


def _planned(model: str, target: cluster.Cluster) -> dict[str, float]:
    """Predict the samples/s of the baselines, of Stanza as published and with micro-batches, and of
    the planner's choice."""
    profile = load_profile(model)
    options = Options(model=model)
    predictions = predict_all(options, target.size, target, profile)
    published = predict_all(
        dataclasses.replace(options, micro_batches=1), target.size, target, profile
    )
    chosen = plan(dataclasses.replace(options, **AUTO), target.size, target, profile).chosen
    assert chosen is not None  # with a cluster and a profile there is always a prediction
    row = {p.scheme: p.samples_per_s for p in predictions if p.scheme != "stanza"}
    row[PUBLISHED] = next(
        p.samples_per_s for p in published if p.scheme == "stanza" and p.fc_workers == 1
    )
    row[MICRO_BATCHES] = _best_separated(predictions)
    row["auto"] = chosen.samples_per_s
    return row


def _best_separated(predictions: Sequence[Prediction]) -> float:
    return max(p.samples_per_s for p in predictions if p.scheme == "stanza")


def _best_baseline(row: Mapping[str, float]) -> float:
    return max(row[name] for name in BASELINES)


def _claims(model: str, row: Mapping[str, float]) -> Iterator[Claim]:
    """Make the claims about a model's row of `_planned`."""
    yield claim(
        f"stanza.chosen-over-ps-blocking.{model}.simulated",
        "throughput of the planner's choice over one blocking parameter server, 10 nodes, 10 Gb/s",
        [row["auto"] / row["ps-blocking"]],
        Target(least=SPEEDUP_TARGETS[model], source=SPEEDUP_SOURCE, unit="x"),
        paper=RANGE_WORDS,
    )
    yield claim(
        f"stanza.speedup-as-published-over-ps-blocking.{model}.simulated",
        "throughput of Stanza as published (one FC worker, no micro-batches) over one blocking "
        "parameter server, 10 nodes, 10 Gb/s",
        [row[PUBLISHED] / row["ps-blocking"]],
        Target(least=PAPER_RANGE[0], most=PAPER_RANGE[1], source=PAPER, unit="x"),
        paper=RANGE_WORDS,
    )
    yield claim(
        f"stanza.auto-over-best-baseline.{model}.simulated",
        "the planner's choice over the best of PS blocking, pipelined, sharded, and DDP",
        [row["auto"] / _best_baseline(row)],
        Target(
            least=1 / WORTH_IT,
            unit="x",
            source="f = 0 is among the choices; the simpler scheme where it costs little",
        ),
    )


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Write a table of the predicted samples/s of every model and scheme, in Markdown."""
    names = list(next(iter(rows.values())))
    return table(
        ("model", *names),
        [
            (model, *(f"{row[n]:,.0f} ({row[n] / row['ps-blocking']:.2f}x)" for n in names))
            for model, row in rows.items()
        ],
        "Predicted samples/s (and ratio to PS blocking):",
    )
