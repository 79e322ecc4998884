"""Stanza (arXiv 1812.10624): layer-separated training of CNNs, and the baselines it must beat.

    trained = stanza.separate(model, optimizer=make_sgd, loss=cross_entropy)    # under torchrun

`stanza.library` says how to use it. `stanza.workers` opens with a picture of one step and a
glossary.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stanza.library import Trained as Trained, separate as separate

__all__ = ["Trained", "separate"]


def __getattr__(name: str) -> Any:
    """Import the library, which needs torch, when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stanza import library

    return getattr(library, name)
