"""What several tests of Stanza share."""

from collections.abc import Iterator

import pytest

from stanza.experiments import scale_figures


@pytest.fixture(scope="module")
def few_scales() -> Iterator[None]:
    """The scale experiment at some of its scales: larger worlds take the simulator most time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale_figures, "NODES", (2, 4, 16))
        patch.setattr(scale_figures, "GIGABITS", (1, 10, 100))
        yield
