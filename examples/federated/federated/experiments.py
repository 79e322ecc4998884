"""What `testbed reproduce federated` measures, draws and claims.

Learning is real, and the order of arrivals is that of a virtual clock: counts of updates are
"measured", and seconds are "simulated".
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

from federated.options import HALVED, OF_ANY_MODEL, Options
from federated.planning import durations
from federated.system import SYSTEM, simulated
from systems.figures.claims import Claim, Target, claim
from systems.figures.draw import Bars, Lines, draw
from systems.figures.experiment import Experiment, Outcome, Results, measure_once
from systems.figures.paper import Answer, Paper, Statement

Cases = dict[str, dict[str, Any]]
"""What each case changes of the options that all share, by its name."""
KINDS = ("half-normal", "uniform", "exponential")
CONCURRENCIES = (10, 50, 200, 1000)
SEEDS = {"quick": (0,), "full": (0, 1, 2)}
RATES = {"quick": (0.3, 1.0, 3.0), "full": (0.3, 1.0, 3.0, 10.0)}
SMALL = Options(data="digits", clients=100, alpha=0.3, batch_size=8, concurrency=50, steps=400)
LARGE = replace(SMALL, data="fashion-mnist", clients=3000, concurrency=1000, buffer_size=10)
TASKS: dict[str, tuple[Options, dict[str, Any]]] = {
    "quick": (SMALL, {"target": 0.95, "most_updates": 4000, "every": 50}),
    "full": (LARGE, {"target": 0.72, "most_updates": 20_000, "every": 250}),
}
"""The options that all methods share, and when a run ends."""
WHOM: dict[str, tuple[Any, float]]
WHOM = {"rounds": ("fedavg", 0.0), "over-selection": ("fedavg", 0.3), "FedBuff": ("fedbuff", 0.0)}
"""The scheme of a case and its over-selection."""
UPLINKS_MBIT_PER_S = (1, 5, 50)
TOLD = "Learning is real. Updates are what clients send; seconds are of a virtual clock."
NOTE = "every method's server learning rate is tuned alike; targets hold for a mean of three tests"


def measure_waiting(level: str, folder: Path) -> Results:
    """Play the clock, without learning, over C: rounds, and FedBuff with K = 10."""

    def play(scheme: Any, kind: Any, updates: int) -> list[dict[str, Any]]:
        found = []
        for c in CONCURRENCIES:
            steps = max(100, updates // (c if scheme == "fedavg" else LARGE.buffer_size))
            options = replace(LARGE, scheme=scheme, duration=kind, concurrency=c, steps=steps)
            of = durations(options).order_statistic_s(c, c) if scheme == "fedavg" else 10 / c
            job = SYSTEM.job(options, world_size=1)
            found.append({"c": c, "form_s": of, **simulated(job).result})
        return found

    updates = {"quick": 20_000, "full": 100_000}[level]
    cases = [(scheme, kind) for scheme in ("fedavg", "fedbuff") for kind in KINDS]
    return measure_once(folder, {f"{s} {k}": partial(play, s, k, updates) for s, k in cases})


def conclude_waiting(results: Results, folder: Path) -> Outcome:
    """Draw what waiting costs, and what more clients at once gain."""
    rounds, buffers = ([results[f"{s} {kind}"] for kind in KINDS] for s in ("fedavg", "fedbuff"))
    rates = {"rounds": rounds[0], "FedBuff, K = 10": buffers[0]}
    gains = {
        n: [o["samples_per_s"] / of[0]["samples_per_s"] for o in of] for n, of in rates.items()
    }
    axis: dict[str, Any] = {"x_label": "clients at once, C", "logarithmic_x": True}

    def by_kind(key: str) -> dict[str, Any]:
        kinds = zip(KINDS, rounds, strict=True)
        return {kind: (CONCURRENCIES, [one[key] for one in of]) for kind, of in kinds}

    costs = Lines(
        series=by_kind("step_s"),
        points=by_kind("form_s"),
        points_label="closed form",
        y_label="a round over the mean training of a client",
        title="What waiting for the slowest costs (simulated)",
        **axis,
    )
    more = Lines(
        series={name: (CONCURRENCIES, of) for name, of in gains.items()},
        y_label="updates per second over those of C = 10",
        title="What more clients gain, half-normal (simulated)",
        logarithmic=True,
        **axis,
    )
    waiting = [abs(o["step_s"] / o["form_s"] - 1) for of in rounds for o in of]
    stale = [abs(o["staleness"] / (o["c"] / 10) - 1) for of in buffers for o in of[1:]]
    of_waiting = "rounds of 10 to 1000 clients against the mean of the largest of C draws"
    of_stale = "mean staleness against C / K, for C of 50 to 1000 and K = 10"
    of_c = "updates per second of 1000 clients over those of 10, half-normal"
    rare, often = (of[-1:] for of in gains.values())
    largest: dict[str, Any] = {"judged_by": "largest"}
    few, some = Target(most=0.03, unit="fraction"), Target(most=0.05, unit="fraction")
    claims = (
        claim("federated.waiting-error.all.simulated", of_waiting, waiting, few, **largest),
        claim("federated.staleness-error.all.simulated", of_stale, stale, some, **largest),
        claim("federated.gain.rounds.simulated", of_c, rare, Target(most=70, unit="x")),
        claim("federated.gain.buffers.simulated", of_c, often, Target(least=95, unit="x")),
    )
    return _outcome(
        folder / "federated-waiting",
        [costs, more],
        claims,
        title="Waiting for clients",
        caption="A round lasts as long as its slowest client. Without rounds nobody waits.",
        footnote="times of clients are drawn, with mean 1 s; messages are free",
        tier="simulated",
    )


def reach(cases: Callable[[str], Cases], level: str, folder: Path) -> Results:
    """Reach the task's target with each of the cases of a level."""
    from federated.reach import reached_by_all

    base, limits = TASKS[level]
    tuning = RATES[level], SEEDS[level], limits
    changed = {name: replace(base, **changes) for name, changes in cases(level).items()}
    parts = {name: partial(reached_by_all, options, *tuning) for name, options in changed.items()}
    return measure_once(folder, parts)


