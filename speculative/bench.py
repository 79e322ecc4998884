"""Times verification: transformers' function, two softmaxes, and our methods.

The methods take turns within a repetition. On a GPU there are two times: that of a call, as a
Python program sees it, and that of a replay of a CUDA graph of several calls on different inputs,
which is the kernels' own and reads from memory rather than from cache. transformers' function waits
for the host and so cannot be in a graph; it takes one sequence, so a batch is as many calls.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

from speculative import ngrams
from speculative.verification.calibration import Observed
from speculative.verification.rules import Calibrated, Exact, Rule, Sigmoid
from speculative.verification.verify import verify
from systems.measure import Spread, spread, timed
from systems.schema import InputError

METHODS = ("transformers", "two softmaxes", "exact", "sigmoid", "calibrated")
APPROXIMATIONS = ("sigmoid", "calibrated")
"""The methods that need not read all rows."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BATCHES = {"cpu": (1,), "cuda": (1, 64)}
LOGITS = {"cpu": ("float32",), "cuda": ("float32", "bfloat16")}
"""The batches and the dtypes of logits that are timed on a device by default."""
CACHE_BYTES = 256 * 2**20
"""The bytes of inputs that the calls of a graph read together, more than any GPU's cache."""
MOST_COPIES = 64
"""The most calls of a graph."""
DRAFTS = 5
"""How many drafts take turns, since how many tokens of one draft are accepted is chance."""
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""The size of the tensor whose copy is timed."""
NOISE = 0.75
"""The standard deviation of the draft's logits from the target's, which have one of 3: about 0.7 of
the draft tokens are accepted."""

Logits = Literal["normal", "ngram"]
"""Where logits come from: normally distributed ones, or an n-gram model of English
(`speculative.ngrams`), whose vocabulary is given."""
Inputs = tuple[Tensor, Tensor, Tensor]
Call = Callable[[Inputs, int], tuple[Tensor, ...]]
"""Takes inputs and a seed, and gives what is decided, the number of accepted tokens first."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """The sizes of a verification that is timed."""

    vocabulary: int
    gamma: int
    batch: int
    dtype: str
    device: str
    threads: int
    logits: Logits = "normal"

    @property
    def row_bytes(self) -> int:
        """The bytes of one row of logits of every sequence."""
        return self.batch * self.vocabulary * DTYPES[self.dtype].itemsize

    def floor_bytes(self, method: str) -> int:
        """The bytes that a method must read at least: all rows once, or for an approximation the
        pair of rows that the next token comes from."""
        return self.row_bytes * (2 if method in APPROXIMATIONS else 2 * self.gamma + 1)


CALIBRATED_ON = Case(vocabulary=1, gamma=16, batch=4, dtype="float32", device="cpu", threads=1)
"""The drafts that the calibrated method is fitted to, at the vocabulary that is timed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The outcome of one method on one case."""

    case: Case
    method: str
    call_s: Spread
    graph_s: Spread | None = None
    """A call's share of the replay of a CUDA graph; None: no graph."""
    graph_equal: bool | None = None
    """Whether a replay decides as calls do; None: no graph, or a method without seeds."""
    acceptance: float
    """The accepted draft tokens over the decided ones, of which the first rejection is the last."""
    floor_bytes: int

    def bandwidth(self) -> float:
        """The bytes of the floor per second, by the graph's time where there is a graph."""
        return self.floor_bytes / (self.graph_s or self.call_s).median


def inputs(case: Case, seed: int) -> Inputs:
    """Make the logits of a target and of a draft near it, and sample tokens from the draft.

    Raises:
        InputError: the n-gram model is not installed, or has another vocabulary.
    """
    target, draft, tokens = _of_words(case, seed) if case.logits == "ngram" else _normal(case, seed)
    return target.to(DTYPES[case.dtype]), draft.to(DTYPES[case.dtype]), tokens


def _of_words(case: Case, seed: int) -> Inputs:
    """Make logits of English words: trigrams as the target's, bigrams as the draft's."""
    model = ngrams.read()
    if case.vocabulary != len(model.words):
        raise InputError(f"vocabulary {case.vocabulary}: the n-gram model has {len(model.words)}")
    target, draft, tokens = ngrams.drafted(model, case.batch, case.gamma, seed)
    return target.to(case.device), draft.to(case.device), tokens.to(case.device)


def _normal(case: Case, seed: int) -> Inputs:
    """Draw normally distributed logits of a target, and those of a draft near it, in float32."""
    device = torch.device(case.device)
    generator = torch.Generator(device).manual_seed(seed)
    shape = case.batch, case.gamma + 1, case.vocabulary
    target = torch.randn(shape, generator=generator, device=device) * 3
    draft = target[:, :-1] + NOISE * torch.randn(
        (case.batch, case.gamma, case.vocabulary), generator=generator, device=device
    )
    race = torch.empty_like(draft).exponential_(generator=generator)
    return target, draft, (draft.softmax(-1) / race).argmax(-1)


