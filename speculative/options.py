"""Flags and job-file keys of speculative sampling: `--speculative.gamma 8` is `gamma = 8`."""

from dataclasses import dataclass
from typing import Literal

from speculative.decoding.sampling import Sampling
from speculative.verification import CAUTION
from speculative.verification.calibration import Observed
from speculative.verification.rules import Block, Coupled, Exact, Rule, Sigmoid
from systems.schema import InputError, filled_in

Task = Literal["summarize", "transcribe", "pronounce"]
LOOKUP = "lookup"
"""The draft that is no model."""
Helped = Literal["exact", "block", "coupled", "sigmoid", "calibrated", "none"]
APPROXIMATIONS = ("sigmoid", "calibrated")
DEFAULT_DATA: dict[Task, str] = {
    "summarize": "installed",
    "transcribe": "recordings",
    "pronounce": "cmudict",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the evaluation of a pair of models on a task."""

    task: Task = "summarize"
    """summarize (ROUGE), transcribe (word error rate) or pronounce (phone error rate)."""
    target: str = "runs/pairs/{task}/target"
    """A folder that `testbed train-pair` has written, or a checkpoint's name on the hub."""
    draft: str = "runs/pairs/{task}/draft"
    """The same, for the smaller model with the same tokenizer. lookup: no model; drafts are what
    followed the last tokens where they stood before."""
    method: Helped = "exact"
    """exact: tokens are distributed as if sampled from the target. block: the same, and more draft
    tokens are accepted. coupled: the same, and the seed alone decides the tokens, whatever the
    draft. sigmoid: the approximation, mostly the draft's distribution. calibrated: an approximation
    near the target's, fitted to the pair on training samples first. none: the target alone."""
    gamma: int = 4
    """How many tokens the draft proposes a step."""
    adaptive: bool = False
    """Whether a step may have fewer than gamma, as pays. Sampled texts then depend on how fast the
    machine is."""
    alpha: float = -1e4
    """sigmoid: the lower limit; a logit z weighs sigmoid((z - alpha) / (beta - alpha))."""
    beta: float = 1e4
    """sigmoid: the upper limit."""
    caution: float = CAUTION
    """calibrated: more of it trades acceptance for closeness to the target."""
    calibration_samples: int = 64
    """calibrated: how many training samples the method is fitted on."""
    temperature: float = 1.0
    """Divides the logits of both models. 0: greedy decoding, for methods exact and none."""
    top_k: int = 0
    """Sample among so many likeliest tokens. 0: all. 1: greedy decoding."""
    top_p: float = 1.0
    """Sample among the fewest likeliest tokens that have this much probability. 1: all."""
    min_p: float = 0.0
    """Sample among tokens that have this share of the likeliest one's probability. 0: all."""
    data: str | None = None
    """summarize: stdlib, installed or jsonl:PATH[,DOCUMENT,SUMMARY]. transcribe: recordings[:PATH],
    espeak or folder:PATH (LibriSpeech layout). pronounce: cmudict or dict:PATH. None: installed,
    recordings, or cmudict."""
    samples: int = 200
    """How many test samples to evaluate on."""
    batch_size: int = 16
    """How many sequences are decoded together."""
    max_new_tokens: int = 32
    """The longest output, in tokens."""
    prompt: str = "{document}"
    """summarize: the text that a model reads, e.g. 'summarize: {document}' for Flan-T5."""
    max_document_tokens: int | None = None
    """summarize: longer prompts are cut at their end. None: the tokenizer's limit."""

    def __post_init__(self) -> None:
        for name in (
            "gamma",
            "samples",
            "batch_size",
            "max_new_tokens",
            "max_document_tokens",
            "calibration_samples",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = name.replace("_", "-")
                raise InputError(f"--speculative.{flag} {value}: give 1 or more")
        if self.looks_up and self.method in APPROXIMATIONS:
            raise InputError(
                f"--speculative.method {self.method}: compares the logits of two models, and "
                "--speculative.draft lookup has none; give exact, block, coupled or none"
            )
        if not float("-inf") < self.alpha < self.beta < float("inf"):
            below = f"--speculative.beta {self.beta:g}"
            raise InputError(f"--speculative.alpha {self.alpha:g}: give less than {below}")
        if not 0 < self.caution < float("inf"):
            raise InputError(f"--speculative.caution {self.caution:g}: give more than 0")
        if "{document}" not in self.prompt:
            raise InputError(f"--speculative.prompt {self.prompt!r}: must contain {{document}}")
        try:
            greedy = self.sampling().greedy
        except InputError as error:
            raise InputError(f"--speculative.{str(error).replace('_', '-', 1)}") from None
        if greedy and self.method not in ("exact", "none"):
            raise InputError(
                f"--speculative.method {self.method}: greedy decoding (temperature 0 or top-k 1) "
                "compares tokens and has no other rule; give exact or none"
            )

    def sampling(self) -> Sampling:
        """How tokens are sampled."""
        return Sampling(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p
        )

    def rule(self, observed: Observed) -> Rule:
        """The rule that verification takes. For method none, which verifies nothing, it is exact.

        Args:
            observed: draft tokens of the pair, to which the calibrated method is fitted. The other
                methods do not read them.
        """
        if self.method == "sigmoid":
            return Sigmoid(alpha=self.alpha, beta=self.beta)
        if self.method == "calibrated":
            return observed.fit(self.caution)
        exact: dict[str, Rule] = {"block": Block(), "coupled": Coupled()}
        return exact.get(self.method, Exact())

    @property
    def looks_up(self) -> bool:
        """Whether drafts come without a model."""
        return self.draft == LOOKUP

    @property
    def target_path(self) -> str:
        """The target's folder or name, with the task filled in."""
        return filled_in(self.target, task=self.task)

    @property
    def draft_path(self) -> str:
        """The draft's folder or name, with the task filled in."""
        return filled_in(self.draft, task=self.task)
