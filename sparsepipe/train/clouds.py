"""The clouds that a run trains on; no torch is needed to find them."""

from sparsepipe.data.load import load
from sparsepipe.data.splits import Clouds
from sparsepipe.options import Options
from systems.schema import InputError


def load_clouds(options: Options, seed: int) -> Clouds:
    """Find the data set that the options name.

    Raises:
        InputError: there is none, or it has no classes to learn.
    """
    data = load(
        options.data,
        points=options.points,
        normals=options.normals,
        rotation=options.rotation,
        seed=seed,
    )
    if not data.class_names:
        raise InputError(
            f"--sparsepipe.data {options.data}: has no classes, and training learns to classify; "
            "give labelled clouds"
        )
    return data
