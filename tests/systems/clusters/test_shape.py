from dataclasses import replace
from pathlib import Path

import pytest

from systems.clusters.host import FREE
from systems.clusters.shape import Impairments, as_measured, shape_of
from systems.schema import InputError

NODES = """
name = "mixed"
source = "a test"
[[nodes]]
name = "fast"
count = 2
devices = [{{ kind = "fast", core_share = {fast} }}]
link = {{ bandwidth_bits_per_s = 1e9 }}
[[nodes]]
name = "slow"
devices = [{{ kind = "{kind}", core_share = 0.2 }}]
link = {{ bandwidth_bits_per_s = 1e8 }}
"""


def written(folder: Path, *, fast: float = 0.6, kind: str = "slow") -> str:
    path = folder / "mixed.toml"
    path.write_text(NODES.format(fast=fast, kind=kind))
    return str(path)


def test_every_rank_has_its_link_and_its_share(tmp_path: Path) -> None:
    shape = shape_of(written(tmp_path), 3)
    assert shape.rates_bits_per_s == (1e9, 1e9, 1e8)
    assert shape.core_shares == (0.6, 0.6, 0.2)
    assert [device.kind for device in shape.devices] == ["fast", "fast", "slow"]
    assert str(shape) == "3 nodes at 1 1 0.1 Gb/s, shares of a core 0.6 0.6 0.2"
    found = as_measured(shape, ratio=1.25, latency_s=1e-3)
    assert [link.bandwidth_bits_per_s for link in found.links] == [0.8e9, 0.8e9, 0.8e8]
    assert {link.latency_s for link in found.links} == {1e-3}


def test_nodes_that_are_alike_get_as_many_as_there_are_ranks() -> None:
    assert shape_of("four-100m", 6).core_shares == (0.4,) * 6


def test_what_makes_no_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"core_share = 1\.5: is a share of one core"):
        shape_of(written(tmp_path, fast=1.5), 3)
    with pytest.raises(InputError, match="'fast' has two values of core_share"):
        shape_of(written(tmp_path, kind="fast"), 3)
    with pytest.raises(InputError, match="--world-size 4: cluster mixed mixes 3 nodes"):
        shape_of(written(tmp_path), 4)


def test_links_without_impairments_add_nothing() -> None:
    assert not Impairments()
    assert Impairments(delay_s=0.01, jitter_s=0.001)


def test_what_a_probe_has_found_gets_the_links_as_they_are(tmp_path: Path) -> None:
    shape = shape_of("four-100m", 4)
    assert shape.is_uniform
    assert not shape_of(written(tmp_path), 3).is_uniform
    host = replace(FREE, share=0.4, bandwidth_bits_per_s=1e8)
    found = as_measured(shape, ratio=1.25, latency_s=1e-3, host=host)
    assert found.network == replace(host, bandwidth_bits_per_s=0.8e8)
