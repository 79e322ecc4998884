"""SparsePipe (arXiv 2012.13846): sparse 3D convolution, pipelined over unequal devices.

pipe = sparsepipe.pipeline(network, loss=..., optimizer=...)     # docs/library.md
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsepipe.library.pipeline import Pipeline, pipeline

__all__ = ["Pipeline", "pipeline"]


def __getattr__(name: str) -> Any:
    """Import the library when it is asked for: torch takes seconds, and planning does without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sparsepipe.library import pipeline as module

    return getattr(module, name)
