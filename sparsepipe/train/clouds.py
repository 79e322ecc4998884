"""The clouds that a run trains on; no torch is needed to find them."""

from sparsepipe.data.load import load
from sparsepipe.data.own import own_clouds
from sparsepipe.data.splits import Clouds
from sparsepipe.names import DATA, Rotation
from sparsepipe.options import Options
from systems import by_path
from systems.schema import InputError


def load_clouds(options: Options, seed: int) -> Clouds:
    """Find the data set that the options name.

    Raises:
        InputError: there is none, or it has no classes to learn.
    """
    return find_clouds(
        options.data,
        points=options.points,
        normals=options.normals,
        rotation=options.rotation,
        seed=seed,
    )


def find_clouds(
    data: str, *, points: int, normals: bool, rotation: Rotation, seed: int = 0
) -> Clouds:
    """Find labelled clouds, see `sparsepipe.data.load.load` and `sparsepipe.data.own`.

    Raises:
        InputError: there are none, or they have no classes to learn.
    """
    known = {"points": points, "normals": normals, "rotation": rotation, "seed": seed}
    own = by_path.is_path(data, kinds=DATA)
    found = (
        own_clouds(data, "--sparsepipe.data", **known)
        if own
        else load(data, points=points, normals=normals, rotation=rotation, seed=seed)
    )
    if not found.class_names:
        raise InputError(
            f"--sparsepipe.data {data}: has no classes, and training learns to classify; give "
            "labelled clouds"
        )
    return found