def methods(level: str) -> Cases:
    """Methods at the task's C, and FedBuff over K."""
    rounds = {
        name: {"scheme": name.lower()} for name in ("FedAvg", "FedAvgM", "FedProx", "FedAsync")
    }
    goals = (1, 5, 10, 50) if level == "full" else (1, 5)
    buffers = {
        f"FedBuff K={k}": {"scheme": "fedbuff", "buffer_size": k}
        for k in (*goals, TASKS[level][0].concurrency)
    }
    return rounds | buffers


def conclude_target(results: Results, folder: Path) -> Outcome:
    """Draw updates, steps and seconds to the target, and judge FedBuff at its best K."""
    updates = {name: [one["updates"] for one in of] for name, of in results.items()}
    best = min((name for name in updates if "FedBuff" in name), key=lambda n: median(updates[n]))
    claims = [
        claim(
            f"federated.fewer-updates-than.{other}.measured",
            f"client updates to the target of {other} over those of {best}",
            [a / b for a, b in zip(updates[other], updates[best], strict=True)],
            Target(least=1.0, unit="x", source="arXiv 2106.06639: FedBuff needs fewer"),
            paper=paper,
        )
        for other, paper in (("FedAvgM", "up to 3.3x"), ("FedAsync", "up to 2.5x"))
    ]
    return _concluded(results, folder, "target", *claims)


def over_c(level: str) -> Cases:
    """Rounds and FedBuff over C, as far as the task has so many clients at once."""
    return {
        f"{name} C={c}": {"scheme": name.lower(), "concurrency": c}
        for c in CONCURRENCIES
        if c <= TASKS[level][0].concurrency
        for name in ("FedAvg", "FedBuff")
    }


def conclude_over_c(results: Results, folder: Path) -> Outcome:
    """Draw the same over C, and judge who is sooner at the largest."""
    *_, rounds, buffers = results.values()
    ratios = [a["clock_s"] / b["clock_s"] for a, b in zip(rounds, buffers, strict=True)]
    what = "virtual seconds to the target of rounds over those of FedBuff, at the largest C"
    id = "federated.sooner-than-rounds.buffers.measured"
    judged = claim(id, what, ratios, Target(least=1.0, unit="x"))
    return _concluded(results, folder, "concurrency", judged)


def _concluded(results: Results, folder: Path, id: str, *claims: Claim) -> Outcome:
    """Draw updates, steps and seconds to the target beside these claims."""
    keys = {"client updates": "updates", "server steps": "steps", "virtual seconds": "clock_s"}
    panels = [_bars(results, name, itemgetter(key), key == "steps") for name, key in keys.items()]
    told: dict[str, Any] = {"title": "To a target accuracy", "caption": TOLD}
    return _outcome(folder / f"federated-{id}", panels, claims, notes=_notes(results), **told)


def measure_bias(level: str, folder: Path) -> Results:
    """Learn for so many updates where the slow clients have classes of their own."""
    from federated.reach import reach as learnt

    base, limits = TASKS[level]
    most = limits["most_updates"] // 2
    unlike = replace(base, steady=True, speed_follows_data=True)

    def learn(scheme: Any, over: float) -> list[dict[str, Any]]:
        options = replace(unlike, scheme=scheme, over_selection=over)
        return [learnt(options, seed, 2.0, most, most) for seed in SEEDS[level]]

    return measure_once(folder, {name: partial(learn, *of) for name, of in WHOM.items()})


def conclude_bias(results: Results, folder: Path) -> Outcome:
    """Draw the accuracy by quartile of speed."""
    panel = Bars(
        groups=["fastest", "second", "third", "slowest"],
        series={n: [[o["by_speed"][q] for o in of] for q in range(4)] for n, of in results.items()},
        unit="accuracy on the clients' own samples",
        title="By quartile of speed, after as many updates (measured)",
    )
    gap = {n: [o["by_speed"][0] - o["by_speed"][3] for o in of] for n, of in results.items()}
    more = [a - b for a, b in zip(gap["over-selection"], gap["FedBuff"], strict=True)]
    what = "accuracy of the fastest quartile less the slowest: with over-selection less FedBuff's"
    id = "federated.bias-over-buffers.over-selection.measured"
    return _outcome(
        folder / "federated-bias",
        [panel],
        [claim(id, what, more, Target(least=0.0, unit="fraction"))],
        title="Whom the model serves",
        caption="Over-selection drops the slow; without rounds they come less often.",
        footnote="clients are the slower the later the class is that they have most of",
    )


