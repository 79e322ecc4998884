"""Stanza's experiments: what `testbed reproduce stanza` runs, draws and claims.

Targets stand in the code beside their sources.
"""

from stanza.experiments import accuracy, digits, grid, league, planner, scale
from stanza.experiments.paper import PAPER as PAPER
from stanza.experiments.targets import CLUSTER
from systems.figures.experiment import Experiment

EXPERIMENTS = (
    Experiment(
        system="stanza",
        id="time-to-accuracy",
        title="Time to accuracy: real training on a cluster in this machine",
        tier="shaped",
        world_size=4,
        prepare=accuracy.prepare,
        repeats={"quick": 3, "full": 3},
        conclude=accuracy.conclude,
    ),
    Experiment(
        system="stanza",
        id="league",
        title="The communication league: ways to exchange gradients, by time to accuracy",
        tier="shaped",
        world_size=league.RANKS,
        prepare=league.prepare,
        repeats={"quick": 1, "full": 3},
        conclude=league.conclude,
    ),
    Experiment(
        system="stanza",
        id="scale",
        title="The paper's models over nodes, bandwidths and FC workers",
        tier="emulated",
        cluster=CLUSTER,
        cases=grid.CASES,
        conclude=scale.conclude,
    ),
    Experiment(
        system="stanza",
        id="planner",
        title="The paper's models on the paper's cluster, predicted",
        tier="simulated",
        conclude=planner.conclude,
    ),
    Experiment(
        system="stanza",
        id="digits",
        title="Digits: bytes and equivalence, 4 ranks on this machine",
        tier="measured",
        world_size=4,
        cases=digits.CASES,
        repeats={"quick": 2, "full": 9},
        conclude=digits.conclude,
    ),
)
