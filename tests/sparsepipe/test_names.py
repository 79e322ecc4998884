"""The names that options know are those of what is behind them."""

from sparsepipe import models, names
from sparsepipe.planner import baselines


def test_names_are_those_of_networks_and_baselines() -> None:
    assert tuple(models.NETWORKS) == names.NETWORKS
    assert set(names.CLASSIFIERS) <= set(names.NETWORKS)
    assert tuple(baselines.BASELINES) == names.BASELINES
