"""An audit of a verifier: is what it emits distributed as the target alone would be?

    from speculative.auditing.audit import audit

    print(audit(my_verifier))                       # or: testbed audit my_module:my_verifier

The terms, beside those of `speculative.verification`:

- Verifier: a function of target logits [B, G + 1, V], draft logits [B, G, V], draft tokens [B, G]
  and a `torch.Generator`, which returns what it decided (`verifier`).
- Output: the tokens that a verifier emits for one sequence, completed to G + 1 tokens by sampling
  from the target. If the verifier is exact, outputs are distributed as the target's own, whatever
  the rule is by which it accepts.
- Pair: two small table models, a target and a draft, whose outputs can be counted and whose
  distribution is known in closed form (`pairs`).
- Check: one question, and what was found (`checks`). Wrong verifiers go through the same checks as
  a control, so that "nothing found" says something (`control`).
"""
