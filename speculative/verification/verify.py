"""Verify draft tokens against a target model's logits, in one operator: `verify`.

    from speculative.verification.verify import verify

    accepted, next_token, status = verify(target_logits, draft_logits, draft_tokens, seed=7)

The rule (`speculative.verification.rules`) says when a draft token is accepted. `Exact()` emits
tokens distributed exactly as sampling from the target (Leviathan et al. 2023; arXiv 2406.11016),
and so do `Block()`, which accepts more of them, and `Coupled()`, whose tokens are the very ones
that the target alone takes at the same seed. Two rules are approximations that accept a token on
its two logits alone: `Sigmoid()` is the paper's, mostly the draft's distribution; `Calibrated(...)`
stays close to the target's, with estimates fitted to a pair of models
(`speculative.verification.calibration`). A sequence of temperature 0 is decided greedily.

Random numbers are counted, not drawn in order (`speculative.verification.philox`): equal seeds and
offsets give equal tokens in every run and on every device. Give every request its own seed, as a
tensor, and its tokens do not depend on the batch that it is in.
"""

from operator import index
from typing import NamedTuple

from torch import Tensor

from speculative.verification import forms, kernels, philox
from speculative.verification.checks import check_dtype, check_kinds, check_rows, check_verification
from speculative.verification.filters import Filters
from speculative.verification.problem import is_dense
from speculative.verification.rules import EXACT, Rule, check_rule
from systems.schema import InputError

UNFILTERED = Filters()


class Verification(NamedTuple):
    """What a verification decided: three tensors, int64 [B] each."""

    accepted: Tensor
    """How many draft tokens, counted from the first, were accepted."""
    next_token: Tensor
    """The token after the accepted ones: from the residual, or the bonus token if all were
    accepted; -1 if the sequence has no next token."""
    status: Tensor
    """0, or why there is no next token: bits named in `speculative.verification.status`."""


def verify(
    target_logits: Tensor,
    draft_logits: Tensor | None,
    draft_tokens: Tensor,
    *,
    rule: Rule = EXACT,
    temperature: float | Tensor = 1.0,
    filters: Filters = UNFILTERED,
    lengths: Tensor | None = None,
    seed: int | Tensor = 0,
    offset: int | Tensor = 0,
    uniforms: Tensor | None = None,
    log_probabilities: Tensor | None = None,
) -> Verification:
    """Accept draft tokens in order, then sample the token after them.

    The call does not wait for the device, and writes to no argument but `log_probabilities`. It may
    stand in a CUDA graph or under torch.compile. Give seed and offset as tensors there: an integer
    is recorded as it is.

    Args:
        target_logits: float32, float16 or bfloat16 [B, G + 1, V]; -inf excludes a token. Any
            strides.
        draft_logits: the same dtype [B, G, V]; the draft tokens were sampled from them. None: the
            draft tokens were not sampled (n-grams, prompt lookup); `Exact` and `Block` take them as
            certain. `Coupled` and greedy sequences read no logits of a draft.
        draft_tokens: int64 [B, G].
        rule: when a draft token is accepted.
        temperature: divides the logits of both models; a number, or float32 [B] for every sequence
            its own. 0 is greedy: a draft token is accepted if it is the target's likeliest, the
            lowest number among equals, which is the next token too.
        filters: which tokens may be sampled: a mask of those that are allowed, then top-k, top-p
            and min-p, after the temperature.
        lengths: how many draft tokens each sequence has, int64 [B] from 0 to G; None: all have G.
        seed: an integer of 64 bits, or a seed for every request, int64 [B].
        offset: how many tokens the request had before `draft_tokens`, an integer or int64 [B]. Add
            accepted + 1 after every call, so that no random number serves two decisions.
        uniforms: float32 [B, G + V + groups] from 0 to below 1, used instead of seed and offset:
            entry t decides draft token t, entry G + i belongs to token i in the race for the next
            token, entry G + V + g to group g of `philox.GROUP` tokens. For `Coupled`
            [B, G + 1, V]: the noise of every token at every position.
        log_probabilities: float32 [B, G + 1], contiguous, which the call fills: with the
            log-probability of every emitted token, first the accepted draft tokens and then the
            next token, under the target after temperature and filters; NaN in places without an
            emitted token. Greedy tokens are certain: 0. `Exact` and `Block` have what this takes;
            the other rules then reduce rows that they would not read.

    Returns:
        The decisions. Rows are read in order and only as far as needed, so a fault in a row after
        the first rejection is not seen. `Block` reads the rows of all draft tokens and accepts
        none if one is at fault.

    Raises:
        InputError: shapes, dtypes or devices do not fit each other, or an option is out of range.
            Faults in the values (NaN, a token outside the vocabulary, a length, a temperature in a
            tensor) are reported in `status` instead, since finding them here would make the host
            wait.
    """
    check_rule(rule)
    check_kinds(filters, seed, offset, target_logits=target_logits, draft_tokens=draft_tokens)
    seeds, offsets, seed, offset = _split(seed, offset)
    arguments = {
        "target": target_logits,
        "draft": draft_logits,
        "tokens": draft_tokens,
        "lengths": lengths,
        "log_probabilities": log_probabilities,
        **kernels.by_row(uniforms, seeds, offsets, temperature, *filters.numbers, filters.allowed),
    }
    library = kernels.callable_library(target_logits.device, filters.allowed)
    form = forms.form((rule, filters.of_draft), arguments) if library else None
    problem = forms.known(form)
    if library and problem:
        return Verification(*kernels.solve(library, problem, seed, offset, arguments).unbind())

    # A form of call that was not seen before, or a call that is recorded.
    check_verification(arguments, rule, filters)
    number, temperatures = _separate(temperature)
    limits, *of_row = filters.separated()
    decided = kernels.verify(
        target_logits,
        draft_logits,
        draft_tokens,
        lengths,
        uniforms,
        seeds,
        offsets,
        seed,
        offset,
        rule.code,
        rule.parameters,
        number,
        temperatures,
        limits,
        *of_row,
        filters.allowed,
        filters.of_draft,
        log_probabilities,
    )
    if form and is_dense(target_logits) and (draft_logits is None or is_dense(draft_logits)):
        problem = kernels.verification(
            target_logits,
            draft_logits,
            draft_tokens,
            code=rule.code,
            parameters=rule.parameters,
            temperature=number,
            limits=limits,
            filters_draft=filters.of_draft,
        )
        forms.remember(form, problem)
    return Verification(*decided.unbind())


