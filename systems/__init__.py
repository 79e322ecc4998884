"""What every system of the testbed stands on. Nothing in here knows one of them.

Its folders, bottom first:

    processes   how processes and threads end, wait, and say why they failed
    clusters    the machines that a plan is made for
    profiles    what every layer of a model costs
    network     how ranks meet and send messages; emulated links
    runs        the record of a run, its checkpoints and traces
    figures     from records to figures and claims

Terms that all packages use:

    rank        one process of a run; also its number, from 0
    world       all ranks of a run; the world size is their number
    role        what a rank does in a run, such as "conv" or "fc"
    launcher    what starts the ranks: torchrun, mpirun, SLURM, ...
    job         everything that determines a run
    plan        who does what, as a planner has decided it
    record      the folder that a run leaves behind
    tier        how a number came about (measured, shaped, emulated, simulated): runs/record.py
"""
