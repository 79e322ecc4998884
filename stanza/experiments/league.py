"""The communication league: ways to exchange gradients, ranked by the time to an accuracy.

A small relative of AlexNet learns on four ranks of a cluster in this machine, with plain SGD at one
constant rate. Every contestant trains to the end once for each seed, on links as quick as this
machine can make them, and that tells the steps to an accuracy. On links that are to the network
what 10, 1 and 0.1 Gb/s are to AlexNet on the paper's nodes it runs a few steps, and that tells the
seconds of a step. The time to the accuracy is their product. That is exact where all workers wait
for each other. How stale the others get depends on the links: they train to the end on those of
10 Gb/s, and might need other steps on slower ones.

A contestant is a set of options. One of one's own is `"exchange": "file.py:attribute"`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stanza.experiments import accuracy, box, league_figures as figures
from stanza.experiments.league_table import League, end_name, short_name
from stanza.options import Options
from stanza.planner.traffic import sizes_of
from systems.clusters.cluster import Cluster
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Case, Level, Outcome, Results
from systems.network.namespaces import unavailable
from systems.runs import record

RANKS, GLOBAL_BATCH = 4, 48
NETWORK, MODEL = "alexnet-28", "alexnet"
"""The network that is trained, and the model whose ratio of computing to communicating it gets."""
RATES_GBIT = (10.0, 1.0, 0.1)
"""What the links are equivalent to."""
OPEN_BITS_PER_S = 1e9
"""The rate of the links on which all train to the end, as many as wait for each other."""
PAPER_GBIT = 10.0
"""The rate of the paper's links, at which that ratio is known."""
STEPS, TEST_EVERY = 800, 50
PERIOD = 8
"""The steps between two averages of local SGD."""
LATER = STEPS // 8
"""The step from which post-local SGD averages; before, it is DDP."""
WARM_UP_STEPS, MEASURED_STEPS = 2, 8
"""Those of a run of a few steps: exchanges begin after two, and a period is measured."""
SLOWEST_STEPS = 2
"""As many are measured at the slowest links, where a step takes up to a minute, of a contestant
that has no period."""
EASIER = 0.08
"""The accuracy to reach is lower by this than that of the time-to-accuracy experiment, whose
optimizer and schedule are better ones."""
LOCAL = (f"period={PERIOD}", "start=0")
CONTESTANTS: dict[str, dict[str, Any]] = {
    "ddp": {"scheme": "ddp"},
    "ddp fp16": {"scheme": "ddp", "exchange": "fp16"},
    "ddp bf16": {"scheme": "ddp", "exchange": "bf16"},
    "ddp powersgd": {"scheme": "ddp", "exchange": "powersgd"},
    "ddp top-k": {"scheme": "ddp", "exchange": "top-k"},
    "ddp 1-bit": {"scheme": "ddp", "exchange": "1-bit"},
    "local-sgd": {"scheme": "ddp", "exchange": "post-local-sgd", "exchange_options": LOCAL},
    "post-local-sgd": {
        "scheme": "ddp",
        "exchange": "post-local-sgd",
        "exchange_options": (f"period={PERIOD}", f"start={LATER}"),
    },
    "ps": {"scheme": "ps"},
    "ps stale": {"scheme": "ps", "ps_consistency": "stale-synchronous", "ps_staleness": 3},
    "ps asynchronous": {"scheme": "ps", "ps_consistency": "asynchronous"},
    "ps bf16": {"scheme": "ps", "exchange": "bf16"},
    "ps top-k": {"scheme": "ps", "exchange": "top-k"},
    "ps random-k": {"scheme": "ps", "exchange": "random-k"},
    "ps 1-bit": {"scheme": "ps", "exchange": "1-bit"},
    "stanza": {"fc_workers": 1, "micro_batches": 1},
    "stanza bf16": {"fc_workers": 1, "micro_batches": 1, "cut_dtype": "bfloat16"},
}
"""Who takes part."""


