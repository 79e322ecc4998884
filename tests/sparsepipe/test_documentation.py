"""The Python that the pages show of sparse tensors, and of MinkowskiEngine's names, is executed."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

DOCS = Path(__file__).parents[2] / "docs"


def test_the_blocks_on_sparse_tensors_run() -> None:
    text = (DOCS / "library.md").read_text().partition("## Sparse tensors\n")[2]
    section = re.split(r"^## ", text, flags=re.M)[0]
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", section, flags=re.M)
    blocks = [re.sub(r"^ {4}", "", block, flags=re.M).strip("\n") for block in found]
    names: dict[str, Any] = {
        "torch": torch,
        "cross_entropy": nn.functional.cross_entropy,
        "points": torch.rand(900, 3),
        "colours": torch.rand(900, 3),
        "labels": torch.randint(0, 20, (900,)),
    }
    run = [block for block in blocks if block]
    assert len(run) == 5
    for block in run:
        exec(compile(block, "library.md", "exec"), names)
    assert names["of_points"].shape == (100, 16)


def test_the_page_on_minkowskiengine_runs() -> None:
    """In a process of its own, since it puts a name into sys.modules."""
    code = re.findall(r"```python\n(.*?)```", (DOCS / "minkowski.md").read_text(), flags=re.S)
    assert len(code) == 2
    after = "assert ME.__name__ == 'sparsepipe.minkowski'\nBasicBlock(3, 3, dimension=3)\n"
    after += "import MinkowskiEngine.MinkowskiFunctional as MEF\nMEF.relu\n"
    subprocess.run([sys.executable, "-c", "\n".join(code) + after], check=True, timeout=120)


def test_what_the_page_lists_is_there() -> None:
    import sparsepipe.minkowski as ME

    shown = re.findall(r"`(Minkowski\w+)`", (DOCS / "minkowski.md").read_text())
    assert len(shown) > 10
    for name in shown:
        if name == "MinkowskiAdaptiveLogSoftmaxWithLoss":
            with pytest.raises(AttributeError, match="is not in sparsepipe"):
                getattr(ME, name)
        else:
            assert getattr(ME, name)
    missing = [name for name in ME.__all__ if not hasattr(ME, name)]
    assert missing == []
