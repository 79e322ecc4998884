"""Verify a tree of draft tokens: several guesses for a place, each with guesses that follow it.

    from speculative.verification.tree import verify_tree

    #   text -+- brown (0) -+- fox (2)
    #         |             +- dog (3)
    #         +- red (1)
    verify_tree(target_logits, draft_logits, draft_tokens, parents=[-1, -1, 0, 0], seed=7)

The tree is given by the parent of every node; -1 stands for the text itself, and a parent comes
before its children. The target reads the whole tree in one pass, in which a token attends to its
ancestors alone. Verification then walks from the text towards the leaves. At a node the children
are tried in order, and the first that is accepted is the next node. With the rule `Exact` child x
is accepted with probability min(1, p(x) / q(x)); when it is rejected, max(0, p - q), normalised,
takes the place of p for the next child. If no child is accepted, the next token is sampled from
what is left. So emitted tokens follow the target, however many children there are (SpecInfer, arXiv
2305.09781, algorithm 2), as long as the children of a node were sampled from q independently of
each other; two of them may be the same token.

The other way needs no probabilities of a draft, so it serves n-grams, prompt lookup and likeliest
tokens: the target takes a token of its own, and the child that holds it, if there is one, is the
next node. This is what the rule `Coupled` does, and every rule at temperature 0.

PyTorch operators do all of this, on any device; there is no fused kernel for trees.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from speculative.verification import philox, races
from speculative.verification.checks import check, check_filters, check_kinds
from speculative.verification.cuts import limited
from speculative.verification.filters import Filters, check_temperature
from speculative.verification.kernels import limits_of
from speculative.verification.masks import masked
from speculative.verification.rules import EXACT, Coupled, Exact
from speculative.verification.status import DRAFT_LOGITS, DRAFT_TOKEN, TARGET_LOGITS
from speculative.verification.verify import UNFILTERED
from systems.schema import InputError


class TreeVerification(NamedTuple):
    """What the verification of a tree decided: three tensors, int64 [B] each."""

    node: Tensor
    """The last accepted node; -1 if none was. Its ancestors are accepted too: `path` lists them."""
    next_token: Tensor
    """The token after it; -1 if the sequence has no next token."""
    status: Tensor
    """0, or why there is no next token: bits named in `speculative.verification.status`."""


def verify_tree(
    target_logits: Tensor,
    draft_logits: Tensor | None,
    draft_tokens: Tensor,
    parents: Sequence[int],
    *,
    rule: Exact | Coupled = EXACT,
    temperature: float = 1.0,
    filters: Filters = UNFILTERED,
    seed: int | Tensor = 0,
    offset: int | Tensor = 0,
    uniforms: Tensor | None = None,
) -> TreeVerification:
    """Accept a path of draft tokens from the root of a tree, then sample the token after it.

    The call does not wait for the device.

    Args:
        target_logits: floating point [B, N + 1, V]: row 0 follows the text, row n + 1 follows node
            n. -inf excludes a token.
        draft_logits: [B, N + 1, V] likewise: the children of a node were sampled from its row, and
            those of the text from row 0. Rows of leaves are not read. `Coupled` and temperature 0
            read none of it, and take None.
        draft_tokens: int64 [B, N], the token of every node.
        parents: the parent of every node, N numbers; -1 is the text. All sequences share the shape
            of the tree.
        rule: `Exact()` or `Coupled()`.
        temperature: divides the logits of both models; 0 is greedy.
        filters: which tokens may be sampled, as in `speculative.verification.verify.verify`; a mask
            has N + 1 rows.
        seed, offset: as in `speculative.verification.verify.verify`. Add the number of accepted
            nodes and 1 to `offset` after every call.
        uniforms: float32 [B, N + V + groups] from 0 to below 1, used instead of seed and offset by
            `Exact`: entry n decides node n, and the rest is the race for the next token.

    Raises:
        InputError: an argument does not fit the others, or the rule is another one. Faults in the
            values are reported in `status`.
    """
    check_kinds(filters, seed, offset, target_logits=target_logits, draft_tokens=draft_tokens)
    _check(target_logits, draft_logits, draft_tokens, parents, rule, temperature)
    _check_numbers(target_logits, draft_tokens, seed, offset, uniforms)
    check_filters(filters, target_logits.shape, target_logits.device)
    limits = limits_of(draft_tokens, *filters.separated())
    divisor = torch.full((len(draft_tokens), 1), temperature or 1.0, device=target_logits.device)
    target_logits = limited(masked(target_logits, filters.allowed), divisor, limits)
    if draft_logits is not None and filters.of_draft:
        draft_logits = limited(masked(draft_logits, filters.allowed), divisor, limits)
    requests = philox.requests(len(draft_tokens), seed, offset, target_logits.device)
    vocabulary = target_logits.shape[-1]
    outside = (draft_tokens < 0) | (draft_tokens >= vocabulary)
    tokens = draft_tokens.masked_fill(outside, -1)
    if isinstance(rule, Coupled) or temperature == 0:
        own = _own(target_logits.float(), temperature, requests, parents)
        return _followed(own, tokens, parents)
    if draft_logits is None:
        raise InputError(
            "draft_logits None: Exact compares a tree's tokens with the distributions that they "
            "were sampled from; give them, or rule=Coupled()"
        )
    if uniforms is None:
        seeds, numbers, positions = requests
        uniforms = torch.cat(
            [
                philox.uniforms(seeds, numbers, positions, philox.ACCEPT, len(parents)),
                philox.race_uniforms(seeds, numbers, positions, philox.NEXT, vocabulary),
            ],
            -1,
        )
    return _walked(target_logits, draft_logits, tokens, parents, temperature, uniforms)


def path(node: int, parents: Sequence[int]) -> list[int]:
    """The accepted nodes, from the first to `node`; empty for -1."""
    nodes = []
    while node >= 0:
        nodes.append(node)
        node = parents[node]
    return nodes[::-1]


def depths(parents: Sequence[int]) -> list[int]:
    """How many tokens every node is behind the text: 1 for a child of the text."""
    found: list[int] = []
    for parent in parents:
        found.append(1 if parent < 0 else found[parent] + 1)
    return found


def _check_numbers(
    target: Tensor, tokens: Tensor, seed: object, offset: object, uniforms: Tensor | None
) -> None:
    """Refuse tokens that are not int64, and random numbers that do not fit."""
    (batch, nodes), vocabulary, device = tokens.shape, target.shape[-1], target.device
    check("draft_tokens", tokens, (batch, nodes), torch.int64, device)
    numbers = nodes + vocabulary + philox.groups(vocabulary)
    check("uniforms", uniforms, (batch, numbers), torch.float32, device)
    for name, value in (("seed", seed), ("offset", offset)):
        if isinstance(value, Tensor):
            check(name, value, (batch,), torch.int64, device)


def _own(
    target_logits: Tensor, temperature: float, requests: Tensor, parents: Sequence[int]
) -> Tensor:
    """The token that the target takes after the text and after every node, int64 [B, N + 1]; -1
    where its row is at fault. Nodes of a depth share their noise, for one of them is reached."""
    if temperature == 0:
        return races.likeliest(target_logits)
    divisor = target_logits.new_full((1, 1), temperature)
    rows = target_logits.unbind(1)
    own = [
        races.coupled(row, divisor, requests, depth)
        for row, depth in zip(rows, [0, *depths(parents)], strict=True)
    ]
    return torch.stack(own, 1)


def _followed(own: Tensor, tokens: Tensor, parents: Sequence[int]) -> TreeVerification:
    """Follow the target's own tokens int64 [B, N + 1] through the tree."""
    row = torch.zeros_like(own[:, 0])  # of the node reached so far; 0 is the text
    following = own[:, 0]
    for node, parent in enumerate(parents):
        taken = (row == parent + 1) & (tokens[:, node] == following) & (following >= 0)
        row = torch.where(taken, node + 1, row)
        following = torch.where(taken, own[:, node + 1], following)
    return TreeVerification(row - 1, following, (following < 0) * TARGET_LOGITS)


