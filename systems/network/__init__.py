"""How ranks meet and send each other messages, and networks that are emulated on one machine.

store       a table of keys and values that all ranks reach; torch.distributed keeps it
master      the machine and port where the store is; rank 0 or torchrun's agent serves it
attempt     one start of all ranks; torchrun may start them again after a failure
channel     a stream of messages between two ranks that keeps their order
backend     what carries torch's messages: gloo between CPUs, NCCL between GPUs
loopback    the network interface by which a machine talks to itself
namespace   a network of its own inside the kernel, with its own interfaces and addresses
shaping     holding a link to a rate that is lower than the machine's own
"""
