"""What a rank of a shaped cluster finds of its layers."""

from collections.abc import Callable
from dataclasses import replace
from threading import current_thread

import pytest

from sparsepipe.options import Options
from sparsepipe.system import SYSTEM, shaping
from systems.job import Job
from systems.profiles.profile import LayerProfile, ModelProfile

STEP_S = 3.0
SMALL = Options(scheme="pipeline", width=0.125, points=400, voxel_size=0.06, batch_size=8, steps=1)


def job(options: Options) -> Job:
    return SYSTEM.job(options, world_size=2)


def test_layers_take_what_whole_steps_take() -> None:
    def together(step: Callable[[], object]) -> float:
        step()
        step()  # more of them than the job trains
        return STEP_S

    found = shaping.profile(job(SMALL), "half a core", together)
    assert found.device == "half a core"
    updates_s = sum(layer.update_s for layer in found.layers)
    whole_s = found.forward_s + found.backward_s + updates_s
    assert whole_s > STEP_S
    samples_s = whole_s - STEP_S
    assert found.layers[0].forward_s >= samples_s
    weights = [layer for layer in found.layers if layer.parameter_bytes]
    assert weights
    assert all(layer.update_s > 0 for layer in weights)


def test_samples_take_what_their_thread_takes_beside_a_step() -> None:
    steps: list[str] = []
    found_s = shaping._made_beside(lambda: steps.append(current_thread().name), lambda: 0.25)
    assert found_s == 0.25
    assert steps == [current_thread().name]  # the step stays on the thread that it is asked on


def test_layers_of_a_single_sample_have_no_fixed_part() -> None:
    tiny = replace(SMALL, batch_size=2, optimizer="torch.optim:AdamW")
    found = shaping.profile(job(tiny), "half a core", lambda step: STEP_S)
    assert sum(layer.fixed_forward_s for layer in found.layers) == 0


@pytest.mark.parametrize("name", ["points", "batch_size", "width"])
def test_a_profile_is_of_these_options(name: str) -> None:
    other = replace(SMALL, **{name: 2 * getattr(SMALL, name)})
    assert shaping.profiled(job(SMALL)) != shaping.profiled(job(other))
    assert shaping.profiled(job(SMALL)) == shaping.profiled(job(replace(SMALL, steps=9)))


def test_samples_count_at_the_first_layer_and_updates_where_parameters_are() -> None:
    layers = tuple(
        LayerProfile(
            name=name,
            operation="Linear()",
            forward_s=1.0,
            backward_s=2.0,
            fixed_backward_s=0.5,
            activation_bytes=8,
            parameter_bytes=size,
        )
        for name, size in (("a", 100), ("b", 0), ("c", 300))
    )
    bare = ModelProfile(name="net", device="any", batch_size=4, source="a test", layers=layers)
    more = shaping._with_samples(shaping._with_updates(bare, 4.0), 0.25)
    assert [layer.forward_s for layer in more.layers] == [1.25, 1.0, 1.0]
    assert [layer.fixed_forward_s for layer in more.layers] == [0.0, 0.0, 0.0]
    assert [layer.backward_s for layer in more.layers] == [2.0, 2.0, 2.0]
    assert [layer.update_s for layer in more.layers] == [1.0, 0.0, 3.0]