def _walked(
    target_logits: Tensor,
    draft_logits: Tensor,
    tokens: Tensor,
    parents: Sequence[int],
    temperature: float,
    uniforms: Tensor,
) -> TreeVerification:
    """Try the children of every node that is reached, in order."""
    p, q = (_probabilities(x.float(), temperature) for x in (target_logits, draft_logits))
    row = torch.zeros_like(tokens[:, 0])
    left, fault = p[:, 0], _fault(p[:, 0], TARGET_LOGITS)
    for node, parent in enumerate(parents):
        tried = (row == parent + 1) & (fault == 0)
        token, drafted = tokens[:, node, None], q[:, parent + 1]
        wrong = torch.where(token[:, 0] < 0, DRAFT_TOKEN, _fault(drafted, DRAFT_LOGITS))
        fault = torch.where(tried, wrong, fault)
        tried &= fault == 0
        place = token.clamp(min=0)
        ratio = (left.gather(1, place), uniforms[:, node, None] * drafted.gather(1, place))
        taken = tried & (ratio[1] < ratio[0])[:, 0]
        row = torch.where(taken, node + 1, row)
        fault = torch.where(taken, _fault(p[:, node + 1], TARGET_LOGITS), fault)
        # What is left for the next child; a child that must be accepted leaves nothing.
        residual = (left - drafted).clamp(min=0)
        total = residual.sum(-1, keepdim=True)
        residual = torch.where(total > 0, residual / total, left)
        left = torch.where((tried & ~taken)[:, None], residual, left)
        left = torch.where(taken[:, None], p[:, node + 1], left)
    no_races = philox.requests(len(tokens), 0, 0, tokens.device)  # its numbers are given
    following, _ = races.in_two_rounds(left, no_races, philox.NEXT, uniforms[:, len(parents) :])
    return TreeVerification(row - 1, torch.where(fault == 0, following, -1), fault)


