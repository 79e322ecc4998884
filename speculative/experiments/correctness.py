"""Exactness on trial: chi-square of what is emitted, wrong verifiers caught, decisions compared.

The same trials as in the tests, with fixed seeds; here their outcome is written down.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speculative.decoding.assisted import assisted
from speculative.experiments import agreement, enumeration, mutants
from speculative.experiments.agreement import Decide
from speculative.experiments.chi_square import N, TableModel, Verify, outputs, p_value_of
from speculative.verification.rules import METHODS, Block, Coupled, Rule
from speculative.verification.verify import verify
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome, Results
from systems.figures.text import table
from systems.runs import record

UNLIKELY = 1e-6
"""A p-value that says a verifier is wrong."""
LEAST_P = 1e-3
"""A p-value that says nothing against one."""
GENERATED = {"quick": 300, "full": 2000}
"""Continuations by transformers' own loop."""
PAIRS = (1, 2, 3)
"""Seeds of table models."""
VOCABULARIES = {"quick": (67, 4099), "full": (2, 67, 4099, 51_865)}
BATCH, GAMMA = 48, 3
DTYPES = (torch.float32, torch.bfloat16)


def measure(level: str, folder: Path) -> Results:
    """Every trial, once."""
    results: Results = record.once(folder / "trials.json", partial(_trials, level))
    return results


def _trials(level: str) -> Results:
    """Run every kind of trial at a level's size."""
    return {
        "samplers": [*_samplers(), _assisted(GENERATED[level])],
        "mutants": list(_mutants()),
        "agreement": list(_agreement(VOCABULARIES[level])),
        "batches": [_batches(rule) for rule in agreement.RULES],
    }


def conclude(results: Results, folder: Path) -> Outcome:
    """Claims and tables."""
    return Outcome(figures=(), claims=tuple(_claims(results)), notes=tuple(_tables(results)))


def _samplers() -> Iterator[dict[str, Any]]:
    """Exact verification on table models, by where its random numbers come from, and by its
    other rules."""
    seeds = torch.arange(N)
    sources: Mapping[str, dict[str, Any]] = {
        "given uniforms": {},
        "one seed": {"seed": 20261121, "offset": 3},
        "a seed per request": {"seed": seeds, "offset": 11},
        "the rule block": {"seed": seeds, "rule": Block()},
        "the rule coupled": {"seed": seeds, "rule": Coupled()},
    }
    for name, source in sources.items():
        for pair in PAIRS:
            target, draft = TableModel(pair), TableModel(pair + 100)
            decide = partial(_exact, source=source)
            p = p_value_of(outputs(target, draft, decide, seed=pair), target)
            yield {"name": name, "outputs": N, "p": p}


def _exact(
    z: Tensor, y: Tensor, tokens: Tensor, u: Tensor, source: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Exact verification with the options `source`, or the uniforms `u` if it is empty."""
    decided = verify(z, y, tokens, **source or {"uniforms": u})
    return decided.accepted, decided.next_token


def _assisted(samples: int) -> dict[str, Any]:
    """transformers' own loop with our verification, against the enumerated distribution."""
    target, draft = enumeration.tiny_llama(seed=1), enumeration.tiny_llama(seed=2)
    enumeration.draft_always(draft, gamma=2)
    prompt, length = [1, 2], 2
    given = {"input_ids": torch.tensor([prompt])}
    expected = enumeration.continuations(target, given, prompt, length)
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "max_new_tokens": length}
    with torch.random.fork_rng(devices=[]), assisted(target, seed=0):
        torch.manual_seed(0)
        found = [
            target.generate(**given, assistant_model=draft, **options)[0, len(prompt) :].tolist()
            for _ in range(samples)
        ]
    p = enumeration.p_value(expected, found)
    return {"name": "transformers' loop", "outputs": samples, "p": p}


def _mutants() -> Iterator[dict[str, Any]]:
    """Wrong verifiers, and whether the trial that is made for each catches it."""
    target, draft = TableModel(1), TableModel(101)
    trials: list[tuple[str, Verify, bool]] = [(m.__name__, m, False) for m in mutants.SAMPLING]
    trials.append(("greedy_draft", partial(_exact, source={}), True))
    trials += [(m.__name__, m, False) for m in mutants.BLOCK]
    for name, decide, greedy in trials:
        p = p_value_of(outputs(target, draft, decide, seed=1, greedy=greedy), target)
        yield _trial(name, "chi-square, p", p, caught=p < UNLIKELY)
    for logits in target.tables:
        logits[..., 3] = -torch.inf  # the target excludes token 3
    out = outputs(target, draft, mutants.residual_floor, seed=6)
    impossible = int((out == 3).any(1).sum())
    yield _trial("residual_floor", "impossible outputs", impossible, caught=impossible > 0)
    for mutant in mutants.FINE:
        unlike = agreement.unlike_at_large_vocabulary(mutant)
        yield _trial(mutant.__name__, "decisions unlike float64's", unlike, caught=unlike > 0)
    unlike = agreement.unlike_on_flat_rows(mutants.half_residual)
    yield _trial("half_residual", "decisions unlike float64's", unlike, caught=unlike > 0)


