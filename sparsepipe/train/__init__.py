"""Trains a sparse network: a file for each scheme, with a function for steps and one for results.

    one_process         train_in_one_process    summarize_one_process
    pipelined           train_in_pipeline       summarize_pipeline
    infer               infer_in_pipeline       summarize_inference
    emulated            emulate_pipeline        summarize_emulation
    deepspeed_baseline  train_with_deepspeed    summarize_deepspeed

The first function does this rank's part and yields a `systems.runs.record.Step` for every
mini-batch. The second makes the result of a run from the steps. The other files prepare what these
need: the workload, the stages, the schedule, the plan. The terms are defined in
`sparsepipe.schedule`.
"""
