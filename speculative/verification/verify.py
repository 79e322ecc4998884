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

import math
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speculative.verification import kernels, philox
from speculative.verification.filters import Filters
from speculative.verification.rules import EXACT, Calibrated, Coupled, Rule, Sigmoid, check_rule
from systems.schema import InputError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
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
) -> Verification:
    """Accept draft tokens in order, then sample the token after them.

    The call neither waits for the device nor writes to its inputs, and it may stand in a CUDA graph
    or under torch.compile. Give seed and offset as tensors there: an integer is recorded as it is.

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
        filters: which tokens may be sampled: top-k, top-p and min-p, after the temperature.
        lengths: how many draft tokens each sequence has, int64 [B] from 0 to G; None: all have G.
        seed: an integer of 64 bits, or a seed for every request, int64 [B].
        offset: how many tokens the request had before `draft_tokens`, an integer or int64 [B]. Add
            accepted + 1 after every call, so that no random number serves two decisions.
        uniforms: float32 [B, G + V + groups] from 0 to below 1, used instead of seed and offset:
            entry t decides draft token t, entry G + i belongs to token i in the race for the next
            token, entry G + V + g to group g of `philox.GROUP` tokens. For `Coupled`
            [B, G + 1, V]: the noise of every token at every position.

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
    _check_logits(target_logits, draft_logits, draft_tokens)
    (batch, gamma), vocabulary = draft_tokens.shape, target_logits.shape[-1]
    device = target_logits.device
    if draft_logits is None and isinstance(rule, (Sigmoid, Calibrated)):
        raise InputError(
            f"draft_logits None: the rule {rule.name} compares two logits; give them, or Exact()"
        )
    _check_temperature(temperature, batch, device)
    check_filters(filters, batch, device)
    _check("lengths", lengths, (batch,), torch.int64, device)
    numbers = [gamma + vocabulary + philox.groups(vocabulary)]
    if isinstance(rule, Coupled):
        numbers = [gamma + 1, vocabulary]
    _check("uniforms", uniforms, (batch, *numbers), torch.float32, device)
    _check_seeds(seed, offset, batch, device)
    decided = kernels.verify(
        target_logits,
        draft_logits,
        draft_tokens,
        lengths,
        uniforms,
        *_split(seed, offset),
        rule.code,
        rule.parameters,
        *_separate(temperature),
        *filters.packed(batch, device),
        filters.of_draft,
    )
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
    _check_tensor("logits", logits)
    if stream not in (philox.NEXT, philox.DRAFT, philox.COUPLED):
        raise InputError(
            f"stream {stream!r}: give philox.DRAFT or philox.NEXT, or with Coupled philox.COUPLED"
        )
    if logits.dim() != 2 or logits.shape[1] == 0:
        raise InputError(f"logits {list(logits.shape)}: give them as [B, V]")
    _check_dtype("logits", logits)
    batch, vocabulary = logits.shape
    _check_temperature(temperature, batch, logits.device)
    check_filters(filters, batch, logits.device)
    drawn = vocabulary + (0 if stream == philox.COUPLED else philox.groups(vocabulary))
    _check("uniforms", uniforms, (batch, drawn), torch.float32, logits.device)
    _check_seeds(seed, offset, batch, logits.device)
    return kernels.sample(
        logits,
        uniforms,
        *_split(seed, offset),
        *_separate(temperature),
        stream,
        *filters.packed(batch, logits.device),
    )


def _split(
    seed: int | Tensor, offset: int | Tensor
) -> tuple[Tensor | None, Tensor | None, int, int]:
    """Seed and offset as the operators take them: as tensors or None, then as integers or 0."""
    seeds = seed if isinstance(seed, Tensor) else None
    offsets = offset if isinstance(offset, Tensor) else None
    return (
        seeds,
        offsets,
        0 if isinstance(seed, Tensor) else philox.signed(seed),
        0 if isinstance(offset, Tensor) else offset,
    )


def _separate(temperature: float | Tensor) -> tuple[float, Tensor | None]:
    """The temperature as the operators take it: a number or 1, then a tensor or None."""
    return (1.0, temperature) if isinstance(temperature, Tensor) else (temperature, None)


def _check_temperature(temperature: object, batch: int, device: torch.device) -> None:
    """Refuse a temperature that is neither a finite number of 0 or more nor a tensor [B]."""
    if isinstance(temperature, Tensor):
        _check("temperature", temperature, (batch,), torch.float32, device)
    elif not isinstance(temperature, (int, float)):
        raise InputError(f"temperature {temperature!r}: give a number, or float32 [B]")
    elif not 0 <= temperature < math.inf:
        raise InputError(f"temperature {temperature}: give more than 0, or 0 for greedy decoding")


def check_filters(filters: object, batch: int, device: torch.device) -> None:
    """Refuse what is no `Filters`, and filters whose tensors are not [B]."""
    if not isinstance(filters, Filters):
        raise InputError(f"filters {filters!r}: give Filters(top_k=..., top_p=..., min_p=...)")
    numbers: tuple[Any, ...] = filters.numbers
    dtypes = {"top_k": torch.int64, "top_p": torch.float32, "min_p": torch.float32}
    for (name, dtype), value in zip(dtypes.items(), numbers, strict=True):
        if not isinstance(value, Real):
            _check(name, value, (batch,), dtype, device)


def _check_tensor(name: str, value: object) -> None:
    """Refuse a value that is not a tensor."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}; give a tensor")


