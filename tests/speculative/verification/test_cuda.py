"""The CUDA kernels: their source on emulated threads everywhere; on a GPU where there is one.

The emulation runs every block, warp shuffle and atomic of verify.cu on a CPU. It has no clusters,
no concurrency between blocks and no GPU arithmetic: those are tested on a GPU alone.
"""

import ctypes
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_void_p
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from speculative.experiments.agreement import (
    RULES,
    TIE,
    drafted,
    referred,
    uniforms_of,
    with_operators,
)
from speculative.verification import build, kernels, masks, philox
from speculative.verification.filters import Filters
from speculative.verification.problem import Problem
from speculative.verification.rules import EXACT, Block, Coupled, Rule, Sigmoid
from speculative.verification.verify import Verification, sample, verify

EMULATION = Path(__file__).parents[1] / "cuda_on_cpu"


def emulated_source() -> str:
    """verify.cu with what only nvcc reads rewritten."""
    text = (build.SOURCES / "verify.cu").read_text()
    text = text.replace(
        "extern __shared__ Normaliser rows[];",
        "auto* rows = reinterpret_cast<Normaliser*>(dynamic_shared.data());",
    )
    launch = re.compile(r"(\w+<[\w, ]+>)<<<(.*?), THREADS, (\w+), stream>>>\((.*?)\);")
    text, count = launch.subn(r"launch_on_cpu(\2, THREADS, \3, [&] { \1(\4); });", text)
    assert count == 5
    return text


def build_emulated(folder: Path) -> Path:
    """Build the emulated kernels in a folder; returns the library."""
    (folder / "verify.cpp").write_text(emulated_source())
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", f"-I{build.SOURCES}", f"-I{EMULATION}"]
    flags.append("-U_FORTIFY_SOURCE")  # it refuses jumps from one stack to another
    path = folder / "emulated.so"
    command = ["g++", *flags, str(folder / "verify.cpp"), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


def load_emulated(path: Path) -> ctypes.CDLL:
    """Load what `build_emulated` has built."""
    found = ctypes.CDLL(str(path))
    found.speculative_workspace_bytes.restype = ctypes.c_int64
    return found


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return load_emulated(build_emulated(tmp_path_factory.mktemp("emulated")))


@contextmanager
def emulating(emulated: Callable[[], ctypes.CDLL]) -> Iterator[None]:
    """`verify` on CPU tensors runs the emulated kernels, with a workspace that holds rubbish."""

    def run(library: ctypes.CDLL, problem: Problem, out: Tensor) -> None:
        size = library.speculative_workspace_bytes(byref(problem))
        guard = 64
        workspace = torch.full((size + guard,), 0xA5, dtype=torch.uint8)
        address = c_void_p(workspace.data_ptr())
        assert library.speculative_verify_cuda(byref(problem), address, None) == 0
        assert bool((workspace[size:] == 0xA5).all())

    def found(_: torch.device) -> ctypes.CDLL:
        return emulated()

    with mock.patch.object(kernels, "_library", found), mock.patch.object(kernels, "_launch", run):
        yield


@pytest.fixture
def emulated(library: ctypes.CDLL) -> Iterator[None]:
    with emulating(lambda: library):
        yield


def rows(found: Verification) -> list[tuple[int, ...]]:
    return [tuple(column) for column in torch.stack(found).t().tolist()]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("batch", "gamma", "vocabulary"), [(2, 3, 5), (1, 2, 4099), (3, 1, 8192), (16, 2, 2050)]
)
def test_emulated_decisions_are_the_reference_s(
    emulated: None, rule: Rule, dtype: torch.dtype, batch: int, gamma: int, vocabulary: int
) -> None:
    target, draft, tokens = drafted(batch, gamma, vocabulary, seed=vocabulary)
    case = target.to(dtype), draft.to(dtype), tokens
    lengths = torch.arange(batch) % (gamma + 1)
    u = uniforms_of(case, rule, 5, 2)
    decide = partial(verify, *case, rule=rule, lengths=lengths, temperature=0.9)
    found = rows(decide(seed=5, offset=2))
    assert found == rows(decide(uniforms=u))
    expected = referred(case, u, lengths, rule=rule, temperature=0.9)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == theirs[:3] or theirs.margin < TIE


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != Coupled()])
@pytest.mark.parametrize("repeat", [1, 4])  # few sequences and many
def test_emulated_faults(emulated: None, rule: Rule, repeat: int) -> None:
    target, draft, _ = drafted(7, 2, 2100, seed=1)
    draft = target[:, :2].clone()
    tokens = torch.zeros(7, 2, dtype=torch.int64)
    target[1, 1, 0], draft[2, 1, 0] = torch.nan, torch.inf
    tokens[3, 0], tokens[4, 1] = -1, 2100
    target[6, 2] = -torch.inf
    lengths = torch.tensor([2, 2, 2, 2, 2, 3, 2]).repeat(repeat)
    case = target.repeat(repeat, 1, 1), draft.repeat(repeat, 1, 1), tokens.repeat(repeat, 1)
    found = rows(verify(*case, rule=rule, lengths=lengths, seed=1))
    before = 0 if rule == Block() else 1  # a fault leaves nothing of a block
    expected = [(2, 0), (before, 1), (before, 2), (0, 4), (before, 4), (0, 8), (2, 1)]
    assert [(n, fault) for n, _, fault in found] == expected * repeat
    assert all((token == -1) == (fault != 0) for _, token, fault in found)


