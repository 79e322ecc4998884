"""The kernels of `csrc` as torch operators, which torch.compile keeps whole.

Where no kernels can be built the operators run `speculative.verification.pytorch` instead.
"""

import ctypes
import inspect
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from speculative.verification import build, philox, pytorch
from speculative.verification.filters import EVERYTHING
from speculative.verification.masks import masked
from speculative.verification.problem import (
    OF_ROWS,
    STRIDED,
    TYPES,
    Filter,
    Parameters,
    Problem,
    dense,
    posed,
)
from speculative.verification.rules import Coupled, Exact, decoded

OPERATORS = torch.library.Library("speculative", "DEF")


def operator(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Make a torch operator for every device of a function, with its name and its arguments, of
    which it may write to `log_probabilities`.

    This decorator does what torch.library.custom_op does, whose operators take 15 us longer to
    call.
    """
    name = function.__name__
    written = inspect.signature(function).parameters.keys() & {"log_probabilities"}
    schema = torch.library.infer_schema(function, mutates_args=written)
    OPERATORS.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    OPERATORS.impl(name, function, "CompositeExplicitAutograd")
    made: Callable[..., Any] = getattr(torch.ops.speculative, name).default
    return made


@operator
def verify(
    target_logits: Tensor,
    draft_logits: Tensor | None,
    draft_tokens: Tensor,
    lengths: Tensor | None,
    uniforms: Tensor | None,
    seeds: Tensor | None,
    offsets: Tensor | None,
    seed: int,
    offset: int,
    code: int,
    parameters: Sequence[float],
    temperature: float,
    temperatures: Tensor | None,
    limits: Sequence[float],
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    allowed: Tensor | None,
    filters_draft: bool,
    log_probabilities: Tensor | None,
) -> Tensor:
    """Verify draft tokens: `speculative.verification.verify.verify` on checked arguments.

    Args:
        seeds, offsets, temperatures: used instead of `seed`, `offset` and `temperature` where they
            are not None.
        code, parameters: the rule (`speculative.verification.rules`).
        limits, top_k, top_p, min_p: the filters
            (`speculative.verification.filters.Filters.separated`).
        allowed: a mask of tokens (`speculative.verification.masks`).
        filters_draft: whether filters and mask hold for the draft's rows too.
        log_probabilities: is filled, if it is not None.

    Returns:
        int64 [3, B]: accepted, next token and status.
    """
    library = _library(target_logits.device)
    if allowed is not None and not _reads_masks(library):
        target_logits = masked(target_logits, allowed)
        if draft_logits is not None and filters_draft:
            draft_logits = masked(draft_logits, allowed)
    if library is None:
        requests = _requests(draft_tokens, seed, offset, seeds, offsets)
        return pytorch.verify(
            target_logits,
            draft_logits,
            draft_tokens,
            lengths,
            uniforms,
            requests,
            rule=decoded(code, parameters),
            temperature=temperature if temperatures is None else temperatures,
            limits=limits_of(draft_tokens, limits, top_k, top_p, min_p),
            filters_draft=filters_draft,
            log_probabilities=log_probabilities,
        )
    target, draft = dense(target_logits), None if draft_logits is None else dense(draft_logits)
    problem = verification(
        target,
        draft,
        draft_tokens,
        code=code,
        parameters=parameters,
        temperature=temperature,
        limits=limits,
        filters_draft=filters_draft,
    )
    arguments = {
        "target": target,
        "draft": draft,
        "tokens": draft_tokens,
        "lengths": lengths,
        "log_probabilities": log_probabilities,
        **by_row(uniforms, seeds, offsets, temperatures, top_k, top_p, min_p, allowed),
    }
    return solve(library, problem, seed, offset, arguments)


@torch.library.register_fake("speculative::verify", lib=OPERATORS)
def _(
    target_logits: Tensor, draft_logits: Tensor | None, draft_tokens: Tensor, *_: object
) -> Tensor:
    """The shape and dtype of `verify`'s result, which torch.compile asks for."""
    return draft_tokens.new_empty((3, draft_tokens.shape[0]))


@operator
def sample(
    logits: Tensor,
    uniforms: Tensor | None,
    seeds: Tensor | None,
    offsets: Tensor | None,
    seed: int,
    offset: int,
    temperature: float,
    temperatures: Tensor | None,
    stream: int,
    limits: Sequence[float],
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    allowed: Tensor | None,
) -> Tensor:
    """Sample a token from every row: `speculative.verification.verify.sample` on checked arguments.

    To the kernels this is verification without draft tokens.

    Returns:
        int64 [B].
    """
    library = _library(logits.device)
    if allowed is not None and not _reads_masks(library):
        logits = masked(logits[:, None], allowed)[:, 0]
    if library is None:
        requests = _requests(logits, seed, offset, seeds, offsets)
        return pytorch.sample(
            logits,
            uniforms,
            requests,
            temperature=temperature if temperatures is None else temperatures,
            stream=stream,
            limits=limits_of(logits, limits, top_k, top_p, min_p),
        )
    rows = dense(logits)
    problem = sampling(rows, temperature=temperature, limits=limits, stream=stream)
    own = by_row(uniforms, seeds, offsets, temperatures, top_k, top_p, min_p, allowed)
    return solve(library, problem, seed, offset, {"target": rows, **own})[1].clone()


@torch.library.register_fake("speculative::sample", lib=OPERATORS)
def _(logits: Tensor, *_: object) -> Tensor:
    """The shape and dtype of `sample`'s result."""
    return torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)


