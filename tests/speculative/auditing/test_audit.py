"""Verifiers that are wrong in one way each are found by the check that looks there."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from speculative.auditing import control, pairs
from speculative.auditing.adapters import ADAPTERS, of_rule
from speculative.auditing.audit import Report, audit
from speculative.auditing.checks import Check
from speculative.auditing.counting import count
from speculative.auditing.verifier import Verifier
from speculative.experiments import filter_mutants, mutants
from speculative.verification.filters import Filters
from speculative.verification.rules import Exact
from speculative.verification.verify import UNFILTERED
from systems.schema import InputError

OURS = of_rule(Exact())


def audited(verifier: Verifier, **options: Any) -> Report:
    quick: dict[str, Any] = {"total_variation": 0.03, "vocabularies": (1500,), "control": False}
    return audit(verifier, **quick | options)


def found(verifier: Verifier, name: str) -> tuple[str, str]:
    (check,) = [check for check in audited(verifier).checks if check.name == name]
    return check.result, check.found


def test_ours_is_exact_and_every_line_is_shown() -> None:
    lines: list[str] = []
    report = audited(OURS, name="ours", show=lines.append)
    assert report.exact
    assert report.wrong == ()
    assert "\n".join(lines) == str(report)
    assert str(report).startswith("**Audit of `ours`**: seed 0, cpu, torch ")
    assert str(report).count("\n| ") == len(report.checks) + 2
    assert report.verdict.startswith("**EXACT, as far as 2")
    assert {check.result for check in report.checks} == {"ok", "note"}


def test_the_sigmoid_is_not() -> None:
    report = audited(ADAPTERS["sigmoid"].make())
    assert not report.exact
    assert report.verdict.startswith("**NOT EXACT**: random, ")


def changed(
    inputs: Callable[..., Any] = lambda *x: x,
    answer: Callable[..., Any] = lambda z, y, x, found: found,
) -> Verifier:
    """Ours, with other inputs or another answer."""

    def verify(z: Tensor, y: Tensor, x: Tensor, generator: torch.Generator) -> Any:
        logits = inputs(z, y, x)
        return answer(z, y, x, OURS(logits[0], logits[1], logits[2], generator))

    return verify


def forgetting_the_end(z: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ends rows at the last multiple of 1024."""
    z = z.clone()
    if z.shape[-1] > 1024:
        z[..., 1024:] = -torch.inf
    return z, y, x


