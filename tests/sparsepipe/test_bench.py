from sparsepipe.bench import DENSE_MOST_OPERATIONS, cases, shell


def test_a_shell_is_as_thin_as_a_voxel() -> None:
    coordinates = shell(40)
    assert len(coordinates.unique(dim=0)) == len(coordinates)
    distance = (coordinates[:, 1:] - 19.5).norm(dim=1)
    assert (distance - 18).abs().max() < 0.5
    assert len(coordinates) > 3.5 * 18**2  # 4 pi r^2, about


def test_dense_volumes_that_take_too_long_are_left_out() -> None:
    found = cases((32, 256), (64,), threads=1)
    engines = [(case.resolution, case.engine) for case in found]
    assert engines[:3] == [(32, "native"), (32, "minkowski"), (32, "dense")]
    assert engines[3:] == [(256, "native"), (256, "minkowski")]
    assert all(c.dense_operations <= DENSE_MOST_OPERATIONS for c in found if c.engine == "dense")
