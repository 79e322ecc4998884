"""What a run writes: its record, its steps, its checkpoints and its traces.

record      the folder of one run: its job, plan, steps and result
step        one update of the model (or one mini-batch, one evaluation), measured by every rank
checkpoint  everything that a run needs to go on: parameters, optimizer state, random state
sound       a checkpoint whose files have the sizes and checksums that its manifest lists
layout      world size and who had which role, in words
part        a rectangular piece of a tensor, with the offsets at which it begins
span        something that took time, in a trace: a name, a beginning and an end
"""
