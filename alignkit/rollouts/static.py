"""Decoding in static buffers, so that a CUDA graph holds a whole step: the forward pass, the pick, the end of a row.

A decoding step of a small model is a thousand kernels of a few microseconds. Launched one by one, they wait for the
host. A graph launches them at once, with the same addresses and shapes every time. So a fixed number of rows lies in
buffers that stay where they are, and a token's key lies at its position. A row that has ended goes on in place, and
what it draws is not read. Every few steps the host looks which rows have ended and gives their places to the next
requests.

The uniform numbers are drawn before, one for each token, and picking.py picks: the samples are those of batched.py.
Without a graph the same code launches its kernels one by one, on a CPU too.

Buffers and graphs live for one call of `generate`: afterwards training has the memory back and may move weights. Under
autocast torch keeps the bf16 copies of trained weights for as long, and the graph reads those.

B rows, N new ones, A query heads, K key heads, G = A / K, D head size, L positions, T tokens of the longest prompt,
P prompts, U most new tokens, V vocabulary.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from alignkit.policy.architecture import key_width
from alignkit.policy.logprobs import head_logits
from alignkit.policy.policy import Policy
from alignkit.rollouts.fewer_kernels import fewer_kernels
from alignkit.rollouts.picking import Rules, pick, uniform_numbers
from alignkit.rollouts.sampler import Completion, Request

NAME = "alignkit-static"
MAX_ROWS = 256
_PREFILL_TOKENS = 8192  # of prompts computed at once, padding included
_REFILL_FROM = 0.25  # share of the rows that must be free: computing prompts stops the others
_SHRINK_BELOW = 0.5  # share of the rows that are left when no request waits
_WORTH_A_GRAPH = 16  # steps still to come: capturing takes as long as about that many
_ALIGNED = 64  # positions: attention kernels copy a mask whose rows begin elsewhere
_SHARE = 0.5  # of the free memory, for keys, values and logits

_logger = logging.getLogger(__name__)


class StaticDecoding:
    """Samples completions from a policy whose attention is open to us (`Policy.tree_refusal` is None).

    Args:
        capture: hold steps in CUDA graphs; else launch each kernel.
        max_rows: completions at once, where the memory allows.
        look_every: steps between two looks at what has ended.
        bucket: positions; a step attends over a multiple of this, so that there are few graphs, and short completions
            do not read long buffers.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        end_ids: frozenset[int],
        capture: bool,
        max_rows: int = MAX_ROWS,
        look_every: int = 16,
        bucket: int = 512,
    ) -> None:
        self._policy, self._capture = policy, capture
        self._max_rows, self._look_every, self._bucket = max_rows, look_every, bucket
        self._ends = end_ids
        self._end_ids = torch.tensor(sorted(end_ids), dtype=torch.int64, device=policy.device)
        head = policy.base.get_output_embeddings()
        self._head_weight = head.weight.to(policy.autocast or head.weight.dtype)  # once, not in every step
        self._head_bias = head.bias
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def generate(self, requests: Sequence[Request], rooms: Sequence[int]) -> list[Completion]:
        """Return one completion for each request, in order. Neighbours are computed together.

        Args:
            rooms: most new tokens of each request, at least 1.
        """
        longest = max(len(one.prompt_ids) + room - 1 for one, room in zip(requests, rooms, strict=True))
        length = _rounded(longest, _ALIGNED)
        rows = _Rows(self._num_rows(length, requests), length, max(rooms), requests, self._policy.device)
        done: dict[int, Completion] = {}
        waiting = deque(range(len(requests)))
        held: dict[int, int] = {}  # the request of each row that is at work
        with _attention(self._policy), fewer_kernels(self._policy.body):
            while waiting or held:
                free = [row for row in range(rows.count) if row not in held]
                if waiting and len(free) >= _REFILL_FROM * rows.count:
                    taken = {row: waiting.popleft() for row in free[: len(waiting)]}
                    rows.start(
                        {row: requests[number] for row, number in taken.items()}, [rooms[n] for n in taken.values()]
                    )
                    self._prefill(rows, {row: requests[number].prompt_ids for row, number in taken.items()})
                    held |= taken
                drawn = rows.drawn
                left = max(rooms[number] - drawn[row] for row, number in held.items())
                if not waiting and len(held) <= _SHRINK_BELOW * rows.count and left > _WORTH_A_GRAPH:
                    self._graphs.clear()
                    rows.keep(list(held))
                    held = dict(enumerate(held.values()))
                steps = min(self._look_every, left)
                end = (
                    max(len(requests[number].prompt_ids) + rows.drawn[row] for row, number in held.items()) + steps - 1
                )
                for step in range(steps):
                    self._step(rows, min(_rounded(end, self._bucket), length), left - step)
                for row, completion in rows.look(list(held), self._ends).items():
                    done[held.pop(row)] = completion
        return [done[number] for number in range(len(requests))]

    def _num_rows(self, length: int, requests: Sequence[Request]) -> int:
        """Return `max_rows`, or as many as there are requests; halved until the free memory holds them.

        By halves, because under bf16 a sample may depend on how many are computed at once: a little more or less of
        free memory must not change it.
        """
        most, policy = min(self._max_rows, len(requests)), self._policy
        if policy.device.type != "cuda":
            return most
        text = policy.config.get_text_config()
        width = (policy.autocast or policy.base.dtype).itemsize
        keys = length * text.num_hidden_layers * 2 * key_width(text) * width
        sorts = any(request.top_p < 1 for request in requests)
        logits = len(self._head_weight) * (64 if sorts else 16)  # bytes of all their copies
        unused = torch.cuda.memory_reserved(policy.device) - torch.cuda.memory_allocated(policy.device)
        free = torch.cuda.mem_get_info(policy.device)[0] + unused
        while most > 1 and most * (keys + logits) > _SHARE * free:
            most = -(-most // 2)
        return most

    def _prefill(self, rows: _Rows, prompt_of: Mapping[int, Sequence[int]]) -> None:
        """Compute the prompts of new rows but for their last tokens; those of several rows once."""
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, prompt in prompt_of.items():
            if len(prompt) > 1:
                rows_of.setdefault(tuple(prompt[:-1]), []).append(row)
        prompts = sorted(rows_of, key=len)
        while prompts:
            count = 1
            while count < len(prompts) and (count + 1) * len(prompts[count]) <= _PREFILL_TOKENS:
                count += 1
            part, prompts = prompts[:count], prompts[count:]
            ids_PT = np.zeros((count, len(part[-1])), np.int64)
            for place, prompt in enumerate(part):
                ids_PT[place, : len(prompt)] = prompt  # no token sees the padding behind it
            own = [(row, place) for place, prompt in enumerate(part) for row in rows_of[prompt]]
            row_N, prompt_N = torch.tensor(own, device=self._policy.device).unbind(1)
            positions = torch.arange(ids_PT.shape[1], device=row_N.device)[None]
            self._states(torch.from_numpy(ids_PT).to(row_N.device), positions, _Prompts(rows, row_N, prompt_N))

    def _step(self, rows: _Rows, attended: int, left: int) -> None:
        """Draw one token in each row; so many steps are left, this one included."""
        if (graph := self._graphs.get(attended)) is not None:
            graph.replay()
            return
        self._compute_step(rows, attended)
        if not self._capture or left <= _WORTH_A_GRAPH:
            return
        # The step before has made what must be there before a capture: library handles, autocast's copies of weights.
        graph, pool = torch.cuda.CUDAGraph(), next((one.pool() for one in self._graphs.values()), None)
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # other threads use the card
                self._compute_step(rows, attended)
        except RuntimeError as error:
            _logger.warning("sampling without a CUDA graph, a few times slower: this model takes none: %s", error)
            self._capture = False
        else:
            self._graphs[attended] = graph

    def _compute_step(self, rows: _Rows, attended: int) -> None:
        states_BH = self._states(rows.ids_B[:, None], rows.position_B[:, None], _OneToken(rows, attended))[:, 0]
        with torch.autocast(states_BH.device.type, enabled=False):
            narrow = states_BH.to(self._head_weight.dtype)
            logits_BV = head_logits(narrow, self._head_weight, self._head_bias, self._policy.head_form)
        tokens_B, logprobs_B = pick(logits_BV, rows.next_uniform(), rows.rules)
        rows.write(tokens_B, logprobs_B, (tokens_B[:, None] == self._end_ids).any(1))

    def _states(self, ids: Tensor, positions: Tensor, layout: _Layout) -> Tensor:
        out = self._policy.body(input_ids=ids, position_ids=positions, use_cache=False, layout=layout)
        states: Tensor = out.last_hidden_state
        return states


class _Rows:
    """The rows' state on the device.

    ids_B, position_B: int64 [B], the token that the next step computes, and its position.
    drawn_B, room_B: int64 [B], tokens drawn, and the most there may be. ended_B: bool [B].
    uniform_BU: float32 [B, U], the numbers that pick a row's tokens.
    token_BU, logprob_BU: int64 and float32 [B, U + 1], what was drawn; ended rows write into the last column.
    """

    def __init__(self, count: int, length: int, most: int, requests: Sequence[Request], device: torch.device) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.ids_B, self.position_B, self.drawn_B, self.room_B = (zeros(count) for _ in range(4))
        self.ended_B = zeros(count, dtype=torch.bool)
        self.uniform_BU = zeros(count, most, dtype=torch.float32)
        self.token_BU, self.logprob_BU = zeros(count, most + 1), zeros(count, most + 1, dtype=torch.float32)
        self.rules = Rules.of(requests, device).take(zeros(count))  # any: rows get their own
        self._caches: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._length = length
        self.drawn = [0] * count
        """Tokens drawn at the last look."""

    @property
    def count(self) -> int:
        return len(self.ids_B)

    def cache(self, module: nn.Module, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return an attention module's keys and values [B, K, L, D], in the type of its values."""
        if module not in self._caches:
            # zeros, because attention gives what is masked the weight 0, and 0 times nan is nan
            shape = (self.count, value.shape[1], self._length, value.shape[3])
            self._caches[module] = value.new_zeros(shape), value.new_zeros(shape)
        return self._caches[module]

    def start(self, request_of: Mapping[int, Request], rooms: Sequence[int]) -> None:
        """Give rows to requests; the prompts' last tokens are the first that a step computes."""
        device, requests = self.ids_B.device, list(request_of.values())
        uniform_NU = np.zeros((len(requests), self.uniform_BU.shape[1]), np.float32)
        for place, (request, room) in enumerate(zip(requests, rooms, strict=True)):
            uniform_NU[place, :room] = uniform_numbers(request)[:room]
        last = [[one.prompt_ids[-1], len(one.prompt_ids) - 1, room] for one, room in zip(requests, rooms, strict=True)]
        row_N = torch.tensor(list(request_of), device=device)
        self.ids_B[row_N], self.position_B[row_N], self.room_B[row_N] = torch.tensor(last, device=device).unbind(1)
        self.drawn_B[row_N], self.ended_B[row_N] = 0, False
        self.uniform_BU[row_N] = torch.from_numpy(uniform_NU).to(device)
        self.rules.put(row_N, Rules.of(requests, device))
        for row in request_of:
            self.drawn[row] = 0

    def next_uniform(self) -> Tensor:
        """The number that picks each row's next token, float32 [B]."""
        place = self.drawn_B.clamp(max=self.uniform_BU.shape[1] - 1)
        return self.uniform_BU.gather(1, place[:, None])[:, 0]

    def write(self, tokens_B: Tensor, logprobs_B: Tensor, ends_B: Tensor) -> None:
        """Take the next token of every row that has not ended."""
        column = self.drawn_B.masked_fill(self.ended_B, self.token_BU.shape[1] - 1)[:, None]
        self.token_BU.scatter_(1, column, tokens_B[:, None])
        self.logprob_BU.scatter_(1, column, logprobs_B[:, None])
        goes_on_B = ~self.ended_B
        self.ids_B.copy_(tokens_B)
        self.position_B += goes_on_B
        self.drawn_B += goes_on_B
        self.ended_B |= ends_B | (self.drawn_B >= self.room_B)

    def look(self, held: Sequence[int], end_ids: frozenset[int]) -> dict[int, Completion]:
        """Return what those of the held rows have drawn that have ended. The host waits here."""
        self.drawn, ended = torch.stack([self.drawn_B, self.ended_B.long()]).tolist()
        rows = [row for row in held if ended[row]]
        if not rows:
            return {}
        row_N = torch.tensor(rows, device=self.ids_B.device)
        tokens_NU, logprobs_NU = self.token_BU[row_N].cpu().numpy(), self.logprob_BU[row_N].cpu().numpy()
        found = {}
        for place, row in enumerate(rows):
            ids = tokens_NU[place, : self.drawn[row]].astype(np.int32)
            logprobs = logprobs_NU[place, : self.drawn[row]].copy()
            found[row] = Completion(ids, logprobs, truncated=int(ids[-1]) not in end_ids)
        return found

    def keep(self, rows: Sequence[int]) -> None:
        """Keep some rows, in this order; every buffer is another afterwards."""
        row_N = torch.tensor(rows, device=self.ids_B.device)
        for name, tensor in list(vars(self).items()):
            if isinstance(tensor, Tensor):
                setattr(self, name, tensor[row_N])
        self.rules = self.rules.take(row_N)
        for module, (keys, values) in self._caches.items():  # one by one: the old ones are freed at once
            self._caches[module] = keys[row_N], values[row_N]
        self.drawn = [self.drawn[row] for row in rows]


class _Call(NamedTuple):
    """What an attention module asks for: query [.., A, T, D], key and value [.., K, T, D].

    `window` is how many positions a token sees, its own included; None: all.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float | None
    window: int | None


class _Layout(Protocol):
    """Where the tokens of a forward pass lie in the rows' buffers."""

    def attend(self, call: _Call) -> Tensor:
        """Keep keys and values, and attend to what each token sees; returns [.., T, A, D]."""


class _Prompts:
    """Prompts [P, T], padded on the right, whose keys and values `row_N` take from `prompt_N`."""

    def __init__(self, rows: _Rows, row_N: Tensor, prompt_N: Tensor) -> None:
        self._rows, self._row_N, self._prompt_N = rows, row_N, prompt_N

    def attend(self, call: _Call) -> Tensor:
        _, query, key, value, scale, window = call
        size = key.shape[2]
        keys, values = self._rows.cache(call.module, value)
        keys[self._row_N, :, :size] = key[self._prompt_N].to(keys.dtype)
        values[self._row_N, :, :size] = value[self._prompt_N]
        mask = None
        if window is not None and window < size:
            place = torch.arange(size, device=key.device)
            distance_TT = place[:, None] - place
            mask = (distance_TT >= 0) & (distance_TT < window)
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
        return out.transpose(1, 2).contiguous()


class _OneToken:
    """One token of each row [B, 1], at its row's position, which sees the first `attended` positions up to its own."""

    def __init__(self, rows: _Rows, attended: int) -> None:
        self._rows, self._attended = rows, attended
        self._masks: dict[int | None, Tensor] = {}

    def attend(self, call: _Call) -> Tensor:
        _, query, key, value, scale, window = call
        keys, values = self._rows.cache(call.module, value)
        place = self._rows.position_B[:, None, None, None].expand_as(key)
        keys.scatter_(2, place, key.to(keys.dtype))
        values.scatter_(2, place, value)
        keys, values = keys[:, :, : self._attended], values[:, :, : self._attended]
        # a group's G queries become G positions of their key head, as in decoding.attend
        grouped = query.reshape(*key.shape[:2], -1, key.shape[3])
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=self._mask(window, values), scale=scale)
        return out.reshape(len(query), 1, -1, value.shape[3])

    def _mask(self, window: int | None, values: Tensor) -> Tensor:
        """Return what is added to the scores, [B, 1, 1, L]: the same in all layers of a window."""
        if window not in self._masks:
            place_L, own_B1 = torch.arange(self._attended, device=values.device), self._rows.position_B[:, None]
            unseen_BL = place_L > own_B1
            if window is not None:
                unseen_BL |= place_L <= own_B1 - window
            mask_BL = values.new_zeros(unseen_BL.shape).masked_fill_(unseen_BL, -torch.inf)
            self._masks[window] = mask_BL[:, None, None]
        return self._masks[window]


@contextmanager
def _attention(policy: Policy) -> Iterator[None]:
    """Attend by a layout for a while; the name has no mask function, so that models make no mask."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)
    with policy.attending_by(NAME):
        yield


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    layout: _Layout,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers calls an attention function."""
    return layout.attend(_Call(module, query, key, value, scaling, sliding_window)), None


def _rounded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
