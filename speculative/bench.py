"""Time of the verification region: transformers' function, two softmaxes, and our methods.

Sides take turns within a repetition. On a GPU there are two times: of a call, as a Python program
sees it, and of a replay of a CUDA graph of several calls on different inputs, which is the kernels'
own and reads from memory rather than from cache. transformers' function waits for the host and so
cannot be in a graph; it takes one sequence, so a batch is as many calls.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from speculative.verification.calibration import Observed
from speculative.verification.rules import Calibrated, Exact, Rule, Sigmoid
from speculative.verification.verify import verify
from systems.measure import Spread, spread, timed
from systems.schema import InputError

METHODS = ("transformers", "two softmaxes", "exact", "sigmoid", "calibrated")
APPROXIMATIONS = ("sigmoid", "calibrated")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BATCHES = {"cpu": (1,), "cuda": (1, 64)}
LOGITS = {"cpu": ("float32",), "cuda": ("float32", "bfloat16")}
"""What is timed on a device unless told otherwise: sequences, and dtypes of the logits."""
CACHE_BYTES = 256 * 2**20
"""Inputs of a graph's calls together, more than any GPU's cache."""
MOST_COPIES = 64
DRAFTS = 5
"""Drafts that the turns go round: how many tokens of one are accepted is chance."""
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
NOISE = 0.75
"""Of the draft's logits about the target's, in a vocabulary of normal logits of deviation 3: about
0.7 of the draft tokens are accepted."""

Inputs = tuple[Tensor, Tensor, Tensor]
Call = Callable[[Inputs, int], tuple[Tensor, ...]]
"""From inputs and a seed to what is decided, the number of accepted tokens first."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is timed."""

    vocabulary: int
    gamma: int
    batch: int
    dtype: str
    device: str
    threads: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of logits of every sequence."""
        return self.batch * self.vocabulary * DTYPES[self.dtype].itemsize

    def floor_bytes(self, method: str) -> int:
        """Bytes that must move: all rows once; of the approximations one row pair alone."""
        return self.row_bytes * (2 if method in APPROXIMATIONS else 2 * self.gamma + 1)


CALIBRATED_ON = Case(vocabulary=1, gamma=16, batch=4, dtype="float32", device="cpu", threads=1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found."""

    case: Case
    method: str
    call_s: Spread
    graph_s: Spread | None = None
    """A call's share of a CUDA graph's replay."""
    graph_equal: bool | None = None
    """Does a replay decide as calls do? None: no graph, or no seeds."""
    acceptance: float
    """Accepted draft tokens over decided ones, which end with the first rejection."""
    floor_bytes: int

    def bandwidth(self) -> float:
        """Bytes of the floor per second, of the graph where there is one."""
        return self.floor_bytes / (self.graph_s or self.call_s).median


def inputs(case: Case, seed: int) -> Inputs:
    """Normal logits, a draft near the target, and tokens sampled from it."""
    device = torch.device(case.device)
    generator = torch.Generator(device).manual_seed(seed)
    shape = case.batch, case.gamma + 1, case.vocabulary
    target = torch.randn(shape, generator=generator, device=device) * 3
    draft = target[:, :-1] + NOISE * torch.randn(
        (case.batch, case.gamma, case.vocabulary), generator=generator, device=device
    )
    race = torch.empty_like(draft).exponential_(generator=generator)
    tokens = (draft.softmax(-1) / race).argmax(-1)
    return target.to(DTYPES[case.dtype]), draft.to(DTYPES[case.dtype]), tokens


