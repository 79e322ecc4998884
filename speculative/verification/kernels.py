"""The kernels of `csrc` as torch operators, which torch.compile keeps whole.

Where there is no compiler the operators run `speculative.verification.pytorch` instead.
"""

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_double, c_int32, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from speculative.verification import build, philox, pytorch
from speculative.verification.rules import Exact, decoded

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
Parameters = c_double * 4
"""`speculative::Parameters`: the numbers of a rule, the rest 0."""


class Problem(ctypes.Structure):
    """`speculative::Problem` of csrc/arithmetic.h, field by field."""

    _fields_ = (
        *((name, c_void_p) for name in ("target", "draft", "tokens", "lengths")),
        *((name, c_void_p) for name in ("uniforms", "seeds", "offsets", "out")),
        *((f"{name}_strides", c_int64 * 2) for name in ("target", "draft", "token")),
        *((name, c_int64) for name in ("seed", "offset")),
        ("temperature", c_double),
        ("parameters", Parameters),
        *((name, c_int32) for name in ("batch", "gamma", "vocabulary", "type", "method", "stream")),
    )


OPERATORS = torch.library.Library("speculative", "DEF")


def operator(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """A torch operator for every device, with the function's name and arguments.

    A decorator like torch.library.custom_op, whose operators take 15 us longer to call.
    """
    name = function.__name__
    schema = torch.library.infer_schema(function, mutates_args=())
    OPERATORS.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    OPERATORS.impl(name, function, "CompositeExplicitAutograd")
    made: Callable[..., Any] = getattr(torch.ops.speculative, name).default
    return made


@operator
def verify(
    target_logits: Tensor,
    draft_logits: Tensor,
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
) -> Tensor:
    """`speculative.verification.verify.verify` on checked arguments: int64 [3, B], its fields
    stacked.

    Args:
        seeds, offsets: instead of `seed` and `offset` where given.
        code, parameters: of the rule (`speculative.verification.rules`).
    """
    library = _library(target_logits.device)
    if library is None:
        requests = _requests(draft_tokens, seed, offset, seeds, offsets)
        return pytorch.verify(
            *(target_logits, draft_logits, draft_tokens, lengths, uniforms, requests),
            rule=decoded(code, parameters),
            temperature=temperature,
        )
    target, draft = _dense(target_logits), _dense(draft_logits)
    batch, gamma, vocabulary = draft.shape
    out = draft_tokens.new_empty((3, batch))
    optional = [None if x is None else x.contiguous() for x in (lengths, uniforms, seeds, offsets)]
    problem = Problem(
        *(_address(x) for x in (target, draft, draft_tokens, *optional, out)),
        *(_strides(x) for x in (target, draft, draft_tokens)),
        *(seed, offset, temperature, Parameters(*parameters)),
        *(batch, gamma, vocabulary, TYPES[target.dtype], code, philox.NEXT),
    )
    _run(library, problem, out)
    return out


@torch.library.register_fake("speculative::verify", lib=OPERATORS)
def _(target_logits: Tensor, draft_logits: Tensor, draft_tokens: Tensor, *_: object) -> Tensor:
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
    stream: int,
) -> Tensor:
    """`speculative.verification.verify.sample` on checked arguments: int64 [B]."""
    library = _library(logits.device)
    if library is None:
        requests = _requests(logits, seed, offset, seeds, offsets)
        return pytorch.sample(logits, uniforms, requests, temperature=temperature, stream=stream)[0]
    rows = _dense(logits)
    batch, vocabulary = rows.shape
    out = torch.empty((3, batch), dtype=torch.int64, device=rows.device)
    given = [None if x is None else x.contiguous() for x in (uniforms, seeds, offsets)]
    pair = c_int64 * 2
    problem = Problem(
        *(_address(x) for x in (rows, None, None, None, *given, out)),
        *(pair(rows.stride(0), 0), pair(), pair()),
        *(seed, offset, temperature, Parameters()),
        *(batch, 0, vocabulary, TYPES[rows.dtype], Exact.code, stream),
    )
    _run(library, problem, out)
    return out[1].clone()


@torch.library.register_fake("speculative::sample", lib=OPERATORS)
def _(logits: Tensor, *_: object) -> Tensor:
    return torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)


def _requests(
    rows: Tensor, seed: int, offset: int, seeds: Tensor | None, offsets: Tensor | None
) -> Tensor:
    """Those of the rows; tensors win over numbers."""
    return philox.requests(
        len(rows),
        seed if seeds is None else seeds,
        offset if offsets is None else offsets,
        rows.device,
    )


def _library(device: torch.device) -> ctypes.CDLL | None:
    if device.type == "cpu":
        return build.cpu_library()
    return build.cuda_library(build.architecture_of(device)) if device.type == "cuda" else None


def _run(library: ctypes.CDLL, problem: Problem, out: Tensor) -> None:
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


def _dense(logits: Tensor) -> Tensor:
    """`logits` with a dense last dimension; copied only where it is not."""
    return logits if logits.stride(-1) == 1 or logits.shape[-1] == 1 else logits.contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _strides(tensor: Tensor) -> ctypes.Array[c_int64]:
    return (c_int64 * 2)(*tensor.stride()[:2])
