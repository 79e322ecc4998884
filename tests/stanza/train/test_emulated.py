"""Stand-ins for the paper's models: the profile's bytes and times, cut where the model is cut."""

import pytest
import torch

from stanza.cut.rule import cut_profile
from stanza.cut.separate import separate
from stanza.layout import layout_of
from stanza.options import Options
from stanza.planner.plan import load_profile, shipped_profiles
from stanza.planner.traffic import sizes_of
from stanza.train.emulated import emulated_network, emulated_workload
from stanza.workers.buckets import buckets_of
from stanza.workers.fc_chain import linears
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from systems.profiles.emulated import EmulatedLayer, EmulatedOptimizer
from systems.profiles.emulation import Emulation


def layers_of(module: torch.nn.Module) -> list[EmulatedLayer]:
    return [layer for layer in module.modules() if isinstance(layer, EmulatedLayer)]


@pytest.mark.parametrize("model", shipped_profiles())
@pytest.mark.parametrize("scale", [1, 12.5])
def test_parts_have_the_profiles_bytes_and_times(model: str, scale: float) -> None:
    profile, emulation = load_profile(model), Emulation(scale=scale, dilate=2)
    parts = separate(emulated_network(profile, emulation), (1,))
    cut = cut_profile(profile)
    for part, inside in ((parts.conv, False), (parts.fc, True)):
        expected = [layer for layer in profile.layers if (layer.name in cut.fc) == inside]
        held = sum(p.nbytes for p in part.parameters())
        assert held * scale == pytest.approx(
            sum(layer.parameter_bytes for layer in expected), rel=1e-3
        )
        times = [layer.seconds(profile.batch_size) for layer in layers_of(part)]
        assert sum(t for t, _ in times) == pytest.approx(2 * sum(x.forward_s for x in expected))
        assert sum(t for _, t in times) == pytest.approx(2 * sum(x.backward_s for x in expected))


@pytest.mark.parametrize("model", shipped_profiles())
def test_what_crosses_the_cut_is_as_large_as_the_real_models(model: str) -> None:
    parts = separate(emulated_network(load_profile(model), Emulation(scale=10)), (1,))
    real = sizes_of(Options(model=model))
    assert parts.cut_values * 4 * 10 == pytest.approx(real.cut_bytes, rel=0.01)
    total = sum(p.nbytes for part in (parts.conv, parts.fc) for p in part.parameters())
    # Inception-V3 was profiled without its auxiliary classifier's few layers.
    assert total * 10 == pytest.approx(real.conv_bytes + real.fc_bytes, rel=0.02)


@pytest.mark.parametrize("model", shipped_profiles())
def test_buckets_do_not_depend_on_the_scale(model: str) -> None:
    def sizes(scale: float) -> list[float]:
        network = emulated_network(load_profile(model), Emulation(scale=scale))
        buckets = buckets_of(network, SMALLEST_MESSAGE_BYTES / scale)
        return [bucket.size * scale for bucket in buckets]

    assert sizes(20) == pytest.approx(sizes(1), rel=1e-3)


def test_the_fc_part_can_be_split_by_columns() -> None:
    parts = separate(emulated_network(load_profile("alexnet"), Emulation(scale=10)), (1,))
    chain = list(linears(parts, 3).values())
    assert [layer.in_features for layer in chain] == [922, 410, 410]
    assert [layer.out_features for layer in chain] == [410, 410, 100]


def test_a_workload_fills_every_batch_and_tests_nothing() -> None:
    options = Options(model="alexnet", fc_workers=1, local_batch_size=8)
    layout = layout_of(options, 4, 1, 1)
    workload = emulated_workload(options, layout, load_profile("alexnet"), Emulation(scale=3))
    assert len(workload.data.train) == 24
    assert len(workload.data.test) == 0
    assert workload.message_scale == 3
    assert workload.optimizer is EmulatedOptimizer
    assert workload.data.kind == "none (waits of alexnet on V100; no optimizer, schedule or loss)"