def test_emulated_paths_agree_on_every_request(emulated: None) -> None:
    """Few sequences and many are reduced the same way, to the last bit."""
    case = drafted(18, 2, 5003, seed=3)
    seeds = torch.arange(18)
    together = rows(verify(*case, seed=seeds))
    some = [tensor[10:14] for tensor in case]
    assert rows(verify(*some, seed=seeds[10:14])) == together[10:14]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch", [4, 20])
def test_emulated_rows_have_temperatures_of_their_own(
    emulated: None, rule: Rule, batch: int
) -> None:
    """Greedy rows share a batch with others; the drafts of exact rules may come without logits."""
    target, draft, tokens = drafted(batch, 2, 2101, seed=6)
    tokens[::3] = target[::3, :2].argmax(-1)
    heat = torch.tensor([0.7, 0.0, 1.2, 0.0]).repeat(batch // 4)
    case = target, None if rule in (Block(), Coupled(), EXACT) else draft, tokens
    found = rows(verify(*case, rule=rule, temperature=heat, seed=5))
    expected = referred(case, uniforms_of(case, rule, 5), rule=rule, temperature=heat)
    assert found == [decision[:3] for decision in expected]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("repeat", [1, 5])  # few sequences and many
def test_emulated_temperatures_that_cannot_be(emulated: None, rule: Rule, repeat: int) -> None:
    case = drafted(4 * repeat, 2, 2101, seed=6)
    heat = torch.tensor([0.7, torch.nan, 0.0, 1e-40]).repeat(repeat)
    found = rows(verify(*case, rule=rule, temperature=heat, seed=5))
    assert [fault for _, _, fault in found] == [0, 16, 0, 16] * repeat
    assert all((token == -1) == (fault != 0) for _, token, fault in found)


def test_emulated_faults_of_the_target_s_own_tokens(emulated: None) -> None:
    """By the noise and greedily; the draft's logits are not read."""
    target, draft, _ = drafted(6, 2, 2100, seed=1)
    tokens = target[:, :2].argmax(-1)
    target[1, 1, 2099], draft[2] = torch.nan, torch.nan
    target[3, 0], tokens[4, 1] = -torch.inf, 2100
    target[5, 2, 7] = torch.inf
    for rule, temperature in ((EXACT, 0.0), (Coupled(), 1e-3)):
        found = rows(verify(target, draft, tokens, rule=rule, temperature=temperature, seed=1))
        expected = [(2, 0), (1, 1), (2, 0), (0, 1), (1, 4), (2, 1)]
        assert [(n, fault) for n, _, fault in found] == expected


def test_emulated_zero_residual_and_views(emulated: None) -> None:
    target, draft = torch.full((1, 2, 70), -3e4), torch.full((1, 1, 70), 3e4)
    target[..., 41] = 2e4
    u = torch.full((1, 72), 0.5)
    u[0, 0] = 0.999
    decided = verify(target, draft, torch.tensor([[0]]), rule=Sigmoid(), uniforms=u)
    assert rows(decided) == [(0, 41, 0)]
    target, draft, tokens = drafted(2, 2, 1003, seed=4)
    expected = rows(verify(target, draft, tokens, seed=5))
    wide = torch.full((2, 3, 1010), torch.nan)
    wide[..., 3:1006] = target
    assert rows(verify(wide[..., 3:1006], draft, tokens, seed=5)) == expected


OTHERS = [pytest.param(4, 131, rule, marks=pytest.mark.slow) for rule in RULES]


@pytest.mark.parametrize(
    ("batch", "vocabulary", "rule"),  # few sequences and many
    [(2, 131, EXACT), *OTHERS, pytest.param(20, 2051, EXACT, marks=pytest.mark.slow)],
)
def test_emulated_filters(emulated: None, batch: int, vocabulary: int, rule: Rule) -> None:
    """Filters of their own for every row, of which some are greedy; many equal logits."""
    target, draft, _ = drafted(batch, 1, vocabulary, seed=7)
    target, draft = (target * 2).round() / 2, (draft * 2).round() / 2
    filters = Filters(
        top_k=torch.tensor([5, 40, 0, 3]).repeat(5)[:batch],
        top_p=torch.tensor([1.0, 0.7, 0.8, 1.0]).repeat(5)[:batch],
        min_p=torch.tensor([0.0, 0.02, 0.0, 0.0]).repeat(5)[:batch],
    )
    heat = torch.tensor([0.7, 1.0, 1.2, 0.0]).repeat(5)[:batch]
    drawn = torch.where(heat > 0, heat, 1.0)
    tokens = sample(draft[:, 0], filters=filters, temperature=drawn, seed=3)[:, None]
    found = rows(
        verify(target, draft, tokens, rule=rule, filters=filters, temperature=heat, seed=5)
    )
    u = uniforms_of((target, draft, tokens), rule, 5)
    expected = referred((target, draft, tokens), u, rule=rule, filters=filters, temperature=heat)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == theirs[:3] or theirs.margin < TIE


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch", [4, 16])  # few sequences and many
def test_emulated_log_probabilities(emulated: None, rule: Rule, batch: int) -> None:
    """With filters and without, of rows of which one in four is greedy."""
    target, draft, tokens = drafted(batch, 2, 2101, seed=6)
    tokens[::3] = target[::3, :2].argmax(-1)
    heat = torch.tensor([0.7, 0.0, 1.2, 0.5]).repeat(batch // 4)
    few = Filters(top_k=torch.tensor([0, 9, 40, 0]).repeat(batch // 4))
    for filters in (Filters(), few) if batch == 4 else (Filters(),):
        scores = torch.zeros(batch, 3)
        case: Any = target, draft, tokens
        options: Any = {"rule": rule, "temperature": heat, "filters": filters, "seed": 5}
        decided = verify(*case, log_probabilities=scores, **options)
        assert rows(decided) == rows(verify(*case, **options))
        by = torch.zeros(batch, 3)
        with_operators(*case, log_probabilities=by, **options)
        torch.testing.assert_close(scores, by, rtol=2e-6, atol=5e-6, equal_nan=True)
        assert int(scores.isfinite().sum()) == int(decided.accepted.sum()) + batch


@pytest.mark.parametrize("rule", RULES)
def test_emulated_masks(emulated: None, rule: Rule) -> None:
    """Alone and before filters, of rows of which one in four is greedy, decide as -inf does."""
    batch, vocabulary = 4, 131
    target, draft, tokens = drafted(batch, 2, vocabulary, seed=6)
    allowed = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    tokens[::3] = target.masked_fill(~allowed, -torch.inf)[::3, :2].argmax(-1)
    heat = torch.tensor([0.7, 0.0, 1.2, 0.5]).repeat(batch // 4)
    few = Filters(top_k=torch.tensor([0, 9, 40, 0]).repeat(batch // 4))
    for filters in (Filters(), few):
        options: Any = {"rule": rule, "temperature": heat, "seed": 5}
        mask = replace(filters, allowed=masks.packed(allowed))
        found = rows(verify(target, draft, tokens, filters=mask, **options))
        z, y = (x.masked_fill(~allowed[:, : x.shape[1]], -torch.inf) for x in (target, draft))
        assert found == rows(verify(z, y, tokens, filters=filters, **options))
        assert all(token >= 0 for _, token, _ in found)


def test_emulated_faults_under_filters(emulated: None) -> None:
    target, draft, _ = drafted(4, 1, 70, seed=1)
    tokens = target[:, :1].argmax(-1)
    draft = target[:, :1].clone()
    target[1, 0, 9], draft[2, 0, 69], target[3, 1] = torch.nan, torch.inf, -torch.inf
    found = rows(verify(target, draft, tokens, filters=Filters(top_k=5, top_p=0.5), seed=1))
    assert [(n, fault) for n, _, fault in found] == [(1, 0), (0, 1), (0, 2), (1, 1)]


def test_emulated_sampling(emulated: None) -> None:
    logits = drafted(20, 1, 777, seed=1)[1][:, 0]
    found = sample(logits, seed=8, offset=1, temperature=0.9)
    seeds, numbers, positions = philox.requests(20, 8, 1, logits.device)
    u = philox.uniforms(seeds, numbers, positions, philox.DRAFT, 777).double()  # one group
    weights = (logits.double() / 0.9).softmax(-1)
    assert torch.equal(found, (weights / -torch.log1p(-u)).argmax(-1))


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@on_gpu
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("batch", "vocabulary"), [(1, 128_256), (5, 51_865), (64, 32_001)])
def test_a_gpu_decides_as_the_reference(
    rule: Rule, dtype: torch.dtype, batch: int, vocabulary: int
) -> None:
    target, draft, tokens = drafted(batch, 4, vocabulary, seed=batch)
    case = target.to(dtype), draft.to(dtype), tokens
    u = uniforms_of(case, rule, 7)
    there = [tensor.cuda() for tensor in case]
    found = rows(verify(*there, rule=rule, seed=7))
    for mine, theirs in zip(found, referred(case, u, rule=rule), strict=True):
        assert mine == theirs[:3] or theirs.margin < TIE


@on_gpu
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("batch", "vocabulary"), [(1, 128_256), (40, 32_001)])
def test_a_gpu_filters_as_the_reference(rule: Rule, batch: int, vocabulary: int) -> None:
    target, draft, _ = drafted(batch, 2, vocabulary, seed=batch)
    filters = Filters(top_k=50, top_p=torch.full((batch,), 0.9), min_p=0.01)
    tokens = torch.stack([sample(draft[:, t], filters=filters, seed=t) for t in range(2)], 1)
    case = target, draft, tokens
    there = Filters(top_k=50, top_p=torch.full((batch,), 0.9).cuda(), min_p=0.01)
    found = rows(verify(*(x.cuda() for x in case), rule=rule, filters=there, seed=7))
    expected = referred(case, uniforms_of(case, rule, 7), rule=rule, filters=filters)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == theirs[:3] or theirs.margin < TIE


@on_gpu
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch", [2, 40])
def test_a_graph_replays_the_same_decisions(rule: Rule, batch: int) -> None:
    case = [tensor.cuda() for tensor in drafted(batch, 4, 32_000, seed=1)]
    offsets = torch.zeros(batch, dtype=torch.int64, device="cuda")
    decide = partial(verify, *case, rule=rule, seed=offsets + 3, offset=offsets)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        decide()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = decide()
    for position in (0, 1000):
        offsets.fill_(position)
        graph.replay()
        assert rows(captured) == rows(decide())


@on_gpu
def test_no_call_waits_for_the_gpu() -> None:
    case = [tensor.cuda() for tensor in drafted(3, 4, 32_000, seed=1)]
    verify(*case)
    torch.cuda.set_sync_debug_mode("error")
    try:
        verify(*case, rule=Sigmoid())
        verify(*case, seed=torch.arange(3, device="cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
