"""Our verification inside transformers' own assisted generation.

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
KNOWN = {"candidate_input_ids", "candidate_logits", "candidate_length", "new_logits"}
OPTIONAL = {"is_done_candidate", "assistant_ensemble_weight"}
"""Arguments of that function in all versions, and in some."""
REFUSED = ("prompt_lookup_num_tokens", "assistant_early_exit", "custom_generate", "use_mtp")
"""Arguments of generate() that make drafts without logits, or leave assisted decoding."""


@contextlib.contextmanager
def assisted(
    model: Any,
    *,
    rule: Rule = EXACT,
    seed: int | None = None,
) -> Iterator[Any]:
    """Let `model.generate(..., assistant_model=draft, do_sample=True)` verify with `verify`.

    Args:
        model: the target, a transformers model that can generate.
        rule: when a draft token is accepted (`speculative.verification.rules`).
        seed: of the verification; None: drawn from torch's generator, so that
            `torch.manual_seed` decides all. The draft samples with that generator in any case.

    Yields:
        The model.

    Raises:
        InputError: options out of range, a model or a transformers that this does not fit; later,
            inside generate(), an option that would leave our verification out, or a draft of
            another vocabulary.
        LogitsError: inside generate(), NaN or infinite logits.
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
    """A stand-in for transformers' function, whatever order its version gives arguments in."""
    signature = inspect.signature(replaced)
    names = set(signature.parameters)
    if not KNOWN <= names <= KNOWN | OPTIONAL:
        raise InputError(
            f"this transformers' {REPLACED}({', '.join(signature.parameters)}) is unknown; "
            "use speculative.decoding.decode.generate, or another version"
        )
    offset = 0  # random numbers used so far

    def verified(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
        nonlocal offset
        given = signature.bind(*arguments, **named).arguments
        if given.get("assistant_ensemble_weight") is not None:
            raise InputError("assistant_ensemble_weight: our verification has none; leave it out")
        gamma = given["candidate_length"]
        drafted = given["candidate_input_ids"][:, -gamma:]
        target, draft = given["new_logits"], given["candidate_logits"]
        common = torch.promote_types(target.dtype, draft.dtype)
        accepted, token, status = verify(
            target.to(common),
            draft.to(common),
            drafted,
            rule=rule,
            seed=seed,
            offset=offset,
        )
        offset = (offset + gamma + 1) % 2**32
        n, fault = int(accepted), int(status)
        if fault:
            raise LogitsError(explain(fault))
        if given.get("is_done_candidate") and n == gamma:  # the draft has ended the text
            return drafted, accepted[0] - 1
        return torch.cat([drafted[:, :n], token[:, None]], 1), accepted[0]

    return verified


def _rebuilt(function: Any, replacements: dict[str, Any]) -> Any:
    """The same function with globals of its own, some of them replaced."""
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
    """A subclass that decodes with `decoding` and refuses what would go past it."""
    signature = inspect.signature(decoding)

    # transformers reads the signatures of both to see what belongs to them: hence wraps.
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
        given = signature.bind(self, *arguments, **named).arguments
        if not given["generation_config"].do_sample:
            raise InputError(
                "do_sample=False: greedy decoding verifies nothing; give do_sample=True "
                "(for Whisper also temperature=1.0)"
            )
        if given.get("assistant_tokenizer") is not None:
            raise InputError(
                "assistant_tokenizer: target and draft must share one vocabulary; leave it out"
            )
        return decoding(self, *arguments, **named)

    methods = {"generate": generate, "_assisted_decoding": _assisted_decoding}
    return type(cls.__name__, (cls,), {"__module__": cls.__module__, **methods})
