"""The only command line of the testbed: `python -m launch`, or `testbed`.

How a run goes: a *job* is planned by its *system*; a *launcher* starts the *ranks*; every rank is a
*worker* process that does its part; what they did is in the *record*.

    testbed run -> system plans -> record folder -> launcher -> worker, worker, ... -> result.json

Words that all files here use in one meaning:

- job: everything that determines a run; a TOML file, flags, or both (`systems.job`, `launch.job`).
- record: the folder that a run leaves: job, plan, steps, result (`launch.records`).
- system: one published way to train or to decode, as an object with all that `launch` knows of it
  (`systems.system`). Installed packages offer systems (`launch.installed`).
- launcher: the program that starts the ranks, such as torchrun or mpirun (`launch.launchers`). A
  foreign launcher is one that the user called, instead of `testbed run`.
- rank: one of the processes that do a job together, and its number, from 0 on.
- worker: the command that a rank runs (`launch.ranks.worker`). In the systems, a worker is also the
  role of a rank that has the whole model.
- agent: torchrun's own process on a node, which starts that node's ranks and watches them.
- world: all ranks of a run, once they can reach each other; the world size is their number.
- tier: how a number was obtained: measured, shaped, emulated or simulated (`systems.runs.record`).
"""
