"""Forward passes of fixed shape that run without the host in between: one pass, and a chain of drafted tokens.

Knows nothing of weights or attention: it is given `logits_of`, a pass over `RowInputs`. On a CUDA device a step is
captured as a graph when it is made, and a call replays it; elsewhere a call runs the same operations. What a step reads
and writes lies in tensors of its own, so that its graph is the same for every call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from time import perf_counter

import torch
from torch import Tensor

from autodraft.runtime.choosing import Candidates, ChainStop, ChoiceNoise
from autodraft.runtime.rows import Rows
from autodraft.runtime.torch_rows import Drafted, RowInputs

LogitsOf = Callable[[RowInputs], Tensor]
Extend = Callable[[Drafted, RowInputs, Tensor, Tensor], None]
_WARM_UPS = 2
_PLACES = 4  # for drafted tokens that the host has not looked at; more than are drafted ahead


class Capture:
    """Makes steps callable; the graphs of one device share their memory.

    Attributes:
        ahead: tokens that a chain without a stop rule goes on drafting while the host waits for one, so that the device
            need not wait in turn.
        seconds: spent on capturing so far.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.ahead = 1 if device.type == "cuda" else 0
        self.seconds = 0.0
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work`, which is run a few times where it has to be captured, and changes nothing that others read."""
        if self._device.type != "cuda":
            return work
        torch.cuda.synchronize(self._device)  # what is still running is none of it
        started = perf_counter()
        graph = self._captured(work)
        torch.cuda.synchronize(self._device)
        self.seconds += perf_counter() - started
        return graph.replay

    def _captured(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):  # kernels are chosen and compiled, workspaces allocated, outside of the graph
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        return graph


class ForwardStep:
    """One forward pass over a fixed number of rows.

    Args:
        logits_of: the pass. -> float32 [rows, vocab]
        inputs: read by it; all padding until filled.
        capture: see there.
    """

    def __init__(self, logits_of: LogitsOf, inputs: RowInputs, capture: Capture) -> None:
        self._logits_of, self._inputs = logits_of, inputs
        self._logits: Tensor
        self._run = capture(self._work)

    def _work(self) -> None:
        self._logits = self._logits_of(self._inputs)  # a graph's memory, which stays its own while it is held here

    def __call__(self, rows: Rows) -> Tensor:
        """The logits of `rows`. [n, vocab]"""
        self._inputs.fill(rows)
        self._run()
        return self._logits[: len(rows)].clone()


class ChainStep:
    """One drafted token after another: a pass, the best tokens after its last row, the best of them as the next row.

    All tokens but the first come of passes over a single row, and so does the first after a single one.

    Args:
        logits_of: a pass. -> float32 [rows, vocab]
        extend: adds the best tokens by the scores after one of the rows. [1], float32 [1, vocab]
        first: rows of the first pass; all padding until filled.
        single: the row of the others.
        vocab_size: of the logits.
        capture: see there.
        top: best tokens wanted at each position.
        sampled: whether there is noise.
    """

    def __init__(
        self,
        logits_of: LogitsOf,
        extend: Extend,
        first: RowInputs,
        single: RowInputs,
        vocab_size: int,
        capture: Capture,
        top: int,
        sampled: bool,
    ) -> None:
        device = first.mask.device
        self._logits_of, self._extend, self._sampled = logits_of, extend, sampled
        self._first, self._single, self._capture = first, single, capture
        self._noise = torch.zeros((_PLACES, vocab_size if sampled else 0), device=device)
        self._temperature = torch.ones(1, device=device)
        self._row = torch.zeros(1, dtype=torch.int64, device=device)  # of the first pass: whose next token is drafted
        self._only_row = torch.zeros_like(self._row)  # kept here, for a graph keeps nothing that it reads
        found = torch.zeros((_PLACES, 2, top), device=device)
        self._drafted = Drafted(found, torch.zeros_like(self._row), single)
        self._mail = _Mail(found)

    @cached_property
    def _run_first(self) -> Callable[[], None]:
        return self._capture(lambda: self._work(self._first, self._row))

    @cached_property
    def _run_single(self) -> Callable[[], None]:
        return self._capture(lambda: self._work(self._single, self._only_row))

    def _work(self, inputs: RowInputs, row: Tensor) -> None:
        scores = self._logits_of(inputs)
        if len(scores) > 1:
            scores = scores.index_select(0, row)
        if self._sampled:
            scores = scores / self._temperature + self._noise.index_select(0, self._drafted.count)
        self._extend(self._drafted, inputs, row, scores)

    def __call__(self, fed: Rows, num_tokens: int, stop: ChainStop, noise: ChoiceNoise | None) -> list[Candidates]:
        """See `TransformerRuntime.draft_chain`.

        With a rule that may end it early nothing is drafted ahead: a token in vain takes longer than a look.
        """
        run, drafted, reach, sent = self._start(fed), list[Candidates](), stop.reach, 0
        if noise is not None:
            self._temperature.fill_(noise.temperature)
        ahead = 0 if stop.may_end else self._capture.ahead
        while len(drafted) < num_tokens:
            while sent < min(len(drafted) + 1 + ahead, num_tokens):
                self._send(run, sent, noise)
                run, sent = self._run_single, sent + 1
            drafted.append(self._mail.read(len(drafted) % _PLACES))
            ended, reach = stop.ends_after(drafted[-1].tokens[0], drafted[-1].probs[0], reach)
            if ended:
                break
        return drafted

    def _start(self, fed: Rows) -> Callable[[], None]:
        """Put the rows in place; returns what runs them."""
        run = self._run_single  # both are captured, which changes what they read, before anything is put there
        if len(fed) == 1:
            self._single.fill(fed)
        else:
            run = self._run_first
            self._first.fill(fed)
            self._row.fill_(len(fed) - 1)
        self._drafted.count.zero_()
        return run

    def _send(self, run: Callable[[], None], number: int, noise: ChoiceNoise | None) -> None:
        """Have the device draft the token of this number."""
        if noise is not None:
            self._noise[number % _PLACES].copy_(torch.as_tensor(noise.rows[number]))
        run()
        self._mail.send(number % _PLACES)


class _Mail:
    """Best tokens on their way from the device to the host, place by place. [places, 2, top]"""

    def __init__(self, found: Tensor) -> None:
        self._found = found
        self._on_device = found.is_cuda
        self._here = torch.empty(found.shape, pin_memory=True) if found.is_cuda else found
        self._sent = [torch.cuda.Event() for _ in found] if found.is_cuda else []

    def send(self, place: int) -> None:
        if self._on_device:
            self._here[place].copy_(self._found[place], non_blocking=True)
            self._sent[place].record()

    def read(self, place: int) -> Candidates:
        """What was last sent from there, once it is here."""
        if self._on_device:
            self._sent[place].synchronize()
        tokens, probs = self._here[place].tolist()
        return Candidates([int(token) for token in tokens], probs)
