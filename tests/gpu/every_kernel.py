"""Every kernel of verification once, on small inputs: for compute-sanitizer, and for profilers.

compute-sanitizer python -m tests.gpu.every_kernel
ncu python -m tests.gpu.every_kernel 1x8x128256 64x8x128256       # batch x gamma x vocabulary
"""

import sys

from speculative import bench
from speculative.experiments.agreement import RULES
from speculative.verification.filters import Filters
from speculative.verification.verify import sample, verify

SIZES = ("1x2x4099", "3x8x5003", "16x2x2050", "40x3x1027")


def main(sizes: list[str]) -> None:
    """Verify drafts of all sizes by all rules, and sample from rows of logits."""
    for size in sizes or SIZES:
        batch, gamma, vocabulary = map(int, size.split("x"))
        for dtype in ("float32", "bfloat16"):
            case = bench.Case(
                vocabulary=vocabulary,
                gamma=gamma,
                batch=batch,
                dtype=dtype,
                device="cuda",
                threads=1,
            )
            target, draft, tokens = bench.inputs(case, seed=1)
            for rule in RULES:
                decided = verify(target, draft, tokens, rule=rule, seed=3)
                assert not decided.status.any(), decided
                if dtype == "float32":
                    few = Filters(top_k=20, top_p=0.9, min_p=0.001)
                    scores = target.new_empty(batch, gamma + 1)
                    decided = verify(
                        target,
                        draft,
                        tokens,
                        rule=rule,
                        filters=few,
                        seed=3,
                        log_probabilities=scores,
                    )
                    assert not decided.status.any(), decided
                    assert int(scores.isfinite().sum()) == int(decided.accepted.sum()) + batch
            sample(target[:, 0], seed=1)
    print("every kernel has run")


if __name__ == "__main__":
    main(sys.argv[1:])
