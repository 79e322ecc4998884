"""Puts our verification inside transformers' own assisted generation.

    from speculative.decoding.assisted import assisted

    with assisted(model):  # or assisted(model, rule=Sigmoid())
        model.generate(**inputs, assistant_model=draft, do_sample=True)

Inside the context the model is of a subclass of its class, whose assisted decoding calls our
verification. Nothing outside the model is changed. Decoder-only, T5-like and Whisper models work,
with transformers 4.57 or newer. The loop stays transformers': batch 1, and a draft that stops when
it is unsure, unless `draft.generation_config` says otherwise:

    draft.generation_config.update(
        num_assistant_tokens=4,                    # gamma
        num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0.0,        # never stop early
    )

Whisper samples only if `temperature` is given and above 0.
"""

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from speculative.verification.rules import EXACT, Rule, check_rule
from speculative.verification.status import LogitsError, explain
from speculative.verification.verify import verify
from speculative.verification.vocabulary import vocabulary
from systems.schema import InputError

REPLACED = "_speculative_sampling"
"""The function of transformers that verifies, a global of its `_assisted_decoding`."""
REQUIRED = {"candidate_input_ids", "candidate_logits", "candidate_length", "new_logits"}
OPTIONAL = {"is_done_candidate", "assistant_ensemble_weight"}
"""The arguments that the function has in all versions, and those that it has in some."""
REFUSED = ("prompt_lookup_num_tokens", "assistant_early_exit", "custom_generate", "use_mtp")
"""The arguments of generate() that make drafts without logits, or leave assisted decoding."""


@contextlib.contextmanager
def assisted(model: Any, *, rule: Rule = EXACT, seed: int | None = None) -> Iterator[Any]:
    """Let `model.generate(..., assistant_model=draft, do_sample=True)` verify with `verify`.

    Args:
        model: the target, a transformers model that can generate.
        rule: when a draft token is accepted (`speculative.verification.rules`).
        seed: decides the random numbers of verification. None: the seed is drawn from torch's
            generator, so that `torch.manual_seed` decides all. The draft samples with that
            generator in any case.

    Yields:
        The model.

    Raises:
        InputError: an option is out of range, or the model or the version of transformers does not
            fit. Inside generate(): an option would leave our verification out, or the draft has
            another vocabulary.
        LogitsError: inside generate(), if logits are NaN or infinite.
    """
    check_rule(rule)
    if seed is not None and not hasattr(seed, "__index__"):
        raise InputError(f"seed {seed!r}: give an integer, or None for torch's generator")
    cls = type(model)
    original = inspect.unwrap(getattr(cls, "_assisted_decoding", lambda: None))
    replaced = original.__globals__.get(REPLACED)
    if replaced is None:
        raise InputError(
            f"{cls.__name__}: has no assisted decoding that verifies; give a transformers model "
            "that can generate, of transformers 4.57 or newer"
        )
    if seed is None:
        seed = int(torch.randint(2**62, ()).item())
    decoding = _rebuilt(original, {REPLACED: _verifier(replaced, rule, seed)})
    model.__class__ = _subclass(cls, decoding)
    try:
        yield model
    finally:
        model.__class__ = cls


def _verifier(
    replaced: Callable[..., Any], rule: Rule, seed: int
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Make a stand-in for transformers' function, which takes its arguments in any version's order.

    Raises:
        InputError: the function has arguments that no version was seen to have.
    """
    signature = inspect.signature(replaced)
    names = set(signature.parameters)
    if not REQUIRED <= names <= REQUIRED | OPTIONAL:
        raise InputError(
            f"this transformers' {REPLACED}({', '.join(signature.parameters)}) is unknown; "
            "use speculative.decoding.decode.generate, or another version"
        )
    offset = 0  # how many places of the random numbers were used so far

    def verified(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
        nonlocal offset
        bound = signature.bind(*arguments, **named).arguments
        if bound.get("assistant_ensemble_weight") is not None:
            raise InputError("assistant_ensemble_weight: our verification has none; leave it out")
        gamma = bound["candidate_length"]
        draft_tokens = bound["candidate_input_ids"][:, -gamma:]
        target, draft = bound["new_logits"], bound["candidate_logits"]
        common = torch.promote_types(target.dtype, draft.dtype)
        accepted, token, status = verify(
            target.to(common), draft.to(common), draft_tokens, rule=rule, seed=seed, offset=offset
        )
        offset = (offset + gamma + 1) % 2**32
        n, fault = int(accepted), int(status)
        if fault:
            raise LogitsError(explain(fault))
        if bound.get("is_done_candidate") and n == gamma:  # the draft has ended the text
            return draft_tokens, accepted[0] - 1
        return torch.cat([draft_tokens[:, :n], token[:, None]], 1), accepted[0]

    return verified


def _rebuilt(function: Any, replacements: dict[str, Any]) -> Any:
    """A copy of a function that sees other values of some of its module's globals."""
    rebuilt = types.FunctionType(
        function.__code__,
        {**function.__globals__, **replacements},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    rebuilt.__kwdefaults__ = function.__kwdefaults__
    return rebuilt


def _subclass(cls: type, decoding: Any) -> type:
    """A subclass that decodes with `decoding` and refuses options that would go past it."""
    signature = inspect.signature(decoding)

    # transformers reads the signatures of both methods to see which options are theirs.
    @functools.wraps(cls.generate)  # type: ignore[attr-defined]
    def generate(self: Any, *arguments: Any, **named: Any) -> Any:
        for name in REFUSED:
            if named.get(name):
                raise InputError(f"{name}: not with our verification; give assistant_model alone")
        draft = named.get("assistant_model")
        if draft is None:
            raise InputError("generate: nothing to verify; give assistant_model=draft")
        if vocabulary(draft) != vocabulary(self):
            raise InputError(
                f"assistant_model: has {vocabulary(draft)} tokens, the target {vocabulary(self)}; "
                "transformers wants one vocabulary, speculative.decoding.decode.generate takes both"
            )
        return cls.generate(self, *arguments, **named)  # type: ignore[attr-defined]

    @functools.wraps(decoding)
    def _assisted_decoding(self: Any, *arguments: Any, **named: Any) -> Any:
        bound = signature.bind(self, *arguments, **named).arguments
        if not bound["generation_config"].do_sample:
            raise InputError(
                "do_sample=False: greedy decoding verifies nothing; give do_sample=True "
                "(for Whisper also temperature=1.0)"
            )
        if bound.get("assistant_tokenizer") is not None:
            raise InputError(
                "assistant_tokenizer: target and draft must share one vocabulary; leave it out"
            )
        return decoding(self, *arguments, **named)

    methods = {"generate": generate, "_assisted_decoding": _assisted_decoding}
    return type(cls.__name__, (cls,), {"__module__": cls.__module__, **methods})
