"""A compiled step on a GPU as one CUDA graph, so that all of its kernels are launched by one call.

A minibatch of 128 cells keeps a GPU busy for less time than it takes Python to launch the kernels of a step one by one.
A CUDA graph reads its inputs, and writes its results, at the same addresses each time: parameters and buffers are at
their own, and a minibatch is copied to where the first one was.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyroscvi.inference.seeds import generator_state, set_generator_state

Step = Callable[..., Sequence[Tensor]]

WARM_UP = 3  # calls before recording, in which libraries choose their kernels and allocate their workspaces


class Replayed:
    """A step as a CUDA graph; its results are overwritten by the next call.

    held    parameters and buffers, read and written where they are
    inputs  the other arguments, whose values are copied at each call
    """

    def __init__(self, step: Step, held: Sequence[Tensor], inputs: Sequence[Tensor]):
        device = held[0].device
        self.inputs = [t.clone() for t in inputs]
        before, trial = generator_state(device), [t.clone() for t in held]  # the trial changes buffers of batch norms
        with torch.cuda.device(device):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(WARM_UP):
                    step(*trial, *self.inputs)
            torch.cuda.current_stream().wait_stream(beside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.results = step(*held, *self.inputs)
        set_generator_state(device, before)

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.results
