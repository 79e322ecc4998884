"""Whether data and model have classes that fit."""

from systems.schema import InputError


def check_classes(source: str, in_data: int, classes: int) -> None:
    """Refuse data that have more classes than the model tells apart."""
    if in_data > classes:
        raise InputError(
            f"--stanza.data {source}: {in_data} classes but the model has {classes}; "
            f"give --stanza.classes {in_data}, or a model with more classes"
        )
