from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from systems.profiles import emulated
from systems.profiles.emulated import (
    EmulatedDevice,
    EmulatedLayer,
    EmulatedOptimizer,
    emulated_layers,
    joined,
)
from systems.profiles.emulation import Emulation
from systems.profiles.profile import LayerProfile
from systems.schema import InputError

LAYER = LayerProfile(
    name="fc",
    operation="Linear(in_features=100, out_features=50)",
    forward_s=0.004,
    backward_s=0.008,
    activation_bytes=8 * 50 * 4,
    parameter_bytes=5000 * 4,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    fake = Clock()
    monkeypatch.setattr(emulated, "time", fake)
    return fake


class Clock:
    """Time that passes only in `sleep`, or when told."""

    def __init__(self) -> None:
        self.now, self.host = 0.0, 0.0

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.host

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def layer(emulation: Emulation = Emulation(), **changes: object) -> EmulatedLayer:  # noqa: B008
    profile = replace(LAYER, **changes)  # type: ignore[arg-type]
    return EmulatedLayer(profile, 8, in_features=100, emulation=emulation, device=EmulatedDevice())


def test_sizes_are_the_profiles_divided_by_the_scale() -> None:
    whole, small = layer(), layer(Emulation(scale=10))
    assert whole.weight.nbytes == LAYER.parameter_bytes
    assert whole(torch.zeros(8, 100)).shape == (8, 50)
    assert small.weight.nbytes == LAYER.parameter_bytes / 10
    assert small(torch.zeros(3, 100)).shape == (3, 5)


def test_gradients_have_the_shapes_of_what_they_are_of(clock: Clock) -> None:
    one, inputs = layer(), torch.ones(4, 100, requires_grad=True)
    one(inputs).sum().backward()
    assert inputs.grad is not None
    assert one.weight.grad is not None
    assert inputs.grad.shape == inputs.shape
    assert one.weight.grad.shape == one.weight.shape


def test_a_layer_waits_as_long_as_its_profile_says(clock: Clock) -> None:
    outputs = layer(Emulation(dilate=3), fixed_forward_s=0.002)(torch.zeros(4, 100))
    assert clock.now == pytest.approx(3 * (0.002 + 0.002 / 2))  # half the batch
    outputs.sum().backward()
    assert clock.now == pytest.approx(3 * (0.003 + 0.008 / 2))


def test_a_layer_without_parameters_passes_gradients_on(clock: Clock) -> None:
    bare, inputs = layer(parameter_bytes=0), torch.ones(8, 100, requires_grad=True)
    assert list(bare.parameters()) == []
    bare(inputs).sum().backward()
    assert clock.now == pytest.approx(0.012)


def test_the_hosts_own_work_does_not_count_as_idle_time(clock: Clock) -> None:
    device = EmulatedDevice()
    device.run(1.0, queued=False)
    clock.now, clock.host = clock.now + 0.3, clock.host + 0.3  # copies, Python
    device.run(1.0, queued=False)
    assert clock.now == pytest.approx(2.0)
    clock.now += 0.5  # waiting for a message
    device.run(1.0, queued=False)
    assert clock.now == pytest.approx(3.5)


def test_layers_of_one_pass_follow_each_other_at_once(clock: Clock) -> None:
    device = EmulatedDevice()
    device.run(1.0, queued=False)
    clock.now += 0.4  # the host was not scheduled
    device.run(1.0, queued=True)
    assert clock.now == pytest.approx(2.0)
    assert device.busy_s == pytest.approx(2.0)


def test_a_wait_too_short_to_sleep_is_made_up_for(clock: Clock) -> None:
    device = EmulatedDevice()
    for _ in range(1000):
        device.run(emulated.SHORTEST_SLEEP_S / 10, queued=True)
    assert clock.now == pytest.approx(100 * emulated.SHORTEST_SLEEP_S, rel=0.02)


def test_a_chain_queues_all_but_the_first_of_each_pass(clock: Clock) -> None:
    chain = emulated_layers(
        [LAYER] * 3, 8, in_features=100, emulation=Emulation(), device=EmulatedDevice()
    )
    assert [each.queued for each in chain] == [(False, True), (True, True), (True, False)]
    assert [each.in_features for each in chain] == [100, 50, 50]
    chain(torch.zeros(8, 100)).sum().backward()
    assert clock.now == pytest.approx(3 * 0.012)


def test_columns_share_out_time_and_parameters() -> None:
    whole = layer()
    parts = [whole.columns(index, 3) for index in range(3)]
    assert [part.in_features for part in parts] == [33, 33, 34]
    assert all(part.out_features == whole.out_features for part in parts)
    assert sum(p.weight.nbytes for p in parts) == pytest.approx(whole.weight.nbytes, rel=0.001)
    assert sum(p.seconds(8)[0] for p in parts) == pytest.approx(LAYER.forward_s)


@given(st.lists(st.tuples(st.integers(0, 300), st.floats(0, 1)), min_size=1), st.integers(1, 200))
def test_joining_loses_nothing(sizes: list[tuple[int, float]], least: int) -> None:
    layers = [
        replace(LAYER, parameter_bytes=size, forward_s=seconds, activation_bytes=i)
        for i, (size, seconds) in enumerate(sizes)
    ]
    found = joined(layers, least)
    assert sum(one.parameter_bytes for one in found) == sum(size for size, _ in sizes)
    assert sum(one.forward_s for one in found) == pytest.approx(sum(s for _, s in sizes))
    assert found[-1].activation_bytes == len(sizes) - 1
    assert len(found) == max(1, sum(size >= least for size, _ in sizes))
    assert all(one.parameter_bytes >= least for one in found) or len(found) == 1


def test_the_optimizer_changes_nothing() -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    EmulatedOptimizer([parameter]).step()
    assert parameter.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ["scale", "dilate"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_a_factor_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{name}"):
        Emulation(**{name: value})


def test_a_link_is_slowed_by_both() -> None:
    assert Emulation(scale=4, dilate=2.5).rate_bits_per_s(10e9) == 1e9
