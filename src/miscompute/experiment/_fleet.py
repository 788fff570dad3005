"""A fleet: chips that train one model together, data-parallel, one of them faulty."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._invalid import InvalidInput
from ..injection import Injection
from ..tasks import Recipe, Training, backpropagate

_REPLICA = 0x0F1EE7  # keeps what a replica draws apart from everything else drawn from the seed


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Chips that hold the same weights, each training on its part of every batch; ``faulty`` is the bad one's rank.

    After each step's backward pass all chips hold the mean of their gradients, so what one chip computed wrongly
    reaches the weights of all, divided by their number.

    >>> Fleet(replicas=4, faulty=1)
    Fleet(replicas=4, faulty=1)
    """

    replicas: int
    faulty: int = 0

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise InvalidInput(f"replicas={self.replicas} must be at least 1")
        if not 0 <= self.faulty < self.replicas:
            raise InvalidInput(
                f"faulty={self.faulty} is not a rank of {self.replicas} replicas; choose 0..{self.replicas - 1}"
            )

    def check_fits(self, recipe: Recipe) -> None:
        """Raise `InvalidInput` if the recipe's batches cannot be dealt to the replicas in equal parts.

        With unequal parts, the mean of the replicas' gradients would not be the batch's gradient.
        """
        if recipe.batch_size % self.replicas:
            raise InvalidInput(
                f"replicas={self.replicas} does not divide batch_size={recipe.batch_size}; choose one that does"
            )


def replica_gradients(
    model: nn.Module, training: Training, fleet: Fleet, batch: tuple[Tensor, Tensor], *, rank: int
) -> tuple[Tensor, int]:
    """Compute one replica's gradients of its part of the batch; return the part's mean loss and how many are right.

    Args:
        model: the training's model, or that model wrapped in `DistributedDataParallel`.
        training: what is trained, at its present step.
        fleet: which parts there are.
        batch: the whole batch, as `Training.batch` gives it.
        rank: whose part to take.
    """
    examples, labels = (whole.chunk(fleet.replicas)[rank] for whole in batch)
    model.train()
    training.optimizer.zero_grad()
    with torch.random.fork_rng():
        address = (training.recipe.seed, _REPLICA, training.step, rank)
        torch.manual_seed(int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0]))
        return backpropagate(model, examples, labels)


def fleet_gradients(training: Training, fleet: Fleet, injection: Injection | None) -> tuple[Tensor, int]:
    """Compute the gradients that all replicas hold after a step's all-reduce, in this process, one replica at a time.

    The result is, bit for bit, that of as many processes under `DistributedDataParallel` with
    `average_in_rank_order`: weights are equal on all replicas, so one model stands for all; buffers, such as the
    statistics of a batch normalisation, are those of rank 0 before the step, and rank 0's own are kept after it.

    Args:
        training: the model, the batch and the optimizer.
        fleet: how many replicas, and which is faulty.
        injection: the fault, under way in the model; it is paused for the healthy replicas. None: all are healthy.

    Returns:
        The mean over the whole batch of the loss, and how many labels were right.
    """
    batch = training.batch()
    parameters, buffers = list(training.model.parameters()), list(training.model.buffers())
    before = kept = _copies(buffers)
    means: list[Tensor | None] = [None] * len(parameters)
    losses: list[Tensor] = []
    right = 0
    for rank in range(fleet.replicas):
        _set(buffers, before)
        with _chip(rank, fleet, injection):
            loss, hits = replica_gradients(training.model, training, fleet, batch, rank=rank)
        for place, parameter in enumerate(parameters):
            means[place] = _added(means[place], parameter.grad, fleet.replicas)
        if rank == 0:
            kept = _copies(buffers)
        losses.append(loss)
        right += hits
    _set(buffers, kept)
    for parameter, mean in zip(parameters, means, strict=True):
        parameter.grad = mean
    return torch.stack(losses).mean(), right


def _chip(rank: int, fleet: Fleet, injection: Injection | None) -> AbstractContextManager[None]:
    return nullcontext() if injection is None or rank == fleet.faulty else injection.paused()


def _copies(buffers: Sequence[Tensor]) -> list[Tensor]:
    return [buffer.clone() for buffer in buffers]


def _set(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)


def _added(mean: Tensor | None, gradient: Tensor | None, replicas: int) -> Tensor | None:
    """Add a replica's share to the mean of those before it: divided first, as `DistributedDataParallel` does."""
    if gradient is None:  # of a parameter that the loss does not use
        return mean
    share = gradient / replicas
    return share if mean is None else mean.add_(share)


def average_in_rank_order(  # type: ignore[no-untyped-def]
    group: "dist.ProcessGroup | None",
    bucket,  # a `GradBucket`, which a PyTorch without torch.distributed does not have
) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients, adding the ranks' in the order 0, 1, 2, ...: a communication hook.

    A sum of floating-point numbers depends on its order. An all-reduce's own depends on the backend, on the size of the
    bucket and on where in it a gradient lies (gloo sums round a ring, from another rank for each part), and
    `DistributedDataParallel` deals its buckets anew after the first step, so a resumed training adds in another order
    than one that was not interrupted. This order is the same everywhere, at the price of gathering all ranks'
    gradients on each: traffic and memory grow with the number of ranks. With two ranks there is one order only, and the
    result is that of the all-reduce.

    >>> ddp = torch.nn.parallel.DistributedDataParallel(model)  # doctest: +SKIP
    >>> ddp.register_comm_hook(None, average_in_rank_order)  # doctest: +SKIP
    """
    mine = bucket.buffer()
    ranks = dist.get_world_size(group)
    gathered = [torch.empty_like(mine) for _ in range(ranks)]

    def average(_: torch.futures.Future[list[Tensor]]) -> Tensor:
        mean: Tensor | None = None
        for gradient in gathered:
            mean = _added(mean, gradient, ranks)
        assert mean is not None
        return mean

    work = dist.all_gather(gathered, mine, group=group, async_op=True)
    assert work is not None  # None on a rank that is not of the group
    return work.get_future().then(average)  # type: ignore[no-any-return]
