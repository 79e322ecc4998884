"""`import speculative` is quick, and has the names that its pages show."""

import subprocess
import sys
from pathlib import Path

import pytest

import speculative


def test_the_package_imports_no_torch_and_options_neither() -> None:
    program = (
        "import sys, speculative\n"
        "speculative.Sampling(temperature=0), speculative.Sigmoid()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)


@pytest.mark.parametrize("name", speculative.__all__)
def test_a_name_is_there_and_documented(name: str) -> None:
    assert getattr(speculative, name).__name__ == name
    assert getattr(speculative, name).__doc__


def test_another_name_is_an_attribute_error() -> None:
    assert not hasattr(speculative, "generat")
