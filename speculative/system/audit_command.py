"""`testbed audit VERIFIER`: is what a verifier emits distributed as the target alone would be?

python -m launch audit exact                           # ours: exact, sigmoid, calibrated
python -m launch audit transformers                    # or vllm, flashinfer, where installed
python -m launch audit my_module:my_verifier           # or path/to/file.py:my_verifier

What it prints is Markdown, to be pasted into an issue. The exit code is 1 if it is not exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from speculative.auditing.adapters import ADAPTERS
from speculative.auditing.audit import VOCABULARIES, audit
from speculative.auditing.verifier import Verifier, one_by_one
from systems import by_path
from systems.flags import parse_flags
from systems.job import check_seed
from systems.schema import InputError, remedy


@dataclass(frozen=True, kw_only=True)
class AuditArguments:
    """Hold a verifier to the target's distribution."""

    total_variation: float = 0.002
    """The error of the outputs that shall be seen with a probability of 95 %. Half of it takes four
    times the time."""
    vocabularies: tuple[int, ...] = VOCABULARIES
    """The large vocabularies, in tokens."""
    one_by_one: bool = False
    """Whether the verifier takes a single sequence, so that batches are cut."""
    control: bool = True
    """Whether wrong verifiers are audited too, to show what the checks can see."""
    seed: int = 0
    """The seed of all random numbers."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the logits are."""


def main(arguments: Sequence[str]) -> None:
    """Audit, and print a table and a verdict.

    Raises:
        SystemExit: with code 1, if the verifier is not exact.
    """
    words = list(arguments)
    name = words.pop(0) if words and not words[0].startswith("-") else ""
    flags = parse_flags(
        AuditArguments, words, f"testbed audit {name or 'VERIFIER'}", AuditArguments()
    )
    check_seed(flags.seed)
    if flags.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; write --device cpu")
    shown, verifier = _verifier(name)
    if flags.one_by_one:
        verifier = one_by_one(verifier)
    report = audit(
        verifier,
        total_variation=flags.total_variation,
        vocabularies=flags.vocabularies,
        seed=flags.seed,
        device=flags.device,
        control=flags.control,
        name=shown,
        show=lambda line: print(line, flush=True),
    )
    if not report.exact:
        raise SystemExit(1)


def _verifier(name: str) -> tuple[str, Verifier]:
    """The verifier that is named, and what the report calls it.

    Raises:
        InputError: there is none of this name, or it cannot be imported.
    """
    if name in ADAPTERS:
        adapter = ADAPTERS[name]
        made = adapter.make()
        return adapter.name, made
    if not by_path.is_path(name):
        known = remedy(name, ADAPTERS)
        wrong = f"audit {name}".strip()
        raise InputError(f"{wrong}: no such verifier; {known}; or write module:function")
    found = by_path.load(name, "audit")
    if not callable(found):
        raise InputError(f"audit {name}: is a {type(found).__name__}; give a function")
    return by_path.short(name), found
