"""Forward passes of fixed shape that run without the host in between: one pass, and a chain of drafted tokens.

Knows nothing of weights or attention: it is given `logits_of`, a pass over `RowInputs`. On a CUDA device a step is
captured as a graph when it is made, and a call replays it; elsewhere a call runs the same operations. What a step reads
and writes lies in tensors of its own, so that its graph is the same for every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from autodraft.runtime.choosing import Candidates, ChainStop, ChoiceNoise
from autodraft.runtime.rows import Rows
from autodraft.runtime.torch_rows import RowInputs

LogitsOf = Callable[[RowInputs], Tensor]
_WARM_UPS = 2
_UNCHECKED = 4


class Capture:
    """Makes steps callable; the graphs of one device share their memory.

    Attributes:
        unchecked: tokens that a chain drafts before the host looks whether it should have ended: several where looking
            means waiting for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.unchecked = _UNCHECKED if device.type == "cuda" else 1
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work`, which is run a few times where it has to be captured, and changes nothing that others read."""
        if self._device.type != "cuda":
            return work
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):  # kernels are chosen and compiled, workspaces allocated, outside of the graph
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        return graph.replay


class ForwardStep:
    """One forward pass over a fixed number of rows.

    Args:
        logits_of: the pass. -> float32 [rows, vocab]
        inputs: read by it; all padding until filled.
        vocab_size: of the logits.
        capture: see there.
    """

    def __init__(self, logits_of: LogitsOf, inputs: RowInputs, vocab_size: int, capture: Capture) -> None:
        self._logits_of, self._inputs = logits_of, inputs
        self._logits = torch.empty((len(inputs.mask), vocab_size), device=inputs.mask.device)
        self._run = capture(self._work)

    def _work(self) -> None:
        self._logits.copy_(self._logits_of(self._inputs))

    def __call__(self, rows: Rows) -> Tensor:
        """The logits of `rows`. [n, vocab]"""
        self._inputs.fill(rows)
        self._run()
        return self._logits[: len(rows)].clone()


class ChainStep:
    """One drafted token after another: a pass, the best tokens after its last row, the best of them as the next row.

    Args:
        logits_of, inputs, vocab_size, capture: as for a `ForwardStep`.
        top: best tokens wanted at each position.
        sampled: whether there is noise.
    """

    def __init__(
        self, logits_of: LogitsOf, inputs: RowInputs, vocab_size: int, capture: Capture, top: int, sampled: bool
    ) -> None:
        device = inputs.mask.device
        self._logits_of, self._inputs, self._top, self._sampled = logits_of, inputs, top, sampled
        self._unchecked = capture.unchecked
        self._noise = torch.zeros((self._unchecked, vocab_size if sampled else 0), device=device)
        self._temperature = torch.ones(1, device=device)
        self._row = torch.zeros(1, dtype=torch.int64, device=device)  # whose next token is drafted
        self._count = torch.zeros(1, dtype=torch.int64, device=device)  # tokens drafted since the host last looked
        # Token ids as floats, which are exact below 2^24: one buffer, one transfer.
        self._found = torch.zeros((self._unchecked, 2, top), device=device)
        self._run = capture(self._work)

    def _work(self) -> None:
        scores = self._logits_of(self._inputs).index_select(0, self._row)
        if self._sampled:
            scores = scores / self._temperature + self._noise.index_select(0, self._count)
        best = torch.topk(torch.softmax(scores, -1), self._top)
        self._found.index_copy_(0, self._count, torch.stack((best.indices.float(), best.values), 1))
        self._inputs.follow(self._row, best.indices[:, 0])
        self._row.zero_()
        self._count += 1

    def __call__(self, fed: Rows, num_tokens: int, stop: ChainStop, noise: ChoiceNoise | None) -> list[Candidates]:
        """See `TransformerRuntime.draft_chain`; a few tokens may be run in vain behind the one that ends the chain."""
        self._inputs.fill(fed)
        self._row.fill_(len(fed) - 1)
        drafted: list[Candidates] = []
        reach = stop.reach
        while len(drafted) < num_tokens:
            for candidates in self._draft(len(drafted), min(self._unchecked, num_tokens - len(drafted)), noise):
                drafted.append(candidates)
                ended, reach = stop.ends_after(candidates.probs[0], reach)
                if ended:
                    return drafted
        return drafted

    def _draft(self, first: int, count: int, noise: ChoiceNoise | None) -> Iterator[Candidates]:
        if noise is not None:
            self._temperature.fill_(noise.temperature)
            self._noise[:count].copy_(torch.from_numpy(noise.rows[first : first + count]))
        self._count.zero_()
        for _ in range(count):
            self._run()
        for tokens, probs in self._found[:count].tolist():
            yield Candidates([int(token) for token in tokens], probs)