def measure(case: Case, repetitions: int = 15) -> list[Row]:
    """Time every method on one case; each repetition calls every method once."""
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    device = torch.device(case.device)
    drafts = [inputs(case, seed) for seed in range(DRAFTS)]
    calls = {method: _call(method, case) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for repetition in range(-2, repetitions):  # The first two are not counted.
        for method, call in calls.items():
            once = partial(call, drafts[repetition % DRAFTS], repetition)
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
                acceptance=_acceptance(call, drafts),
                floor_bytes=case.floor_bytes(method),
            )
        )
    torch.set_num_threads(before)
    return rows


def _call(method: str, case: Case) -> Call:
    """Make the function that calls a method on inputs of a case."""
    if method == "two softmaxes":
        return lambda draft, _: two_softmaxes(*draft)
    if method == "transformers":
        region = transformers_region()
        return lambda draft, _: (torch.cat([region(*one)[0] for one in _sequences(draft)]),)
    rules: dict[str, Rule] = {"exact": Exact(), "sigmoid": Sigmoid()}
    rule = rules[method] if method in rules else _calibrated(case.vocabulary, case.logits)
    return lambda draft, seed: verify(*draft, rule=rule, seed=seed)


@lru_cache
def _calibrated(vocabulary: int, logits: Logits) -> Calibrated:
    """The calibrated rule, fitted to other drafts of the same kind."""
    seen = Observed()
    seen.add(*inputs(replace(CALIBRATED_ON, vocabulary=vocabulary, logits=logits), seed=DRAFTS))
    return seen.fit()


def _sequences(draft: Inputs) -> Iterator[Inputs]:
    """The sequences of a batch, each as a batch of one."""
    return zip(*(batch.split(1) for batch in draft), strict=True)


def _acceptance(call: Call, drafts: Sequence[Inputs], calls: int = 20) -> float:
    """Measure `Row.acceptance` over some calls with different seeds."""
    accepted = torch.cat([call(drafts[seed % DRAFTS], seed)[0] for seed in range(calls)]).float()
    decided = (accepted + 1).clamp(max=drafts[0][2].shape[1])
    return float(accepted.sum() / decided.sum())


def _in_graph(
    case: Case, method: str, call: Call, repetitions: int
) -> tuple[Spread | None, bool | None]:
    """The seconds of a call in a CUDA graph of several calls, and whether its replay decides as
    calls do; see `Row`."""
    if case.device != "cuda" or method == "transformers":
        return None, None
    size = (2 * case.gamma + 1) * case.row_bytes
    copies = max(1, min(MOST_COPIES, CACHE_BYTES // size))
    drafts = [inputs(case, seed) for seed in range(copies)]
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(drafts[0], 0)
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        captured = [call(one, seed) for seed, one in enumerate(drafts)]
    device = torch.device(case.device)
    whole = timed(graph.replay, warm_up=3, repetitions=repetitions, device=device)
    share = Spread(
        median=whole.median / copies, low=whole.low / copies, high=whole.high / copies, n=whole.n
    )
    return share, None if method == "two softmaxes" else _decides_as(captured, call, drafts)


def _decides_as(captured: Sequence[tuple[Tensor, ...]], call: Call, drafts: list[Inputs]) -> bool:
    """Whether `call` decides as was captured, with each draft's place in the list as its seed."""
    again = [call(one, seed) for seed, one in enumerate(drafts)]
    pairs = zip(captured, again, strict=True)
    return all(torch.equal(torch.stack(a), torch.stack(b)) for a, b in pairs)


def copy_bandwidth(device: str, threads: int) -> float:
    """The bytes that a copy of a large tensor reads and writes per second."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    source = torch.ones(COPY_BYTES[device] // 4, device=device)
    into = torch.empty_like(source)
    where = torch.device(device)
    took = timed(lambda: into.copy_(source), warm_up=3, repetitions=9, device=where)
    torch.set_num_threads(before)
    return 2 * COPY_BYTES[device] / took.median


def file_name(device: str) -> str:
    """The default name of the file that a benchmark of this device is written to."""
    return f"bench-speculative-{device}.json"


def cases(
    vocabularies: Sequence[int],
    gammas: Sequence[int],
    batches: Sequence[int],
    dtypes: Sequence[str],
    device: str,
    threads: int,
    logits: Logits = "normal",
) -> Iterator[Case]:
    """Yield a case for every combination of these values."""
    case = partial(Case, device=device, threads=threads, logits=logits)
    for dtype, batch, vocabulary, gamma in product(dtypes, batches, vocabularies, gammas):
        yield case(vocabulary=vocabulary, gamma=gamma, batch=batch, dtype=dtype)


def transformers_region() -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Wrap transformers' own verification of one sequence.

    Returns:
        A function of target logits [1, G + 1, V], draft logits [1, G, V] and draft tokens [1, G]
        that gives the number of accepted tokens and the next token, int64 [1] each.

    Raises:
        InputError: transformers is not installed, or is of a version with other arguments.
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
    # Older versions want to know whether the draft has ended the sequence.
    rest = (False,) if names[4:5] == ["is_done_candidate"] else ()

    def verify(target: Tensor, draft: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        valid, matches = function(tokens, draft, tokens.shape[1], target, *rest)
        return torch.as_tensor(matches).view(1), valid[:, -1]

    return verify


def two_softmaxes(target: Tensor, draft: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The textbook's exact verification of a batch, which writes both softmaxes out.

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
