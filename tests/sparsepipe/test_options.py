import pytest

from sparsepipe import models, names
from sparsepipe.options import Options
from sparsepipe.planner import baselines
from systems.schema import InputError


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": "minkvgg"}, "--sparsepipe.model minkvgg"),
        ({"backend": "spconv"}, "--sparsepipe.backend spconv"),
        ({"batch_size": 0}, "--sparsepipe.batch-size 0"),
        ({"test_clouds": 0}, "--sparsepipe.test-clouds 0"),
        ({"voxel_size": 0.0}, "--sparsepipe.voxel-size 0"),
        ({"width": float("inf")}, "--sparsepipe.width inf"),
        ({"momentum": 1.0}, "--sparsepipe.momentum 1"),
        ({"weight_decay": -1.0}, "--sparsepipe.weight-decay -1"),
    ],
)
def test_bad_values_are_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Options(**values)  # type: ignore[arg-type]


def test_the_names_are_those_of_what_is_behind_them() -> None:
    assert tuple(models.NETWORKS) == names.NETWORKS
    assert tuple(baselines.BASELINES) == names.BASELINES
