"""Time and memory of sparse convolution, measured for several engines side by side.

engine       who computes: native (ours), pytorch (our maps, PyTorch's operators), minkowski,
             spconv, torchsparse, dense; and gemm, a yardstick: matrix products of as many
             operations
task         voxels, and what is computed on them: a layer, a network, or kernel maps alone
pass         the task once, such as a training step; its parts are forward and backward
turn         what an engine does before the next one's turn: a pass, or several short ones
contest      one task for several engines, which take turns
contestant   one engine at work in a process of its own
"""
