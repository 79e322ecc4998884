"""Puts our verification inside transformers' own assisted generation.

    import speculative

    with speculative.assisted(model) as statistics:  # or assisted(model, rule=Sigmoid())
        model.generate(**inputs, assistant_model=draft, do_sample=True)
    statistics.acceptance_rate, statistics.accepted_by_position, statistics.target_steps

Inside the context the model is of a subclass of its class, whose assisted decoding calls our
verification when it samples, and counts what is accepted in any case. Greedy decoding compares
tokens and stays transformers'. Nothing outside the model is changed. Decoder-only, T5-like and
Whisper models work, with transformers 4.57 or newer. The loop stays transformers': batch 1, and a
draft that stops when it is unsure, unless `draft.generation_config` says otherwise:

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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from speculative.decoding.generation import Statistics
from speculative.verification.rules import EXACT, Exact, Rule, check_rule
from speculative.verification.status import TARGET_LOGITS, LogitsError, explain
from speculative.verification.verify import verify
from speculative.verification.vocabulary import vocabulary
from systems.schema import InputError

REPLACED = "_speculative_sampling"
"""The function of transformers that verifies, a global of its `_assisted_decoding`."""
REQUIRED = {"candidate_input_ids", "candidate_logits", "candidate_length", "new_logits"}
OPTIONAL = {"is_done_candidate", "assistant_ensemble_weight"}
"""The arguments that the function has in all versions, and those that it has in some."""
REFUSED = {
    "prompt_lookup_num_tokens": "drafts without a draft model",
    "assistant_early_exit": "drafts with the target itself",
    "use_mtp": "drafts with the target itself",
    "custom_generate": "leaves assisted decoding",
    "assistant_ensemble_weight": "mixes the draft into the target's distribution",
    "guidance_scale": "keeps a state that rejected draft tokens would spoil",
    "num_beams": "leaves assisted decoding",
}
"""The arguments of generate(), or entries of a generation config, that would go past our
verification or that it does not have, with what they do."""
NEUTRAL: dict[str, Any] = {"guidance_scale": 1, "num_beams": 1}
"""The values besides None and False that change nothing."""


@contextlib.contextmanager
def assisted(model: Any, *, rule: Rule = EXACT, seed: int | None = None) -> Iterator[Statistics]:
    """Let `model.generate(..., assistant_model=draft, do_sample=True)` verify with `verify`.

    Args:
        model: the target, a transformers model that can generate.
        rule: when a draft token is accepted (`speculative.verification.rules`). Greedy decoding
            compares tokens and takes the exact one only.
        seed: decides the random numbers of verification. None: the seed is drawn from torch's
            generator, so that `torch.manual_seed` decides all. The draft samples with that
            generator in any case.

    Yields:
        How often draft tokens were accepted in all calls inside the context, as it grows.

    Raises:
        InputError: an option is out of range, or the model or the version of transformers does not
            fit. Inside generate(): an option would leave our verification out or is not honoured by
            it, or the draft has another vocabulary.
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
    statistics = Statistics()
    model.__class__ = _subclass(cls, decoding, rule, statistics)
    try:
        yield statistics
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
            "use speculative.generate, or another version"
        )
    offset = 0  # how many places of the random numbers were used so far

    def verified(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
        nonlocal offset
        bound = signature.bind(*arguments, **named).arguments
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


def _subclass(cls: type, decoding: Any, rule: Rule, statistics: Statistics) -> type:
    """A subclass that decodes with `decoding`, counts what is accepted, and refuses options that
    would go past our verification."""
    signature = inspect.signature(decoding)

    # transformers reads the signatures of these methods to see which options are theirs.
    @functools.wraps(cls.generate)  # type: ignore[attr-defined]
    def generate(self: Any, *arguments: Any, **named: Any) -> Any:
        given = dict(zip(("inputs", "generation_config"), arguments, strict=False)) | named
        config = given.get("generation_config") or self.generation_config
        _refuse({name: getattr(config, name, None) for name in REFUSED} | named)
        draft = named.get("assistant_model")
        if draft is None:
            raise InputError("generate: nothing to verify; give assistant_model=draft")
        if vocabulary(draft) != vocabulary(self):
            raise InputError(
                f"assistant_model: has {vocabulary(draft)} tokens, the target {vocabulary(self)}; "
                "transformers wants one vocabulary, speculative.generate takes both"
            )
        return cls.generate(self, *arguments, **named)  # type: ignore[attr-defined]

    @functools.wraps(decoding)
    def _assisted_decoding(self: Any, *arguments: Any, **named: Any) -> Any:
        bound = signature.bind(self, *arguments, **named).arguments
        config = bound["generation_config"]
        _refuse({name: getattr(config, name, None) for name in REFUSED})
        if not config.do_sample and not isinstance(rule, Exact):
            raise InputError(
                f"do_sample=False: greedy decoding compares tokens and has no rule {rule.name}; "
                "give do_sample=True (for Whisper also temperature=1.0), or leave the rule out"
            )
        if bound.get("assistant_tokenizer") is not None:
            raise InputError(
                "assistant_tokenizer: target and draft must share one vocabulary; leave it out"
            )
        return decoding(self, *arguments, **named)

    @functools.wraps(cls._get_candidate_generator)  # type: ignore[attr-defined]
    def _get_candidate_generator(self: Any, *arguments: Any, **named: Any) -> Any:
        return _counted(
            cls._get_candidate_generator(self, *arguments, **named),  # type: ignore[attr-defined]
            statistics,
        )

    methods = {
        "generate": generate,
        "_assisted_decoding": _assisted_decoding,
        "_get_candidate_generator": _get_candidate_generator,
    }
    return type(cls.__name__, (cls,), {"__module__": cls.__module__, **methods})


def _refuse(options: Mapping[str, Any]) -> None:
    """Refuse options of generate() that our verification does not honour, with their names."""
    for name, what in REFUSED.items():
        value = options.get(name)
        if value is not None and value is not False and value != NEUTRAL.get(name):
            raise InputError(
                f"{name}: {what}, which is not with our verification; leave it out and give "
                "assistant_model alone"
            )


def _counted(generator: Any, statistics: Statistics) -> Any:
    """transformers' object that makes drafts, which now also counts what becomes of them.

    Raises:
        LogitsError: from the object, if the token after the accepted ones was chosen by logits that
            are at fault. Greedy decoding would not notice them.
    """
    get, update = generator.get_candidates, generator.update_candidate_strategy
    before, drafted = 0, torch.empty(0)

    def get_candidates(input_ids: Tensor, *arguments: Any, **named: Any) -> Any:
        nonlocal before, drafted
        candidates, logits = get(input_ids, *arguments, **named)
        before = input_ids.shape[1]
        drafted = candidates[0, before:]
        return candidates, logits

    def update_candidate_strategy(input_ids: Tensor, scores: Tensor, num_matches: Any) -> Any:
        new = input_ids[0, before:]
        count = min(len(new), len(drafted))
        accepted = int((new[:count] == drafted[:count].to(new.device)).cumprod(0).sum())
        statistics.count(new=len(new), proposed=len(drafted), accepted=accepted)
        if not scores[0, : accepted + 1].amax(-1).isfinite().all():
            raise LogitsError(explain(TARGET_LOGITS))
        return update(input_ids, scores, num_matches)

    generator.get_candidates = get_candidates
    generator.update_candidate_strategy = update_candidate_strategy
    return generator