def sample(
    logits: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    filters: Filters = UNFILTERED,
    seed: int | Tensor = 0,
    offset: int | Tensor = 0,
    stream: int = philox.DRAFT,
    uniforms: Tensor | None = None,
) -> Tensor:
    """Sample one token from every row, as a draft does before verification.

    Args:
        logits: [B, V], of the dtypes that `verify` takes.
        temperature, filters, seed: as in `verify`.
        offset: how many tokens the request had before the one that is sampled.
        stream: `philox.DRAFT`, whose random numbers `verify` does not use, or `philox.NEXT` for
            plain sampling from a target. With the rule `Coupled`, `philox.COUPLED` for both.
        uniforms: float32 [B, V + groups], or [B, V] with `philox.COUPLED`, used instead of seed and
            offset.

    Returns:
        int64 [B]; -1 for a row that holds NaN or +inf or no finite logit.

    Raises:
        InputError: shapes, dtypes or devices do not fit each other, or an option is out of range.
    """
    check_kinds(filters, seed, offset, logits=logits)
    seeds, offsets, seed, offset = _split(seed, offset)
    by_row = kernels.by_row(
        uniforms, seeds, offsets, temperature, *filters.numbers, filters.allowed
    )
    arguments = {"target": logits, **by_row}
    library = kernels.callable_library(logits.device, filters.allowed)
    form = forms.form(("sample", stream), arguments) if library else None
    problem = forms.known(form)
    if library and problem:
        return kernels.solve(library, problem, seed, offset, arguments)[1]

    # As in `verify`.
    if stream not in (philox.NEXT, philox.DRAFT, philox.COUPLED):
        raise InputError(
            f"stream {stream!r}: give philox.DRAFT or philox.NEXT, or with Coupled philox.COUPLED"
        )
    if logits.dim() != 2 or logits.shape[1] == 0:
        raise InputError(f"logits {list(logits.shape)}: give them as [B, V]")
    check_dtype("logits", logits)
    batch, vocabulary = logits.shape
    drawn = vocabulary + (0 if stream == philox.COUPLED else philox.groups(vocabulary))
    check_rows(by_row, filters, [drawn], (batch, 1, vocabulary), logits.device)
    number, temperatures = _separate(temperature)
    limits, *of_row = filters.separated()
    sampled = kernels.sample(
        logits,
        uniforms,
        seeds,
        offsets,
        seed,
        offset,
        number,
        temperatures,
        stream,
        limits,
        *of_row,
        filters.allowed,
    )
    if form and is_dense(logits):
        problem = kernels.sampling(logits, temperature=number, limits=limits, stream=stream)
        forms.remember(form, problem)
    return sampled


def _split(
    seed: int | Tensor, offset: int | Tensor
) -> tuple[Tensor | None, Tensor | None, int, int]:
    """Seed and offset as the operators take them: as tensors or None, then as integers or 0."""
    seeds, seed = (seed, 0) if isinstance(seed, Tensor) else (None, philox.signed(index(seed)))
    offsets, offset = (offset, 0) if isinstance(offset, Tensor) else (None, index(offset))
    return seeds, offsets, seed, offset


def _separate(temperature: float | Tensor) -> tuple[float, Tensor | None]:
    """The temperature as the operators take it: a number or 1, then a tensor or None."""
    return (1.0, temperature) if isinstance(temperature, Tensor) else (temperature, None)
