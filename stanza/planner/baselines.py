"""Predicts the baselines: data parallelism and parameter servers, all without separation."""

from functools import lru_cache
from typing import Any

from stanza.exchanges.names import PLAIN, WHOLE, Compression, compression_of
from stanza.layout import Layout, layout_of
from stanza.options import Options
from stanza.planner import predict
from stanza.planner.costs import CostsAt
from stanza.planner.predict import Prediction
from stanza.planner.simulated import played_plan
from stanza.planner.simulated.steps import Simulated, steps_on
from systems.clusters.cluster import Link
from systems.clusters.host import Host

HEEDED = (
    *("model", "image_shape", "classes", "local_batch_size", "global_batch_size", "batch_shares"),
    *("ps_servers", "exchange", "exchange_options"),
)
"""The options that the step time of a baseline depends on, beside those that select it."""


def baseline_options(scheme: str) -> dict[str, Any]:
    """The options that select a predicted scheme, such as ps-sharded."""
    return {
        "stanza": {"scheme": "stanza"},
        "ddp": {"scheme": "ddp"},
        "ps-blocking": {"scheme": "ps", "ps_placement": "dedicated", "ps_mode": "blocking"},
        "ps-pipelined": {"scheme": "ps", "ps_placement": "dedicated", "ps_mode": "pipelined"},
        "ps-sharded": {"scheme": "ps", "ps_placement": "colocated", "ps_mode": "pipelined"},
    }[scheme]


def predicted(
    options: Options, at: CostsAt, world_size: int, network: Link | Host
) -> tuple[Prediction, ...]:
    """Predict the baselines that have a sample for every worker. DDP comes last; on one rank there
    is no other."""
    servers, schemes = options.ps_servers, list[str]()
    everywhere = options.shares(world_size)
    beside_servers = options.shares(max(1, world_size - servers))
    if world_size > 1 and min(beside_servers):
        schemes += ["ps-blocking", "ps-pipelined"]
    if world_size > 1 and min(everywhere):
        schemes.append("ps-sharded")
    if min(everywhere):
        schemes.append("ddp")
    of_ps, of_ddp = (_compression(options, scheme) for scheme in ("ps", "ddp"))
    if isinstance(network, Host):
        return tuple(_played(options, at, world_size, name, network) for name in schemes)
    recurrences = {
        "ps-blocking": lambda: predict.ps_blocking(at, beside_servers, servers, network, of_ps),
        "ps-pipelined": lambda: predict.ps_pipelined(at, beside_servers, servers, network, of_ps),
        "ps-sharded": lambda: predict.ps_sharded(at, everywhere, network, of_ps),
        "ddp": lambda: predict.ddp(at, everywhere, network, of_ddp),
    }
    return tuple(recurrences[name]() for name in schemes)


def _compression(options: Options, scheme: str) -> Compression:
    """Return how much travels under a scheme: the exchange that the options name belongs to their
    own."""
    compression = compression_of(options.exchange, options.exchange_options)
    return compression if compression is not None and scheme == options.scheme else WHOLE


def _played(options: Options, at: CostsAt, world_size: int, scheme: str, host: Host) -> Prediction:
    """Play a baseline whose ranks share one machine."""
    of_scheme = baseline_options(scheme)
    if of_scheme["scheme"] != options.scheme:  # their exchange is not this scheme's
        of_scheme |= {"exchange": PLAIN, "exchange_options": ()}
    alike = {name: getattr(options, name) for name in HEEDED}
    return _played_once(Options(**alike | of_scheme), at, world_size, scheme, host)


@lru_cache(maxsize=256)  # jobs that differ in other options ask for the same
def _played_once(
    options: Options, at: CostsAt, world_size: int, scheme: str, host: Host
) -> Prediction:
    layout = layout_of(options, world_size, 0, 1)
    played = played_plan(options, layout, at, host, steps=steps_on(host))
    return as_prediction(scheme, layout, played, host)


def as_prediction(
    scheme: str, layout: Layout, played: Simulated, network: Link | Host
) -> Prediction:
    """Turn steps that the simulator has played into a prediction."""
    return Prediction(
        scheme=scheme,
        fc_workers=len(layout.ranks("fc")),
        micro_batches=layout.micro_batches,
        fc_parallel=layout.fc_parallel,
        fc_placement=layout.fc_placement,
        step_s=played.step_s,
        samples=played.samples,
        resources=played.resources(network),
    )
