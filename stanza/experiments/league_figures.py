"""The figure and the rankings of the league, with what BytePS's page reports beside them."""

from pathlib import Path

from stanza.experiments.league_table import League
from systems.figures.draw import Bars, Panel, draw
from systems.figures.experiment import Figure
from systems.figures.progress import Progress
from systems.figures.text import table

SOURCE = "bytedance/byteps, docs/gradient-compression.md, commit a7db8f3, section Slow Network"
PUBLISHED_S = {
    "ps": 518.321322125,
    "ps 1-bit": 195.236724875,
    "ps random-k": 89.672168625,
    "ps top-k": 83.9287285,
}
"""Seconds of training that the page reports at 100 Mb/s, by the contestant here that is alike."""
PUBLISHED_OVER_PLAIN = {
    name: PUBLISHED_S["ps"] / seconds for name, seconds in PUBLISHED_S.items() if name != "ps"
}
"""How many times sooner than without compression."""
DIFFERENCES = (
    f"Published: {SOURCE}. There, ResNet18_v2 learns CIFAR-100 on 4 nodes of 8 V100 each, at a "
    "true 100 Mb/s, and the seconds are those of all 200 epochs; k is 1 for top-k and 8 for "
    "random-k, with error feedback and Nesterov momentum in the compressor. Here a small network "
    "learns other data on CPUs, behind links with AlexNet's ratio of computing to communicating, "
    "to an accuracy; 1 % of the values travel, with error feedback, and servers send the "
    "compressed change of the parameters. AlexNet has five times as many parameters as ResNet18, "
    "so compressing saves a larger part of a step. The ratios of steps may be compared."
)
FEATURED = ("ddp", "ddp bf16", "ddp top-k", "local-sgd", "ps", "ps asynchronous", "stanza")
"""Whose curves are drawn: as many as there are colours."""
LEAST_DRAWN = 0.5
"""Where the axis of accuracies begins."""


def drawn(played: League, data: str, folder: Path) -> Figure:
    """Draw the seconds to the target, the gains beside those that are published, and curves."""
    first = played.rates_gbit[0]
    panels: list[Panel] = [
        _seconds(played),
        _beside_published(played),
        Progress(
            measured={name: played.curve(name, first) for name in FEATURED if name in played.names},
            order=FEATURED,
            x_label="seconds of training",
            y_label="test accuracy",
            title=f"Accuracy, links equivalent to {first:g} Gb/s (shaped)",
            target=played.target,
            least=LEAST_DRAWN,
        ),
    ]
    return draw(
        folder / "league",
        panels,
        "4 network namespaces behind shaped links, each rank held to a share of a core; bars: "
        "median over seeds, dots: each; seconds are the steps to the target, from runs to the end, "
        "times the step time measured at these links; never: not within the run; "
        f"hatched: {SOURCE}",
        title="The communication league",
        tier="shaped",
        caption=f"Seconds until a small relative of AlexNet reaches {played.target:.0%} on {data} "
        "with every way to exchange gradients, all with the same SGD at the same rate. Links are "
        "slowed so that the network's ratio of computing to communicating is that of AlexNet on "
        "V100 nodes with links of 10, 1 and 0.1 Gb/s.",
    )


def _seconds(played: League) -> Bars:
    """Make the panel of the seconds to the target of every contestant, at every rate."""
    reached = played.seconds_to
    first = played.rates_gbit[0]
    return Bars(
        groups=[name if reached(name, first) else f"{name}: never" for name in played.names],
        series={
            f"{gbit:g} Gb/s": [reached(name, gbit) for name in played.names]
            for gbit in played.rates_gbit
        },
        unit=f"seconds to {played.target:.0%}",
        title="Time to the target, by equivalent link (shaped)",
        logarithmic=True,
        value_format="{:.0f}",
    )


def _beside_published(played: League) -> Bars:
    """Draw how much quicker compressed servers are than plain ones, here and as published."""
    slowest, theirs = played.rates_gbit[-1], "BytePS, 200 epochs at 100 Mb/s (published)"
    names = [name for name in PUBLISHED_OVER_PLAIN if name in played.names]
    gains = {name: played.gains(name, "ps", slowest) for name in names}
    return Bars(
        groups=names,
        series={
            f"a step here, {slowest:g} Gb/s-equivalent (shaped)": [
                played.quicker_steps(name, "ps", slowest) for name in names
            ],
            f"to {played.target:.0%} here (shaped)": [
                [gain for gain in gains[name] if gain] for name in names
            ],
            theirs: [[PUBLISHED_OVER_PLAIN[name]] for name in names],
        },
        published=(theirs,),
        logarithmic=True,
        unit="x as quick as without compression",
        title="Compressed parameter servers: here (shaped), published",
        reference=1.0,
        value_format="{:.2f}",
    )


def rankings(played: League) -> tuple[str, ...]:
    """Write a table for each rate: the contestants in their order, in Markdown."""
    return tuple(_ranking(played, gbit) for gbit in played.rates_gbit)


def _ranking(played: League, gbit: float) -> str:
    """Write the table of one rate."""
    rows = []
    for place, (name, seconds) in enumerate(played.ranking(gbit), start=1):
        paces, stale = played.steps_s(name, gbit), played.staleness(name)
        sent = played.sent_bytes(name)
        rows.append(
            (
                place if seconds is not None else "-",
                name,
                "not reached" if seconds is None else f"{seconds:.0f}",
                "n/a" if not paces else f"{min(paces) * 1e3:.0f} to {max(paces) * 1e3:.0f}",
                "n/a" if sent is None else f"{sent / 1e3:,.0f}",
                f"{played.accuracy(name):.2%}",
                "-" if stale is None else f"{stale[0]:.1f}, {stale[1]:.0f}",
                len(played.ends(name)),
            )
        )
    columns = ("place", "contestant", f"seconds to {played.target:.0%}", "step ms")
    more = ("kB a step, busiest rank", "accuracy at the end", "staleness, mean and largest", "n")
    how = "steps to the target times the measured step time"
    return table((*columns, *more), rows, f"At links equivalent to {gbit:g} Gb/s ({how}):")