def _check_logits(target: Tensor, draft: Tensor | None, tokens: Tensor) -> None:
    """Refuse logits and draft tokens whose shapes, dtypes or devices do not fit each other."""
    named = {"target_logits": target, "draft_tokens": tokens}
    if draft is not None:
        named["draft_logits"] = draft
    for name, value in named.items():
        _check_tensor(name, value)
    wrong = None
    if target.dim() != 3 or tokens.dim() != 2 or (draft is not None and draft.dim() != 3):
        wrong = "give them as [B, G + 1, V], [B, G, V] and [B, G]"
    elif tokens.shape[1] == 0:
        wrong = "gamma is 0; draft a token at least, or use sample"
    elif target.shape[2] == 0 or (draft is not None and target.shape[2] != draft.shape[2]):
        wrong = (
            "target and draft must share one vocabulary; "
            "see speculative.verification.vocabulary.fitted"
        )
    else:
        rows = tokens.shape if draft is None else draft.shape
        if target.shape[0] != rows[0] or target.shape[1] != rows[1] + 1:
            wrong = "give them as [B, G + 1, V], [B, G, V] and [B, G]"
    if wrong:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in named.items())
        raise InputError(f"{shapes}: {wrong}")
    _check_dtype("target_logits", target)
    if draft is not None:
        _check("draft_logits", draft, tuple(draft.shape), target.dtype, target.device)
    batch, gamma = target.shape[0], target.shape[1] - 1
    _check("draft_tokens", tokens, (batch, gamma), torch.int64, target.device)


def _check_dtype(name: str, logits: Tensor) -> None:
    """Refuse logits of a dtype that the kernels do not read."""
    if logits.dtype not in DTYPES:
        raise InputError(f"{name} of {logits.dtype}: give float32, float16 or bfloat16")


def _check_seeds(
    seed: int | Tensor, offset: int | Tensor, batch: int, device: torch.device
) -> None:
    """Refuse a seed or an offset that is neither an integer nor a tensor int64 [B]."""
    for name, value in (("seed", seed), ("offset", offset)):
        if isinstance(value, Tensor):
            _check(name, value, (batch,), torch.int64, device)
        elif not hasattr(value, "__index__"):
            raise InputError(f"{name} {value!r}: give an integer, or int64 [B]")
    if isinstance(offset, int) and not 0 <= offset < 2**32:
        raise InputError(f"offset {offset}: give 0 to 2^32 - 1")


def _check(
    name: str,
    tensor: Tensor | None,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Refuse a tensor of another shape, dtype or device; None is no tensor and passes."""
    if tensor is None:
        return
    _check_tensor(name, tensor)
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise InputError(
            f"{name}: {tensor.dtype} {list(tensor.shape)} does not fit; give {dtype} {list(shape)}"
        )
    if tensor.device != device:
        raise InputError(f"{name} is on {tensor.device}, target_logits on {device}; move one")
