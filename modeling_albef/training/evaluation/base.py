"""What the evaluations of all tasks share: precision, progress, and the division of work over processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ...configuration_albef import AlbefError
from ...products_albef import inference
from ..hardware import autocast, has_bfloat16_instructions, padding_left_out


@dataclass(eq=False)
class Evaluator:
    """Applies a model to a data set, on one process or many.

    What is computed together never depends on the number of processes, so neither does any bit of the result.
    """

    model: Any  # not wrapped
    processor: Any  # an `AlbefProcessor`
    _: KW_ONLY
    batch_size: int = 64  # rows that are encoded together
    num_workers: int = 0  # processes that read images
    loading: dict[str, Any] = field(default_factory=dict)  # further options of their `DataLoader`
    kept_loaders: dict[str, DataLoader] | None = None  # by what they read, for the next evaluation of the same data
    accelerator: Accelerator = field(default_factory=Accelerator)  # of the run; a new one finds other processes
    image_store: Callable[[Any], Any] | None = None  # gives rows `image_hidden_states` in place of their `image`

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Put the model into evaluation mode, without gradients, in the precision of the run; restore it afterwards.

        On a processor without instructions for bfloat16 the arithmetic is float32, of the same weights, which is faster
        there and more exact.
        """
        was_training = self.model.training
        is_emulated = self.model.device.type == "cpu" and not has_bfloat16_instructions()
        # not the state dict, which of a quantized model has more than tensors
        tensors = [*self.model.parameters(), *self.model.buffers()]
        types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
        is_raised = is_emulated and types == {torch.bfloat16}
        self.model.eval()
        if is_raised:
            self.model.float()
        try:
            precision = contextlib.nullcontext() if is_emulated else autocast(self.accelerator)
            with torch.inference_mode(), inference(), precision, padding_left_out(self.model):
                yield
        finally:
            if is_raised:  # exact: the weights were bfloat16 numbers
                self.model.bfloat16()
            self.model.train(was_training)

    def load(self, dataset: Any, batches: Sequence[list[int]], collate: Any, kept_as: str | None = None) -> DataLoader:
        """Return rows of a data set, batch by batch.

        With `kept_as`, and where there are `kept_loaders`, it is the one that was kept by this name for these batches,
        whose worker processes are still there; a new one is kept.
        """
        if self.processor is None:
            raise AlbefError("The evaluation needs an AlbefProcessor: give it to the trainer as processing_class.")
        is_pinned = self.model.device.type == "cuda"
        options: dict[str, Any] = {"num_workers": self.num_workers, "pin_memory": is_pinned, **self.loading}
        kept = self.kept_loaders if kept_as is not None and options["num_workers"] else None
        if kept is None:
            return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, **options)
        loader = kept.get(str(kept_as))
        if loader is None or loader.batch_sampler != batches:
            # with its own seeds, so that a training draws the same numbers whether a loader is new or kept
            options |= {"persistent_workers": True, "generator": torch.Generator()}
            loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collate, **options)
            kept[str(kept_as)] = loader
        return loader

    def own_batches(
        self, dataset: Any, batches: Sequence[list[int]], collate: Any, description: str
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield the rows of each batch that is this process's, and the model's inputs for them, on its device."""
        own = batches[self.accelerator.process_index :: self.accelerator.num_processes]
        loader = self.load(dataset, own, collate, kept_as=description)
        for batch, inputs in zip(own, progress(loader, description), strict=True):
            yield batch, {name: tensor.to(self.model.device, non_blocking=True) for name, tensor in inputs.items()}

    def sum_over_processes(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over the processes; each entry is zero on all but one."""
        return self.accelerator.reduce(tensor.to(self.accelerator.device), "sum").cpu()

    def fill_from_processes(self, tensor: torch.Tensor) -> None:
        """Fill in, in place, what the other processes computed; each entry has only zero bits on all but one.

        The sum is one of whole numbers of four bytes, so that every number is copied to the bit.
        """
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(tensor.view(torch.int32))

    @property
    def share(self) -> tuple[int, int]:
        """Which process this is, and of how many."""
        return self.accelerator.process_index, self.accelerator.num_processes


def to_device(tensors: Sequence[torch.Tensor], device: torch.device) -> Sequence[torch.Tensor]:
    """Return one-dimensional tensors of one type on a device, in one copy that the host does not wait for."""
    if device.type == "cpu":
        return tensors
    joined = torch.cat(list(tensors))
    joined = joined.pin_memory() if device.type == "cuda" else joined
    return joined.to(device, non_blocking=True).split([len(tensor) for tensor in tensors])


def progress(items: Any, description: str) -> Any:
    """Return the same items, with a progress bar on the first process if it writes to a terminal."""
    return tqdm(items, description, leave=False, disable=None if PartialState().is_main_process else True)


def balance_load(loads: Sequence[int], owners: Sequence[int], num_processes: int) -> list[int]:
    """Return the process of each piece of work (loads, owners), so that all have about as much.

    The largest first, each goes to its owner, which has done a part of it, as long as that has room for it, else to the
    process with least to do.
    """
    room, taken, assigned = sum(loads) / num_processes, [0] * num_processes, list(owners)
    for piece in sorted(range(len(loads)), key=lambda piece: -loads[piece]):
        if taken[owners[piece]] + loads[piece] > room:
            assigned[piece] = min(range(num_processes), key=taken.__getitem__)
        taken[assigned[piece]] += loads[piece]
    return assigned
