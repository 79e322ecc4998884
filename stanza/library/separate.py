"""Makes of a model one that is trained by all ranks together."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from stanza.library.trained import Trained
from stanza.options import EQUAL, FcParallel, FcPlacement, Options
from stanza.train.recipe import Recipe
from stanza.workers.exchange import trainable
from stanza.workers.loss import Loss, summed
from stanza.workers.optimizers import OptimizerFactory, SchedulerFactory, check_factory, scheduled
from systems.arguments import named_as_arguments
from systems.network.joined import TIMEOUT_S, join
from systems.schema import InputError, remedy

Scheme = Literal["stanza", "ps", "ddp", "single"]
"""How training is distributed; see `stanza.options.Options.scheme`."""


def separate(
    model: nn.Module,
    *,
    optimizer: OptimizerFactory,
    loss: Loss | None = None,
    scheduler: SchedulerFactory | None = None,
    scheme: Scheme = "stanza",
    fc_workers: int | Literal["auto"] = "auto",
    micro_batches: int | Literal["auto"] = "auto",
    fc_parallel: FcParallel | Literal["auto"] = "replicas",
    fc_placement: FcPlacement | Literal["auto"] = "dedicated",
    ps_servers: int = 1,
    ps_mode: Literal["blocking", "pipelined"] = "blocking",
    ps_placement: Literal["dedicated", "colocated"] = "dedicated",
    batch_shares: Sequence[float] | None = None,
    cut_dtype: torch.dtype | None = None,
    clip_norm: float | None = None,
    seed: int = 0,
    image_shape: Sequence[int] | None = None,
    cluster: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    transport: Literal["torch", "nccl"] = "torch",
    timeout_s: float = TIMEOUT_S,
) -> Trained:
    """Take part in the training of `model` by all ranks. Every rank calls this alike.

    The process joins the other ranks if torch.distributed is not initialised, and uses its default
    process group if it is. The model is trained in place; it begins with the weights of rank 0. It
    maps images [b, C, H, W] to outputs of any structure, which the loss understands.

    Args:
        model: the network. Parameters that require no gradient stay as they are, and so do those
            that the loss does not reach in the first step.
        optimizer: makes a torch optimizer for some parameters. Each rank makes one for what it
            trains.
        loss: the mean loss over the samples, from outputs and targets, as torch's losses are. None
            is the cross entropy of logits [b, classes] and labels int64 [b].
        scheduler: makes the learning-rate schedule of an optimizer. It is stepped after every step.
        scheme: "stanza" separates the layers; "ps" uses parameter servers, "ddp" all-reduces
            gradients, and "single" trains on rank 0 alone.
        fc_workers: how many ranks train the FC part. "auto" measures the layers on rank 0 and the
            links between the ranks before the first step, and takes what is predicted to be
            fastest, which may be no separation.
        micro_batches: the number of parts in which a local batch crosses the cut; likewise.
        fc_parallel: how several FC workers share the FC part.
        fc_placement: whether FC workers have ranks of their own or are CONV workers as well.
        ps_servers: the number of parameter servers, where they are dedicated.
        ps_mode: whether gradients are pushed after the backward pass or during it.
        ps_placement: whether servers have ranks of their own or are beside every worker.
        batch_shares: a number for every rank; the samples of a batch are shared in proportion to
            them. Those of ranks without data are not read. None shares evenly.
        cut_dtype: what activations travel in. None is what the layers compute in.
        clip_norm: the largest Euclidean norm of the gradients of the whole model.
        seed: decides the order of the samples, and from the first step on the random numbers of
            this process, which differ between the ranks.
        image_shape: channels, height and width of an image. None takes those of the first sample
            of the loader.
        cluster: the preset or file of the cluster whose links "auto" plans with, instead of
            measuring.
        device: what this rank computes on. "auto" takes a GPU if there is one for each rank.
        transport: what carries messages. "torch" is gloo, from GPUs through the host's memory;
            "nccl" wants a GPU for every rank. Only the first call in a process says it.
        timeout_s: the longest wait for other ranks, at which the run ends. Rank 0 must evaluate
            within this time as well.

    Raises:
        InputError: an argument is of no use, or the model cannot be trained in this way. Some of
            that is found out in the first step.
        TimeoutError: ranks did not come.
    """
    if scheme not in get_args(Scheme):
        raise InputError(f"scheme={scheme}: no scheme; {remedy(scheme, get_args(Scheme))}")
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm={clip_norm:g}: give more than 0")
    if not trainable(model):
        raise InputError(f"model: no parameter of {type(model).__name__} requires a gradient")
    if not any(is_lazy(parameter) for parameter in model.parameters()):
        check_factory(optimizer, trainable(model))
    if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
        raise InputError(
            f"loss: {type(loss).__name__} has parameters of its own, which no rank would train; "
            "move them into the model"
        )
    with named_as_arguments():
        options = Options(
            scheme=scheme,
            fc_workers=fc_workers,
            micro_batches=micro_batches,
            fc_parallel=fc_parallel,
            fc_placement=fc_placement,
            ps_servers=ps_servers,
            ps_mode=ps_mode,
            ps_placement=ps_placement,
            batch_shares=EQUAL if batch_shares is None else ",".join(map(str, batch_shares)),
        )
    recipe = Recipe(
        optimizer=scheduled(optimizer, scheduler),
        loss_sum=summed(loss),
        clip_norm=clip_norm,
        cut_dtype=cut_dtype,
    )
    world = join(device, timeout_s, "nccl" if transport == "nccl" else "gloo")
    if isinstance(loss, nn.Module):
        loss.to(world.device)  # it may have weights of the classes
    return Trained(
        model,
        options,
        recipe,
        world,
        seed=seed,
        image_shape=image_shape,
        cluster=cluster,
        narrow_labels=loss is None,
    )
