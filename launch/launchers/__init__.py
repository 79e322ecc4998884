"""The programs that start the ranks of a run: torchrun, plain processes, MPI, DeepSpeed, SLURM."""
