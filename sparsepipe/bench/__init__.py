"""Time and memory of sparse convolution, measured for several engines side by side.

engine       a library that computes convolutions: native (ours), minkowski, spconv, dense
task         the work: voxels, features, and one convolution or one network
pass         the task once, forward and backward
contest      one task for several engines, which take turns pass by pass
contestant   one engine at work in a process of its own
"""