def verification(
    target: Tensor,
    draft: Tensor | None,
    tokens: Tensor,
    *,
    code: int,
    parameters: Sequence[float],
    temperature: float,
    limits: Sequence[float],
    filters_draft: bool,
) -> Problem:
    """The problem of verifying such drafts, without tensors and without seeds. The logits' last
    dimension is dense."""
    (batch, gamma), vocabulary = tokens.shape, target.shape[2]
    return Problem(
        target_strides=target.stride()[:2],
        draft_strides=(0, 0) if draft is None else draft.stride()[:2],
        token_strides=tokens.stride(),
        temperature=temperature,
        parameters=Parameters(*parameters),
        filter=Filter(*(limits or EVERYTHING)),
        filters_draft=filters_draft,
        batch=batch,
        gamma=gamma,
        vocabulary=vocabulary,
        type=TYPES[target.dtype],
        method=code,
        stream=philox.COUPLED if code == Coupled.code else philox.NEXT,
    )


def sampling(rows: Tensor, *, temperature: float, limits: Sequence[float], stream: int) -> Problem:
    """The problem of sampling from such rows [B, V], which to the kernels is verification without
    draft tokens; without tensors and without seeds."""
    batch, vocabulary = rows.shape
    return Problem(
        target_strides=(rows.stride(0), 0),
        temperature=temperature,
        filter=Filter(*(limits or EVERYTHING)),
        batch=batch,
        vocabulary=vocabulary,
        type=TYPES[rows.dtype],
        method=Coupled.code if stream == philox.COUPLED else Exact.code,
        stream=stream,
    )


def solve(
    library: ctypes.CDLL, problem: Problem, seed: int, offset: int, arguments: Mapping[str, object]
) -> Tensor:
    """Let the kernels solve a problem with those of the arguments that are tensors, by their names
    in `problem.POINTERS`.

    Returns:
        int64 [3, B]: accepted, next token and status.
    """
    held = {
        name: value if name in STRIDED else value.contiguous()
        for name, value in arguments.items()
        if isinstance(value, Tensor)
    }
    held["out"] = out = held["target"].new_empty((3, problem.batch), dtype=torch.int64)
    _launch(library, posed(problem, seed, offset, held), out)
    return out


def callable_library(device: torch.device, allowed: Tensor | None) -> ctypes.CDLL | None:
    """The kernels that may be called without the operator, which takes a while itself; None: the
    operator is wanted, since something records operators or there are no kernels for this."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return None
    library = _library(device)
    return library if allowed is None or _reads_masks(library) else None


def by_row(*values: object) -> dict[str, object]:
    """What may be a tensor with a value, or several, for every sequence, by its name in POINTERS:
    uniforms, seeds, offsets, temperature, the three filters and the mask."""
    return dict(zip(OF_ROWS, values, strict=True))


def _requests(
    rows: Tensor, seed: int, offset: int, seeds: Tensor | None, offsets: Tensor | None
) -> Tensor:
    """The places of every row's random numbers (`philox.requests`); tensors of seeds and offsets
    win over the integers."""
    return philox.requests(
        len(rows),
        seed if seeds is None else seeds,
        offset if offsets is None else offsets,
        rows.device,
    )


def limits_of(
    rows: Tensor,
    limits: Sequence[float],
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
) -> Tensor | None:
    """The filters of every row, float64 [B, 3]; None: there are none."""
    if not limits:
        return None
    shared = torch.tensor(limits, dtype=torch.float64, device=rows.device).expand(len(rows), -1)
    tensors = zip((top_k, top_p, min_p), shared.unbind(1), strict=True)
    return torch.stack([other if own is None else own.double() for own, other in tensors], 1)


def _library(device: torch.device) -> ctypes.CDLL | None:
    """The kernels for a device; None: there are none, or they cannot be built."""
    if device.type == "cpu":
        return build.cpu_library()
    return build.cuda_library(build.architecture_of(device)) if device.type == "cuda" else None


def _reads_masks(library: ctypes.CDLL | None) -> bool:
    """Whether masks are read bit by bit: by the CPU's kernels. Others are given masked logits."""
    return hasattr(library, "speculative_verify_cpu")


def _launch(library: ctypes.CDLL, problem: Problem, out: Tensor) -> None:
    """Solve the problem with the kernels of the device that `out` is on; CUDA's are only queued.

    Raises:
        RuntimeError: CUDA refuses to start a kernel.
    """
    if problem.batch == 0:
        return
    if out.device.type == "cpu":
        library.speculative_verify_cpu(ctypes.byref(problem), torch.get_num_threads())
        return
    with torch.cuda.device(out.device):
        size = library.speculative_workspace_bytes(ctypes.byref(problem))
        workspace = torch.empty(size, dtype=torch.uint8, device=out.device)
        stream = c_void_p(torch.cuda.current_stream().cuda_stream)
        error = library.speculative_verify_cuda(
            ctypes.byref(problem), c_void_p(workspace.data_ptr()), stream
        )
    if error:
        reason = library.speculative_error(error).decode()
        raise RuntimeError(f"the verification kernels did not start: {reason}")
