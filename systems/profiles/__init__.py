"""What every layer of a model costs on one kind of device: measured, read, or waited for.

profile         seconds and bytes of every layer, at one batch size, on one kind of device
activation      the output of a layer, which the next layer reads
fixed part      the seconds of a layer that do not grow with the batch
emulated layer  a stand-in that waits as long as the profile says, and computes nothing
"""