def _trial(name: str, how: str, found: float, *, caught: bool) -> dict[str, Any]:
    """A row of the results: the wrong verifier, the trial's kind and outcome."""
    return {"name": name.replace("_", " "), "how": how, "found": found, "caught": caught}


def _agreement(vocabularies: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Kernels and PyTorch operators against the float64 reference, at equal uniforms."""
    implementations: Mapping[str, Decide] = {
        "kernels": verify,
        "operators": agreement.with_operators,
    }
    for name, decide in implementations.items():
        for rule in agreement.RULES:
            compared = unlike = ties = 0
            for vocabulary in vocabularies:
                target, draft, tokens = agreement.drafted(BATCH, GAMMA, vocabulary, vocabulary)
                for dtype in DTYPES:
                    case = target.to(dtype), draft.to(dtype), tokens
                    wrong, tied = agreement.differences(case, decide, 1, rule=rule)
                    compared, unlike, ties = compared + BATCH, unlike + wrong, ties + tied
            yield {
                "implementation": name,
                "method": rule.name,
                "sequences": compared,
                "unlike": unlike,
                "ties": ties,
            }


def _batches(rule: Rule) -> dict[str, Any]:
    """How many requests change their outcome in another batch, or in another order."""
    case = agreement.drafted(BATCH, GAMMA, 4099, seed=2)
    seeds, offsets = torch.arange(BATCH) * 7 + 1, torch.arange(BATCH) * 5
    together = torch.stack(verify(*case, rule=rule, seed=seeds, offset=offsets))
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(0))
    changed = 0
    for rows in (order, *order.split(5), *order.split(1)):
        some = verify(*(x[rows] for x in case), rule=rule, seed=seeds[rows], offset=offsets[rows])
        changed += int((torch.stack(some) != together[:, rows]).any(0).sum())
    return {"method": rule.name, "compared": 3 * BATCH, "changed": changed}


def _claims(results: Results) -> Iterator[Claim]:
    """The claims about exactness: outputs that follow the target's distribution, wrong verifiers
    that are caught, and decisions that equal the reference's, whatever the batch."""
    samplers, caught = results["samplers"], results["mutants"]
    for name in dict.fromkeys(row["name"] for row in samplers):
        rows = [row for row in samplers if row["name"] == name]
        yield claim(
            f"speculative.exact-chi-square-p.{name}.measured",
            f"p of {rows[0]['outputs']:,} complete outputs following the target, the smallest of "
            f"{len(rows)} pairs of models, exact verification, {name}",
            [min(row["p"] for row in rows)],
            Target(least=LEAST_P),
        )
    yield claim(
        "speculative.mutants-caught.all.measured",
        f"wrong verifiers that a trial catches, of {len(caught)}",
        [sum(row["caught"] for row in caught)],
        Target(least=len(caught)),
    )
    for method in METHODS:
        rows = [row for row in results["agreement"] if row["method"] == method]
        yield claim(
            f"speculative.decisions-unlike-reference.{method}.measured",
            f"sequences that kernels or operators decide unlike the float64 reference of {method}, "
            f"ties left out, of {sum(row['sequences'] for row in rows)}",
            [sum(row["unlike"] for row in rows)],
            Target(most=0),
        )
    compared = results["batches"]
    yield claim(
        "speculative.tokens-changed-by-batch.all-methods.measured",
        "requests whose outcome the batch around them changes, at equal seed and offset, of "
        f"{sum(row['compared'] for row in compared)}",
        [sum(row["changed"] for row in compared)],
        Target(most=0),
    )


def _tables(results: Results) -> Iterator[str]:
    """The trials of samplers, of wrong verifiers and of implementations, in Markdown."""
    samplers, caught, agreeing = (results[kind] for kind in ("samplers", "mutants", "agreement"))
    yield table(
        ("exact verification", "outputs", "p"),
        [(row["name"], f"{row['outputs']:,}", f"{row['p']:.3f}") for row in samplers],
    )
    yield table(
        ("wrong verifier", "trial", "found", "caught"),
        [
            (row["name"], row["how"], f"{row['found']:.2g}", "yes" if row["caught"] else "no")
            for row in caught
        ],
    )
    yield table(
        ("implementation", "method", "sequences", "unlike the reference", "ties, left out"),
        [
            [row[key] for key in ("implementation", "method", "sequences", "unlike", "ties")]
            for row in agreeing
        ],
    )
