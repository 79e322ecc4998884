"""The options that name the user's own optimizer, schedule and loss, and the arguments of these."""

from typing import Any

from stanza.models import is_own
from systems import by_path
from systems.schema import InputError

OWN = ("model", "exchange", "optimizer", "schedule", "loss")
"""The options that may name the user's own code, beside the data."""
SGD, CROSS_ENTROPY = "sgd", "cross-entropy"
"""The optimizer and the loss that are no import paths."""
DATA_KINDS = ("folder",)
"""The kinds of data that have a path after a colon, as import paths have an attribute."""


def has_own_data(options: Any) -> bool:
    """Whether the data of options are the user's own code."""
    return by_path.is_path(options.data, DATA_KINDS)


def own_code(options: Any) -> tuple[str, ...]:
    """The import paths of the user's own code, which a run of these options imports."""
    model = (options.model,) if is_own(options.model) else ()
    data = (options.data,) if has_own_data(options) else ()
    named = (options.exchange, options.optimizer, options.schedule or SGD, options.loss)
    return model + data + tuple(name for name in named if by_path.is_path(name))


def check_own(options: Any) -> None:
    """Refuse an optimizer, schedule or loss that is no import path, and arguments that nothing
    takes. Nothing is imported."""
    for option, value, known in (
        ("optimizer", options.optimizer, SGD),
        ("schedule", options.schedule, None),
        ("loss", options.loss, CROSS_ENTROPY),
    ):
        arguments = getattr(options, f"{option}_options")
        if value != known and not by_path.is_path(str(value)):
            also = f"{known}, or " if known else ""
            raise InputError(
                f"--stanza.{option} {value}: give {also}an import path, module:attribute or "
                "path/to/file.py:attribute"
            )
        if value == known and arguments:
            raise InputError(
                f"--stanza.{option}-options {' '.join(arguments)}: nothing takes them; "
                f"give --stanza.{option} as module:attribute too"
            )
        by_path.keywords(arguments, f"--stanza.{option}-options")
    if options.optimizer == SGD:
        return
    for name in ("learning_rate", "momentum", "weight_decay"):
        if getattr(options, name) != getattr(type(options), name):
            value = getattr(options, name)
            raise InputError(
                f"--stanza.{name.replace('_', '-')} {value:g}: belongs to sgd, and the "
                f"optimizer is {options.optimizer}; give it in --stanza.optimizer-options"
            )