def prepare(level: Level, folder: Path) -> tuple[Case, ...]:
    """Time the network's step here, and make the cases. None at level quick, for they take long,
    and none where this machine can be no cluster."""
    if level != "full":
        print("the league takes more than an hour and runs at level full alone", flush=True)
        return ()
    reason = unavailable()
    if reason is not None:
        print(f"the league is left out, this machine can be no cluster: {reason}", flush=True)
        return ()
    timed = record.once(
        folder / "step.json",
        lambda: box.steps_s({NETWORK: options()}, RANKS, GLOBAL_BATCH // RANKS),
        told=f"timing a step of {NETWORK} on {RANKS} processes that share the cores",
    )
    return tuple(_cases(timed[NETWORK]))


def options() -> Options:
    """Return the options with which the network is trained to the end, but for the exchange."""
    dataset = accuracy.source()
    return Options(
        model=NETWORK,
        data=dataset.data,
        image_shape=dataset.image_shape,
        global_batch_size=GLOBAL_BATCH,
        steps=STEPS,
        test_every=TEST_EVERY,
        learning_rate=0.02,
        momentum=0.9,
    )


def _cases(step_s: float) -> Iterator[Case]:
    """All cases, for a network whose step takes so long here."""
    trained = options()
    small = sizes_of(dataclasses.replace(trained, scheme="ddp"), trained.image_shape).conv_bytes
    scale = round(box.parameter_bytes(MODEL) / small, 1)
    trained = dataclasses.replace(trained, message_scale=scale)
    clusters = {gbit: _cluster(gbit, step_s, small) for gbit in RATES_GBIT}
    quick_links = box.cluster_of("league-open", RANKS, OPEN_BITS_PER_S)
    for name, changes in CONTESTANTS.items():
        stale = "ps_consistency" in changes
        yield Case(
            name=end_name(name),
            options=dataclasses.replace(trained, **changes),
            nodes=RANKS,
            cluster=clusters[RATES_GBIT[0]] if stale else quick_links,
            level="full",
        )
    for gbit in RATES_GBIT:
        for name, changes in CONTESTANTS.items():
            few = _few_steps(changes, slowest=gbit == RATES_GBIT[-1])
            yield Case(
                name=short_name(name, gbit),
                options=dataclasses.replace(trained, **changes | few),
                nodes=RANKS,
                cluster=clusters[gbit],
                level="full",
                repeats=None if gbit == RATES_GBIT[0] else 1,
            )


def _cluster(gbit: float, step_s: float, parameter_bytes: float) -> Cluster:
    """The cluster with links equivalent to `gbit`, for a network whose step takes so long here."""
    ratio = box.of_paper(MODEL).ratio * gbit / PAPER_GBIT
    rate = box.link_rate_bits_per_s(step_s, parameter_bytes, ratio)
    return box.cluster_of(f"league-{gbit:g}", RANKS, rate)


def _few_steps(changes: Mapping[str, Any], *, slowest: bool) -> dict[str, Any]:
    """The options of a contestant's run of a few steps, beside `changes`, its own."""
    periodic = changes.get("exchange") == "post-local-sgd"
    measured = SLOWEST_STEPS if slowest and not periodic else MEASURED_STEPS
    few = {"steps": WARM_UP_STEPS + measured, "warm_up_steps": WARM_UP_STEPS, "test_every": 0}
    # No few steps reach a later start.
    return {**few, "exchange_options": LOCAL} if periodic else few


def conclude(results: Results, folder: Path) -> Outcome:
    """Rank the contestants, draw the ranking, judge what should hold."""
    if not results:
        why = unavailable() or "it takes more than an hour; ask for it with --level full"
        return Outcome(figures=(), claims=(), notes=(f"The league was not run: {why}.",))
    dataset = accuracy.source()
    begins = {"post-local-sgd": (LATER, "ddp")}
    played = League(results, tuple(CONTESTANTS), RATES_GBIT, dataset.target - EASIER, begins)
    return Outcome(
        figures=(figures.drawn(played, dataset.data, folder),),
        claims=tuple(_claims(played)),
        notes=(*figures.rankings(played), figures.DIFFERENCES),
    )


def _claims(played: League) -> Iterator[Claim]:
    """Claim that it pays on the slowest links to send less, or to wait for nobody."""
    slowest = RATES_GBIT[-1]
    for name in played.names:
        plain = name.split()[0]
        gains = played.gains(name, plain, slowest)
        if name != plain and plain in CONTESTANTS and gains:
            published = figures.PUBLISHED_OVER_PLAIN.get(name)
            yield claim(
                f"stanza.sooner-than-plain.{name}-at-{slowest:g}-gbit.shaped",
                f"how many times sooner {name} reaches {played.target:.0%} than {plain}, at links "
                f"equivalent to {slowest:g} Gb/s; 0 if it does not within {STEPS} steps",
                gains,
                Target(least=1.0, unit="x", source="it should pay on slow links"),
                paper=None if published is None else f"{published:.2f}x ({figures.SOURCE})",
            )
