"""Time to accuracy: real training on clusters in this machine, by every scheme.

Small relatives of AlexNet, VGG-16 and ResNet-50 learn Fashion-MNIST on four ranks (and eight at
level full), behind links that give each the ratio of computing to communicating that its model has
on the paper's cluster (`stanza.experiments.box`). Every scheme takes the same steps on the same
samples with the same rates, so they differ in how long a step takes. At level quick all run a few
steps, with three seeds in the setting of AlexNet and two in the others, and one scheme in that
setting runs to the end with one; at level full all run to the end with three.

This file says what is run. `accuracy_curves` reads the results, `accuracy_claims` judges them, and
`accuracy_figures` draws them.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stanza.experiments import accuracy_claims as claims, accuracy_figures as figures, box
from stanza.experiments.accuracy_curves import Setting, Trained, case_name, end_name
from stanza.experiments.targets import AUTO
from stanza.options import Options
from stanza.planner.traffic import sizes_of
from systems.data import fashion_mnist, mnist_5k
from systems.figures.experiment import Case, Level, Outcome, Results
from systems.figures.shaped import left_out
from systems.network.namespaces import unavailable
from systems.runs import record

RANKS = {"quick": (4,), "full": (4, 8)}
"""The sizes of the cluster, by level."""
GLOBAL_BATCH = 96
"""Samples in a step of all ranks: 24 for each of four."""
STEPS = 900
"""Steps of a run to the end."""
WARM_UP_STEPS, MEASURED_STEPS = 2, 8
"""Those of a short run."""
TEST_EVERY = 150
RATE = 4e-3
"""The largest learning rate of the one cycle (arXiv:1708.07120) of AdamW."""


@dataclass(frozen=True)
class Source:
    """Data to learn, and what is a good accuracy on them."""

    data: str
    target: float
    image_shape: tuple[int, int, int] | None = None
    """None: that of the networks."""


SOURCES = (
    Source("fashion-mnist", 0.88),
    Source("mnist-5k", 0.95),
    Source("digits", 0.95, (1, 8, 8)),
)
"""In the order in which they are taken, if they are here; the last one always is."""

SETTINGS = (
    Setting("alexnet-like", "alexnet-28", "alexnet"),
    Setting("vgg16-like", "vgg-28", "vgg16"),
    Setting("resnet50-like", "resnet-28", "resnet50"),
)

_PIPELINED = {"scheme": "ps", "ps_mode": "pipelined"}
SCHEMES: dict[str, dict[str, Any]] = {
    "stanza": {"fc_workers": 1, "micro_batches": 1},
    "micro-batches": {"fc_workers": 1},
    "auto": AUTO,
    "ddp": {"scheme": "ddp"},
    "ps-blocking": {"scheme": "ps"},
    "ps-pipelined": _PIPELINED,
    "ps-sharded": {**_PIPELINED, "ps_placement": "colocated"},
}
"""What is compared: Stanza as published, with as many micro-batches as the planner likes, and as
the planner likes; and the baselines."""
QUICK_END = ("alexnet-like", "auto")
"""The setting and the scheme that run to the end at level quick, with one seed."""
QUICK_SCHEMES = ("auto", "ddp", "ps-pipelined", "ps-sharded")
"""The schemes of the other settings at level quick."""
QUICK_SEEDS = 2
"""The seeds of these: their steps are long, and differ by little."""


def source() -> Source:
    """The data that are here."""
    here = {"fashion-mnist": fashion_mnist.folder(), "mnist-5k": mnist_5k.file(), "digits": True}
    return next(one for one in SOURCES if here[one.data])


def prepare(level: Level, folder: Path) -> tuple[Case, ...]:
    """Time the networks' steps here, and make the cases, on links whose rates follow from that. No
    cases where this machine can be no cluster."""
    reason = unavailable()
    if reason is not None:
        print(f"time to accuracy is left out, this machine can be no cluster: {reason}", flush=True)
        return ()
    dataset = source()
    if dataset is not SOURCES[0]:
        print(f"Fashion-MNIST is not here; the networks learn {dataset.data}", flush=True)
    cases: list[Case] = []
    for ranks in RANKS[level]:
        networks = {setting.network: _options(setting, dataset) for setting in SETTINGS}
        timed = record.once(
            folder / f"steps-of-{ranks}.json",
            partial(box.steps_s, networks, ranks, GLOBAL_BATCH // ranks),
            told=f"timing a step of every network on {ranks} processes that share the cores",
        )
        for setting in SETTINGS:
            cases += _cases(setting, dataset, ranks, timed[setting.network], level)
    return tuple(cases)


def _cases(
    setting: Setting, dataset: Source, ranks: int, step_s: float, level: Level
) -> Iterator[Case]:
    """The cases of a setting on so many ranks, whose step takes so long here."""
    options = _options(setting, dataset)
    small = sizes_of(dataclasses.replace(options, scheme="ddp"), dataset.image_shape).conv_bytes
    rate = box.link_rate_bits_per_s(step_s, small, box.of_paper(setting.model).ratio)
    cluster = box.cluster_of(f"{setting.name}-{ranks}", ranks, rate)
    print("  " + box.described(setting.model, setting.network, step_s, small), flush=True)
    scale = round(box.parameter_bytes(setting.model) / small, 1)
    options = dataclasses.replace(options, message_scale=scale)
    short = dataclasses.replace(
        options, steps=WARM_UP_STEPS + MEASURED_STEPS, warm_up_steps=WARM_UP_STEPS, test_every=0
    )
    for scheme, changes in SCHEMES.items():
        if level == "quick" and (setting.name == QUICK_END[0] or scheme in QUICK_SCHEMES):
            yield Case(
                name=case_name(setting, scheme, ranks),
                options=dataclasses.replace(short, **changes),
                nodes=ranks,
                cluster=cluster,
                repeats=None if setting.name == QUICK_END[0] else QUICK_SEEDS,
            )
        if level == "full" or (setting.name, scheme) == QUICK_END:
            yield Case(
                name=end_name(setting, scheme, ranks),
                options=dataclasses.replace(options, **changes),
                nodes=ranks,
                cluster=cluster,
                repeats=1 if level == "quick" else None,
            )


def _options(setting: Setting, dataset: Source) -> Options:
    """Return the options with which a network is trained to the end, whatever the scheme."""
    return Options(
        model=setting.network,
        classes=96 if setting.network == "resnet-28" else None,
        image_shape=dataset.image_shape,
        data=dataset.data,
        global_batch_size=GLOBAL_BATCH,
        steps=STEPS,
        test_every=TEST_EVERY,
        optimizer="torch.optim:AdamW",
        optimizer_options=(f"lr={RATE}",),
        schedule="torch.optim.lr_scheduler:OneCycleLR",
        schedule_options=(
            f"max_lr={RATE}",
            f"total_steps={STEPS + 1}",
            "pct_start=0.2",
            "cycle_momentum=False",
        ),
    )


def conclude(results: Results, folder: Path) -> Outcome:
    """Draw accuracy over time, judge how much sooner Stanza reaches the target."""
    if not results:
        return left_out(unavailable() or "no case was run")
    dataset = source()
    trained = Trained(results, SETTINGS, tuple(SCHEMES), dataset.target, STEPS)
    return Outcome(
        figures=figures.drawn(trained, dataset.data, folder),
        claims=tuple(claims.claims(trained, dataset.data)),
        notes=figures.notes(trained, dataset.data),
        comparisons=tuple(claims.comparisons(trained)),
    )