def measure(case: Case, repetitions: int = 15) -> list[Row]:
    """Time every method on one case; each repetition takes every method once."""
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    device = torch.device(case.device)
    given = [inputs(case, seed) for seed in range(DRAFTS)]
    calls = {method: _call(method, case) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for repetition in range(-2, repetitions):  # two that are not counted
        for method, call in calls.items():
            once = partial(call, given[repetition % DRAFTS], repetition)
            took = timed(once, warm_up=0, repetitions=1, device=device)
            if repetition >= 0:
                seconds[method].append(took.median)
    rows = []
    for method, call in calls.items():
        graph_s, graph_equal = _in_graph(case, method, call, repetitions)
        rows.append(
            Row(
                case=case,
                method=method,
                call_s=spread(seconds[method]),
                graph_s=graph_s,
                graph_equal=graph_equal,
                acceptance=_acceptance(call, given),
                floor_bytes=case.floor_bytes(method),
            )
        )
    torch.set_num_threads(before)
    return rows


def _call(method: str, case: Case) -> Call:
    if method == "two softmaxes":
        return lambda given, _: two_softmaxes(*given)
    if method == "transformers":
        region = transformers_region()
        return lambda given, _: (torch.cat([region(*one) for one in _sequences(given)]),)
    rules: dict[str, Rule] = {"exact": Exact(), "sigmoid": Sigmoid()}
    rule = rules[method] if method in rules else _calibrated(case.vocabulary)
    return lambda given, seed: verify(*given, rule=rule, seed=seed)


@lru_cache
def _calibrated(vocabulary: int) -> Calibrated:
    """The calibrated rule, fitted to other drafts of the same kind."""
    seen = Observed()
    seen.add(*inputs(replace(CALIBRATED_ON, vocabulary=vocabulary), seed=DRAFTS))
    return seen.fit()


def _sequences(given: Inputs) -> Iterator[Inputs]:
    return zip(*(batch.split(1) for batch in given), strict=True)


def _acceptance(call: Call, given: Sequence[Inputs], calls: int = 20) -> float:
    accepted = torch.cat([call(given[seed % DRAFTS], seed)[0] for seed in range(calls)]).float()
    decided = (accepted + 1).clamp(max=given[0][2].shape[1])
    return float(accepted.sum() / decided.sum())


def _in_graph(
    case: Case, method: str, call: Call, repetitions: int
) -> tuple[Spread | None, bool | None]:
    """Seconds of a call in a CUDA graph of several, and whether its replay decides as calls do."""
    if case.device != "cuda" or method == "transformers":
        return None, None
    size = (2 * case.gamma + 1) * case.row_bytes
    copies = max(1, min(MOST_COPIES, CACHE_BYTES // size))
    given = [inputs(case, seed) for seed in range(copies)]
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(given[0], 0)
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        captured = [call(one, seed) for seed, one in enumerate(given)]
    device = torch.device(case.device)
    whole = timed(graph.replay, warm_up=3, repetitions=repetitions, device=device)
    share = Spread(
        median=whole.median / copies, low=whole.low / copies, high=whole.high / copies, n=whole.n
    )
    return share, None if method == "two softmaxes" else _decides_as(captured, call, given)


def _decides_as(captured: Sequence[tuple[Tensor, ...]], call: Call, given: list[Inputs]) -> bool:
    """Are these what `call` gives, the place in the list its seed?"""
    again = [call(one, seed) for seed, one in enumerate(given)]
    pairs = zip(captured, again, strict=True)
    return all(torch.equal(torch.stack(a), torch.stack(b)) for a, b in pairs)


def copy_bandwidth(device: str, threads: int) -> float:
    """Bytes read and written per second by a copy of a large tensor."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    source = torch.ones(COPY_BYTES[device] // 4, device=device)
    into = torch.empty_like(source)
    where = torch.device(device)
    took = timed(lambda: into.copy_(source), warm_up=3, repetitions=9, device=where)
    torch.set_num_threads(before)
    return 2 * COPY_BYTES[device] / took.median


def file_name(device: str) -> str:
    """Where a benchmark of this device is kept unless told otherwise."""
    return f"bench-speculative-{device}.json"


def cases(
    vocabularies: Sequence[int],
    gammas: Sequence[int],
    batches: Sequence[int],
    dtypes: Sequence[str],
    device: str,
    threads: int,
) -> Iterator[Case]:
    """The grid."""
    for dtype in dtypes:
        for batch in batches:
            for vocabulary in vocabularies:
                for gamma in gammas:
                    yield Case(
                        vocabulary=vocabulary,
                        gamma=gamma,
                        batch=batch,
                        dtype=dtype,
                        device=device,
                        threads=threads,
                    )


def transformers_region() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """transformers' verification of one sequence: (target, draft, tokens) -> accepted [1].

    Raises:
        InputError: transformers is not installed, or its function takes arguments unknown here.
    """
    try:
        from transformers.generation import utils
    except ImportError:
        raise InputError(
            "transformers is not installed; pip install 'transformers>=4.57'"
        ) from None
    function: Any = utils._speculative_sampling
    names = list(inspect.signature(function).parameters)
    start = ["candidate_input_ids", "candidate_logits", "candidate_length", "new_logits"]
    if names[:4] != start:
        raise InputError(f"transformers' _speculative_sampling takes {names}: an unknown version")
    # older versions want to know whether the draft ended the sequence
    rest = (False,) if names[4:5] == ["is_done_candidate"] else ()

    def verify(target: Tensor, draft: Tensor, tokens: Tensor) -> Tensor:
        _, matches = function(tokens, draft, tokens.shape[1], target, *rest)
        return torch.as_tensor(matches).view(1)

    return verify


def two_softmaxes(target: Tensor, draft: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The textbook's verification of a batch, without host synchronisation.

    Returns:
        accepted, next_token: int64 [B].
    """
    gamma = tokens.shape[1]
    p, q = target.softmax(-1, torch.float32), draft.softmax(-1, torch.float32)
    ratio = (p[:, :gamma].gather(-1, tokens[..., None]) / q.gather(-1, tokens[..., None]))[..., 0]
    accepted = (torch.rand_like(ratio) < ratio).cumprod(-1).sum(-1)
    rows = accepted[:, None, None].expand(-1, 1, p.shape[-1])
    last = p.gather(1, rows)[:, 0]
    drafted = q.gather(1, rows.clamp(max=gamma - 1))[:, 0]
    residual = torch.where((accepted < gamma)[:, None], (last - drafted).clamp(min=0), last)
    return accepted, (residual / torch.empty_like(residual).exponential_()).argmax(-1)
