"""The paper's models on the paper's cluster, as the planner predicts them: nothing is run."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from stanza.experiments.targets import (
    AUTO,
    BASELINES,
    CLUSTER,
    MODELS,
    PAPER,
    PAPER_RANGE,
    SPEEDUP_SOURCE,
    SPEEDUP_TARGETS,
)
from stanza.options import Options
from stanza.planner.plan import (
    WORTH_IT,
    load_profile,
    plan,
    predict_all,
)
from stanza.planner.predict import Prediction
from systems.clusters import cluster
from systems.figures.claims import Claim, Target, claim
from systems.figures.draw import Bars, draw
from systems.figures.experiment import Figure, Outcome, Results


def conclude(results: Results, folder: Path) -> Outcome:
    """The planner's predictions on the paper's cluster, from measured V100-like profiles."""
    del results  # nothing was run
    target = cluster.load(CLUSTER)
    rows = {name: _planned(name, target) for name in MODELS}
    path = _draw(rows, folder)
    claims: list[Claim] = []
    for name in MODELS:
        claims += _planner_claims(name, rows[name])
    return Outcome(
        figures=(
            Figure(
                path=path,
                title="The planner's speed-ups at paper scale",
                tier="simulated",
                caption="Predicted throughput ratios; the hatched band is the paper's range, to "
                "be compared with Stanza as published. Micro-batches are this project's addition, "
                "and the profiles, taken at one batch size, charge nothing for small ones: read "
                "those bars as upper bounds.",
            ),
        ),
        claims=tuple(claims),
        notes=(_planner_table(rows),),
    )


def _draw(rows: Mapping[str, Mapping[str, float]], folder: Path) -> Path:
    """Speed-ups from every model's row of `_planned`."""
    columns = ("Stanza as published (m=1)", "Stanza with micro-batches", "auto")
    over_ps = {
        column: [[rows[name][column] / rows[name]["ps-blocking"]] for name in MODELS]
        for column in columns
    }
    over_best = {
        column: [[rows[name][column] / _best_baseline(rows[name])] for name in MODELS]
        for column in columns
    }
    return draw(
        folder / "planner-speedup",
        [
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
        ],
        "10 nodes, 10 Gb/s; planner's recurrences, no processes; layer times measured by "
        "PipeDream's authors; best baseline: of PS blocking, pipelined, sharded, DDP",
    )


def _planned(model: str, target: cluster.Cluster) -> dict[str, float]:
    """Predicted samples/s of every scheme, as published, with micro-batches, and `auto`'s."""
    profile = load_profile(model)
    options = Options(model=model)
    predictions = predict_all(options, target.size, target, profile)
    published = predict_all(
        dataclasses.replace(options, micro_batches=1), target.size, target, profile
    )
    chosen = plan(dataclasses.replace(options, **AUTO), target.size, target, profile).chosen
    assert chosen is not None  # with a cluster and a profile there is always a prediction
    row = {p.scheme: p.samples_per_s for p in predictions if p.scheme != "stanza"}
    row["Stanza as published (m=1)"] = next(
        p.samples_per_s for p in published if p.scheme == "stanza" and p.fc_workers == 1
    )
    row["Stanza with micro-batches"] = _best_separated(predictions)
    row["auto"] = chosen.samples_per_s
    return row


def _best_separated(predictions: Sequence[Prediction]) -> float:
    return max(p.samples_per_s for p in predictions if p.scheme == "stanza")


def _best_baseline(row: Mapping[str, float]) -> float:
    return max(row[name] for name in BASELINES)


def _planner_claims(model: str, row: Mapping[str, float]) -> list[Claim]:
    return [
        claim(
            "stanza",
            "chosen-over-ps-blocking",
            model,
            "simulated",
            what="throughput of the planner's choice over one blocking parameter server, 10 nodes, "
            "10 Gb/s",
            values=[row["auto"] / row["ps-blocking"]],
            unit="x",
            target=Target(least=SPEEDUP_TARGETS[model], source=SPEEDUP_SOURCE),
            paper="1.34x to 13.9x",
        ),
        claim(
            "stanza",
            "speedup-as-published-over-ps-blocking",
            model,
            "simulated",
            what="throughput of Stanza as published (one FC worker, no micro-batches) over one "
            "blocking parameter server, 10 nodes, 10 Gb/s",
            values=[row["Stanza as published (m=1)"] / row["ps-blocking"]],
            unit="x",
            target=Target(least=PAPER_RANGE[0], most=PAPER_RANGE[1], source=PAPER),
            paper="1.34x to 13.9x",
        ),
        claim(
            "stanza",
            "auto-over-best-baseline",
            model,
            "simulated",
            what="the planner's choice over the best of PS blocking, pipelined, sharded, and DDP",
            values=[row["auto"] / _best_baseline(row)],
            unit="x",
            target=Target(
                least=1 / WORTH_IT,
                source="f = 0 is among the choices; the simpler scheme where it costs little",
            ),
        ),
    ]


def _planner_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    names = list(next(iter(rows.values())))
    lines = [
        "Predicted samples/s (and ratio to PS blocking):",
        "",
        "| model | " + " | ".join(names) + " |",
        "| --- " * (len(names) + 1) + "|",
    ]
    for model, row in rows.items():
        cells = [f"{row[n]:,.0f} ({row[n] / row['ps-blocking']:.2f}x)" for n in names]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