def _probabilities(z: Tensor, temperature: float) -> Tensor:
    """The softmax of logits [B, N + 1, V]; the greatest is taken off first, since a quotient by a
    small temperature may be beyond float32."""
    return ((z - z.amax(-1, keepdim=True)) / temperature).softmax(-1)


def _fault(probabilities: Tensor, bit: int) -> Tensor:
    """The status bit of rows [B, V] that are no distribution, int64 [B]."""
    return probabilities.isnan().any(-1) * bit


def _check(
    target: Tensor,
    draft: Tensor | None,
    tokens: Tensor,
    parents: Sequence[int],
    rule: object,
    temperature: float,
) -> None:
    """Refuse what does not fit."""
    if not isinstance(rule, (Exact, Coupled)):
        raise InputError(f"rule {rule!r}: a tree is verified by Exact() or Coupled()")
    check_temperature(temperature)
    nodes = len(parents)
    for node, parent in enumerate(parents):
        if not -1 <= parent < node:
            raise InputError(
                f"parents[{node}] is {parent}: a parent comes before its children; give -1 for the "
                f"text, or a number below {node}"
            )
    fits = target.dim() == 3 and tokens.dim() == 2 and nodes > 0
    fits = fits and target.shape[:2] == (len(tokens), nodes + 1) and tokens.shape[1] == nodes
    if not fits or (draft is not None and draft.shape != target.shape):
        shapes = [list(x.shape) for x in (target, draft, tokens) if x is not None]
        raise InputError(
            f"logits and tokens {shapes} do not fit a tree of {nodes} nodes; give "
            f"[B, {nodes + 1}, V] for each model and [B, {nodes}]"
        )
