"""Verification of draft tokens: the operator, its compiled kernels, and its reference.

The terms, as all files of this package use them:

- Target: the large model, whose texts are wanted. Its next-token distribution at a position is p,
  its logits z.
- Draft: the small model, which proposes tokens. Its distribution is q, its logits y.
- Draft token: a token that was sampled from q. Gamma (G in shapes) is the number of draft tokens
  in a step; a sequence may have fewer, its length.
- Vocabulary: the tokens that both models share; V in shapes is how many. B is the batch.
- Verification: the decision how many draft tokens of a sequence stay, in their order, and which
  token follows them.
- Acceptance: a draft token stays if a uniform random number is below its ratio, p(x) / q(x) in
  exact verification. The first one that is rejected ends the step; those after it are dropped.
- Residual distribution: what the token after a rejection is sampled from, max(0, p - q) in exact
  verification, normalised. It makes up for what acceptance takes too seldom from p.
- Bonus token: the token after a step whose draft tokens were all accepted. It is sampled from p.
- Next token: the residual's token or the bonus token. Every step emits exactly one.
- Rule: what stands for the ratio and the residual: exact, or an approximation (`rules`).
- Uniform: a random number between 0 and 1. Uniforms are counted, not drawn in order (`philox`).
- Status: why a sequence got no next token; 0 if it got one (`status`).

One step with gamma 4, of which two draft tokens are accepted:

    text      the quick |  brown   fox    ran    far     draft tokens
    target      p0 ->   |  brown                         u0 < ratio: accepted
                p1 ->   |          fox                   u1 < ratio: accepted
                p2 ->   |                 rejected       the next token comes from the residual at 2
    emitted             |  brown   fox    jumps
"""

CAUTION = 4.0
"""How many times worse the calibrated rule takes a wrong distribution to be than a lost acceptance
of the same size."""