def uploads(level: str) -> Cases:
    """Ways for updates to travel, in FedBuff."""
    cases: Cases = {upload: {"upload": upload} for upload in OF_ANY_MODEL}
    return cases | {HALVED: {"upload": HALVED, "upload_rank": 16, "adapter_scale": 2.0}}


def conclude_uploads(results: Results, folder: Path) -> Outcome:
    """Draw the bytes to the target, and the seconds over the rate of the uplinks."""

    def megabytes(one: Mapping[str, Any], way: str = "uploaded") -> float:
        return float(one[f"{way}_bytes"] / 1e6)

    def seconds(one: Mapping[str, Any], rate: float) -> float:  # by Little's law
        return float(one["clock_s"] * (1 + one["upload_bytes"] * 8 / (rate * 1e6)))

    up, down = megabytes, partial(megabytes, way="downloaded")
    panels = [_bars(results, "MB uploaded", up), _bars(results, "MB downloaded", down)]
    for rate in UPLINKS_MBIT_PER_S:
        label = f"virtual seconds, {rate} Mb/s up,"
        panels.append(_bars(results, label, partial(seconds, rate=rate)))
    full = [megabytes(one) for one in results["full"]]
    claims = [
        claim(
            f"federated.fewer-bytes-than-full.{name}.measured",
            f"bytes uploaded to the target in full over those with {name}",
            [a / megabytes(one) for a, one in zip(full, of, strict=True)],
            Target(least=1.0, unit="x"),
        )
        for name, of in results.items()
        if name != "full" and all(one["reached"] for one in of)
    ]
    told = "Without error feedback, in FedBuff. A client trains for 1 s on average."
    named: dict[str, Any] = {"title": "Smaller uploads", "caption": told}
    return _outcome(folder / "federated-uploads", panels, claims, notes=_notes(results), **named)


def _bars(results: Results, label: str, value: Any, logarithmic: bool = False) -> Bars:
    """A bar for every case, of the runs that have reached the target."""
    return Bars(
        groups=[name.replace(" ", "\n") for name in results],
        series={"": [[value(o) for o in of if o["reached"]] for of in results.values()]},
        unit=f"{label} to the target",
        title=f"{label} to the target (no bar: not reached)",
        logarithmic=logarithmic,
        value_format="{:.3g}" if "seconds" in label or "MB" in label else "{:,.0f}",
    )


def _outcome(
    path: Path, panels: Sequence[Bars | Lines], claims: Iterable[Claim], **told: Any
) -> Outcome:
    """Draw panels beside claims; what is told are a title, a caption and notes, and, where they are
    others than of learning, a tier and a footnote."""
    notes, footnote = told.pop("notes", ()), told.pop("footnote", NOTE)
    figure = draw(path, panels, footnote, **{"tier": "measured", **told})
    return Outcome(figures=(figure,), claims=tuple(claims), notes=notes)


def _notes(results: Results) -> tuple[str, ...]:
    rates = ", ".join(f"{n} {of[0]['server_learning_rate']:g}" for n, of in results.items())
    missed = ", ".join(n for n, of in results.items() if not all(one["reached"] for one in of))
    told = f"Not every seed reached the target, so that ratios are bounds: {missed}."
    return (f"Server learning rates: {rates}.", *([told] if missed else []))


def _experiment(id: str, title: str, measure: Any, conclude: Any) -> Experiment:
    tier = "simulated" if id == "waiting" else "measured"
    parts: dict[str, Any] = {"tier": tier, "measure": measure, "conclude": conclude}
    return Experiment(system="federated", id=id, title=title, **parts)


EXPERIMENTS = (
    _experiment("waiting", "What waiting costs", measure_waiting, conclude_waiting),
    _experiment("target", "To a target accuracy", partial(reach, methods), conclude_target),
    _experiment("concurrency", "More clients at once", partial(reach, over_c), conclude_over_c),
    _experiment("bias", "Whom the model serves", measure_bias, conclude_bias),
    _experiment("uploads", "Smaller uploads", partial(reach, uploads), conclude_uploads),
)
ANSWER = (
    "How many times as many client updates another method takes to the target accuracy as FedBuff "
    "at its best K; on other data than the paper's."
)
PAPER = Paper(
    title="Federated Learning with Buffered Asynchronous Aggregation",
    arxiv="2106.06639",
    idea="The server steps for every K updates that arrive, and no client waits for another.",
    figure="federated-target",
    statements=(
        Statement(
            text="FedBuff is up to 3.3x more efficient than synchronous training and up to 2.5x "
            "more than FedAsync",
            answers=(Answer(quantity="fewer-updates-than", sentence=ANSWER),),
        ),
    ),
)
