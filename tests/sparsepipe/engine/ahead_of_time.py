"""Triton's kernels compiled ahead of time, for GPUs that are not here."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

CAPABILITIES = [90, *(pytest.param(other, marks=pytest.mark.slow) for other in (80, 100))]
"""A100, H100 and H200, B200."""
NAMES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


def compiled_for(
    kernel: Any,
    pointers: dict[str, str],
    constants: dict[str, Any],
    capability: int,
    options: dict[str, Any],
    divisible: Sequence[str] = (),
) -> Any:
    """A kernel for a compute capability. Pointers, and the numbers that are `divisible`, are
    multiples of 16; other arguments are int32."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(enumerate(kernel.arg_names))
    even = {*pointers, *divisible}
    source = ASTSource(
        kernel,
        {n: "constexpr" if n in constants else pointers.get(n, "i32") for _, n in names},
        constexprs={(i,): constants[n] for i, n in names if n in constants},
        attrs={(i,): [["tt.divisibility", 16]] for i, n in names if n in even},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def refuse_spills(compiled: Any, folder: Path) -> None:
    """Fail if registers did not suffice."""
    import triton

    path = folder / "kernel.cubin"
    path.write_bytes(compiled.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", path]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "LOCAL:0 " in usage
    assert set(re.findall(r"STACK:(\d+) ", usage)) == {"0"}
