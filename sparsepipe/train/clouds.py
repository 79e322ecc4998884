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
    clouds = find_clouds(
        options.data,
        points=options.points,
        normals=options.normals,
        rotation=options.rotation,
        seed=seed,
    )
    if not clouds.class_names:
        raise InputError(
            f"--sparsepipe.data {options.data}: has no classes, and training learns to classify; "
            "give labelled clouds"
        )
    return clouds


def find_clouds(
    data: str,
    *,
    points: int = 2048,
    normals: bool = False,
    rotation: Rotation = "vertical",
    seed: int = 0,
) -> Clouds:
    """Find clouds by name, or by import path (`sparsepipe.data.own`). The arguments are those of
    `sparsepipe.data.load.load`.

    Raises:
        InputError: there are none.
    """
    if not by_path.is_path(data, kinds=DATA):
        return load(data, points=points, normals=normals, rotation=rotation, seed=seed)
    known = {"points": points, "normals": normals, "rotation": rotation, "seed": seed}
    return own_clouds(data, "--sparsepipe.data", **known)
