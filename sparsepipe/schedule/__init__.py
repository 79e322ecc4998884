"""Schedules as data: the list of actions of every rank, what they cost, and a simulator for them.

Glossary, for this wing, `sparsepipe.planner`, `sparsepipe.runtime` and `sparsepipe.train`:

- A **stage** is a run of consecutive layers that one rank executes as a unit. Its **cuts** are the
  places before its first layer and after its last.
- A **rank** is one process with one device. A **replica** of a stage is one of the ranks that hold
  it; the replicas divide the samples of every mini-batch among them. The **share** of a replica is
  the part of the samples that it takes: a fast device has a larger share than a slow one.
- A **mini-batch** is the samples that one update of the weights is computed from. A
  **micro-batch** is a part of a mini-batch that passes through the pipeline by itself.
- **Virtual stages** (or interleaved stages): a rank holds several stages and takes turns at them.
- An **activation** crosses a cut going forward, a **gradient** crosses it going back.
- A **flush**: the pipeline runs empty before the weights are updated. In the **steady state** it
  neither fills nor drains.
- A mini-batch is **in flight** at a stage from its forward pass until its backward pass.
- A **weight version** of a stage is its weights after some number of updates. **Weight stashing**:
  a stage keeps the older versions that mini-batches in flight have met in their forward pass, and
  uses the same version in their backward pass.
- **GPipe**, **1F1B** and asynchronous 1F1B are kinds of schedules, explained in
  `sparsepipe.schedule.lists`. "1F1B" says that a stage alternates: one forward, one backward.
- The **all-reduce** of a stage sums its gradients over its replicas.
"""
