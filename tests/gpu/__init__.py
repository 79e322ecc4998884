"""What `make gpu` runs on a machine with an NVIDIA GPU: checks first, then times, in eight minutes.

    make gpu NAME=h200                  # writes results/gpu-h200.json and figures beside it
    make gpu NAME=h200 VENV=system      # with the torch that is there; nothing is installed
    make gpu DRY=1                      # the same lines on a CPU, with CUDA imitated, small sizes

Every part is a process of its own with a time limit of its own, the most valuable first. It prints
and keeps each row as it is found, so a part that is cut short or crashes leaves what it had. A
second call goes on with the parts that are not done.

- part: one subject, such as the times of verification (`tests.gpu.parts`).
- row: one finding of a part, a table of plain values; units stand in the names of its columns.
- scale: the sizes of everything; `tests.gpu.parts.FULL` for a GPU, `SMALL` for a dry run.
"""
