"""What a job on equal nodes is planned with."""

from pathlib import Path

import pytest

from systems.clusters.sized import profile_of, sized_cluster
from systems.profiles.profile import LayerProfile, ModelProfile, save
from systems.schema import InputError

LAYER = LayerProfile(
    name="one",
    operation="Linear",
    forward_s=1.0,
    backward_s=2.0,
    activation_bytes=4,
    parameter_bytes=8,
)


@pytest.mark.parametrize(
    ("device", "named", "said"),
    [
        ("cpu", False, "--profile None: says not what a step costs; give one taken on V100"),
        ("cpu", True, "was taken on cpu, and cluster ec2-p3-10g has V100"),
        ("V100", True, None),
    ],
)
def test_a_profile_is_of_the_devices_of_the_cluster(
    device: str, named: bool, said: str | None, tmp_path: Path
) -> None:
    made = ModelProfile(name="m", device=device, batch_size=1, source="here", layers=(LAYER,))
    save(made, tmp_path / "m.json")
    file, target = str(tmp_path / "m.json") if named else None, sized_cluster("ec2-p3-10g", 3)
    if said is None:
        assert profile_of(file, target) == made
        return
    with pytest.raises(InputError) as error:
        profile_of(file, target)
    assert said in str(error.value)