def halves_exponentials(z: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Forgets to subtract the maximum, in float32."""
    return z.float().exp().log(), y.float().exp().log(), x


def looking_at_neighbours(z: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Subtracts the maximum of the whole batch, as far as float16 reaches."""
    return (z - z.amax()).clamp(min=-10), (y - y.amax()).clamp(min=-10), x


def filtering(change: Callable[[Filters], Filters]) -> Verifier:
    """Ours, with other filters."""

    def verify(
        z: Tensor, y: Tensor, x: Tensor, generator: torch.Generator, filters: Filters = UNFILTERED
    ) -> Any:
        return OURS(z, y, x, generator, change(filters))  # type: ignore[call-arg]

    return verify


WIDE = "vocabulary 1,500, filtered"


@pytest.mark.parametrize(
    ("verifier", "check"),
    [
        (changed(lambda z, y, x: (z, y / 1.5, x)), "random"),
        (changed(forgetting_the_end), "vocabulary 1,500"),
        (changed(halves_exponentials), "shifted logits"),
        (changed(looking_at_neighbours), "uneven batch"),
        (changed(lambda z, y, x: (z.clamp(min=-9), y, x)), "excluded tokens"),
        (changed(lambda z, y, x: (z, y.nan_to_num(neginf=0.0), x)), "one-hot draft"),
        (changed(lambda z, y, x: (z.clamp(-3, 3), y, x)), "far apart"),
        (changed(answer=lambda z, y, x, found: (found[0], found[1] % 3 + 1)), "one-hot target"),
        (changed(answer=lambda z, y, x, found: (found[0].clamp(max=1), found[1])), "equal models"),
        (filtering(lambda f: replace(f, of_draft=False)), "min-p"),
        (filtering(lambda f: replace(f, top_k=0)), "top-k"),
        (filtering(lambda f: replace(f, top_k=f.top_k if f.top_k < 10 else 0)), WIDE),
        (filtering(lambda f: replace(f, top_p=f.top_p * 0.6)), WIDE),
    ],
)
def test_an_error_is_found_where_it_shows(verifier: Verifier, check: str) -> None:
    result, words = found(verifier, check)
    print(words)
    assert result == "WRONG"


def test_random_numbers_that_sequences_share_are_found() -> None:
    shared = control._drawing(mutants.correct, control._same_for_all)
    assert found(shared, "independent neighbours")[0] == "WRONG"
    assert found(shared, "random")[0] == "ok"


def test_manners_are_noted_and_judge_nothing() -> None:
    memory = torch.Generator().manual_seed(1)

    def careless(z: Tensor, y: Tensor, x: Tensor, _: torch.Generator) -> Any:
        answer = OURS(z, y, x, memory)
        y[...] = 0
        return answer

    report = audited(careless)
    notes = {check.name: check.found for check in report.checks if check.result == "note"}
    assert notes["inputs stay as they were"] == "it writes into its inputs"
    assert notes["equal seeds, equal tokens"] == "it does not repeat"
    assert report.exact
    same = audited(lambda z, y, x, _: OURS(z, y, x, torch.Generator().manual_seed(7)))
    notes = {check.name: check.found for check in same.checks if check.result == "note"}
    assert notes["other seeds, other tokens"] == "seeds do nothing"


def test_errors_of_a_verifier_are_found_or_refused() -> None:
    def fails(z: Tensor, y: Tensor, x: Tensor, generator: torch.Generator) -> Any:
        if z.dtype == torch.bfloat16 or bool((z == -torch.inf).any()):
            raise RuntimeError("NaN | in p")
        return OURS(z, y, x, generator)

    checks = {check.name: check for check in audited(fails).checks}
    assert checks["bfloat16"].result == "note"
    assert checks["excluded tokens"].result == "WRONG"
    assert "refused: RuntimeError: NaN \\| in p (" in checks["excluded tokens"].found
    with pytest.raises(InputError, match="verifier: fails on ordinary logits: ZeroDivisionError"):
        audited(lambda *_: 1 / 0)
    with pytest.raises(InputError, match="verifier: returned a NoneType"):
        audited(lambda *_: None)


def test_a_verifier_without_filters_is_told_so() -> None:
    assert found(changed(), "filters") == ("note", "not audited: the verifier takes no `filters`")
    assert not any(check.name == "top-k" for check in audited(changed()).checks)


@pytest.mark.parametrize("name", filter_mutants.WRONG)
def test_wrong_filters_are_rejected(name: str) -> None:
    trial = tuple(pairs.under_filters())
    assert control.rejected(control._drawing(filter_mutants.WRONG[name]), trial, 20_000)


def test_right_filters_are_not_rejected() -> None:
    trial = tuple(pairs.under_filters())
    assert not control.rejected(control._drawing(filter_mutants.right), trial, 20_000)


@pytest.mark.parametrize("kept", filter_mutants.WRONG_CUTS)
def test_each_wrong_cut_keeps_other_tokens_than_the_reference(kept: filter_mutants.Keep) -> None:
    """And the right one the same."""
    unlike = 0
    for pair in pairs.under_filters():
        assert pair.filters is not None
        for seen, table in zip(pair.seen_target, pair.target, strict=True):
            assert filter_mutants.kept(table, pair.filters).equal(seen > -torch.inf)
            unlike += not kept(table, pair.filters).equal(seen > -torch.inf)
    assert unlike


@pytest.mark.slow
def test_the_control_is_judged_rightly() -> None:
    report = audited(OURS, total_variation=0.02, vocabularies=(), control=True)
    assert report.checks[-1].found.startswith("16 of 16 wrong verifiers rejected, one of them off")


def test_a_control_that_is_misjudged_leaves_the_verdict_open() -> None:
    names, total = control.missed(0.002, 2000, torch.device("cpu"))
    assert total == 10
    assert "off by 0.002" in names
    missed = Check("control", "WRONG", "misjudged")
    undecided = Report(title="", total_variation=0.1, checks=(missed,))
    assert undecided.verdict.startswith("**UNDECIDED**")
    assert not undecided.exact


def test_the_last_of_the_control_is_off_by_what_it_says() -> None:
    pair = pairs.random()
    *_, (name, verifier) = control.wrong(pair, 0.1)
    assert name == "off by 0.1"
    generator = torch.Generator().manual_seed(0)
    tally = count(pair, verifier, 60_000, generator, 1)
    assert tally.total_variation == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"total_variation": 0.0}, "--total-variation 0: give more than 0, less than 1"),
        ({"vocabularies": (5, 1)}, "--vocabularies 5 1: give sizes of 2 tokens or more"),
    ],
)
def test_bad_arguments_are_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        audited(OURS, **options)
