"""`--sampler vllm-server`: vLLM servers generate, from copies of the policy's weights that every draw renews.

    VLLM_SERVER_DEV_MODE=1 python -m vllm.entrypoints.openai.api_server --model FOLDER --dtype float32 \
        --logprobs-mode processed_logprobs --port 8000

A step's requests are spread over the servers (`servers`), one request per completion with its own seed, temperature
and top-p: token ids go in, token ids and log-probs come out. A server that dies is left out until the next renewal, and
the others take over its requests. Each completion has a seed of its own, so it is the same whichever server draws it.

Weights go through a folder that the servers see (`--set server_weights=FOLDER`), which each server reloads by its
collective_rpc; this works on every device. `--set server_weights=vllm:nccl` sends them from GPU to GPU instead
(weight_transfer.py). After every renewal each server forgets its cached prefixes, and its samples are compared with the
policy's log-probs.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from alignkit.plugin import (
    Completion,
    CopyingSampler,
    NotAnswered,
    Request,
    Requests,
    RunStopped,
    ServerDown,
    Spread,
    Stopped,
    UsageError,
)
from alignkit_plugins.vllm_engine import as_completion, sampling_fields
from alignkit_plugins.weight_comparison import WeightComparison, has_digest
from alignkit_plugins.weight_transfer import backend_of, connect
from alignkit_plugins.weights_folder import WeightsFolder

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.plugin import Policy

_logger = logging.getLogger(__name__)
_IN_FLIGHT = 64  # requests per server
_CONNECT_S = 10.0
_RELOAD_S = 600.0
_GENERATE_S = 3600.0  # the step's own deadline is the shorter one
_FORGET_S = 60.0
_LOOK_S = 30.0  # to ask what a server has
_MAX_BODY = 64 << 20  # bytes of an answer
_PORTS = {"http": 80, "https": 443}
_SHOWN = 400  # characters of a server's answer in a message


@dataclass(frozen=True, eq=False)
class _Server:
    """A server's address, without a path, and what sends to it."""

    url: str
    requests: Requests


class VLLMServerSampler(CopyingSampler):
    """Generates with vLLM on servers."""

    name: ClassVar[str] = "vllm-server"

    def __init__(self, policy: Policy, *, end_ids: frozenset[int]) -> None:
        super().__init__(policy, end_ids=end_ids)
        self._servers: list[_Server] = []
        self._alive: list[_Server] = []
        self._folder: WeightsFolder | None = None
        self._backend: str | None = None
        self._transfers: dict[_Server, Any] = {}
        self._comparisons: dict[_Server, WeightComparison] = {}
        self._max_length = 0
        self._model: dict[str, str] = {}
        self.drawn_by: list[str] = []

    def connect(self, servers: Sequence[str], shared: str | None) -> None:
        """Find the servers, and which model and length they take.

        Raises:
            UsageError: none was named; one cannot be reached or takes no weights; or the folder is not alignkit's.
        """
        if not servers:
            raise UsageError(f"--sampler {self.name}: name its servers, --set servers=URL,URL,... as http://HOST:PORT")
        self._backend = backend_of(shared, self.policy.device)
        if self._backend is None and shared is not None:
            self._folder = WeightsFolder(Path(shared))
        lengths = []
        for url in servers:
            address = url.rstrip("/").removesuffix("/v1")
            server = _Server(address, Requests([address], max_connections=2 * _IN_FLIGHT, connect_s=_CONNECT_S))
            self._servers.append(server)
            try:
                model = self._ask(server, "GET", "/v1/models", timeout_s=_LOOK_S)["data"][0]
                self._ask(server, "GET", "/is_paused", timeout_s=_LOOK_S)
            except (ServerDown, LookupError, TypeError) as error:
                raise UsageError(
                    f"servers {url}: no vLLM server that takes weights ({error}): start it with "
                    "VLLM_SERVER_DEV_MODE=1 and --logprobs-mode processed_logprobs"
                ) from error
            self._model[address], length = model["id"], model["max_model_len"]
            lengths.append(length)
        self._max_length = min(lengths)
        if self._backend is None and self._folder is None:
            folder = tempfile.TemporaryDirectory(prefix="alignkit-weights-")
            weakref.finalize(self, folder.cleanup)
            self._folder = WeightsFolder(Path(folder.name))

    @property
    def max_length(self) -> int:
        if not self._servers:
            raise UsageError(f"--sampler {self.name} draws in training (servers); here take vllm or transformers")
        return min(self._max_length, int(self.policy.config.max_position_embeddings))

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Hand weights to every server, also to those that were down before.

        Raises:
            RunStopped: no server takes them.
        """
        if self._backend is None:
            self._write(dict(weights))
        self._alive = []
        problems = []
        for server in self._servers:
            try:
                if self._folder is not None:
                    rpc = {"method": "reload_weights", "kwargs": {"weights_path": str(self._folder.path)}}
                    self._ask(server, "POST", "/collective_rpc", rpc, timeout_s=_RELOAD_S)
                elif self._backend is not None:
                    self._send(server, self._backend)
                self._forget(server)
                self._alive.append(server)
            except ServerDown as error:
                problems.append(f"{server.url} {error}")
                _logger.warning("%s: left out of this step: %s", server.url, error)
        if not self._alive:
            raise RunStopped(f"no server takes the weights: {'; '.join(problems)}")

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion for each request, in order.

        Raises:
            RunStopped: every server failed.
        """
        spread = Spread(partial(self._complete, requests), in_flight=_IN_FLIGHT, down=self._drop)
        try:
            found = spread.run(self._alive, len(requests))
        except ServerDown as error:
            raise RunStopped(f"every server failed, the last with: {error}") from error
        self.drawn_by = [server.url for server, _ in found]
        return [completion for _, completion in found]

    def sources(self) -> Sequence[str]:
        return self.drawn_by

    def stale(self) -> Sequence[str]:
        """See `CopyingSampler`. A server gives the SHA-256 of each tensor, which takes about a second per gigabyte."""
        import torch

        dtype, found = self.policy.autocast or torch.float32, []
        for server in self._alive:
            try:
                answer = self._ask(server, "POST", "/collective_rpc", {"method": "compute_weight_checksums"})
                (of_worker,) = answer["results"]  # of one worker: several have a part of each tensor
                digests = {name.rpartition(":")[2]: str(digest) for name, digest in of_worker.items()}
            except (ServerDown, KeyError, TypeError, ValueError, AttributeError) as error:
                _logger.info("%s: its tensors are not compared (%s), its log-probs are", server.url, error)
                continue

            def same(name: str, parts: Sequence[Tensor], digests: dict[str, str] = digests) -> bool | None:
                return has_digest(digests[name], parts, dtype) if name in digests else None

            comparison = self._comparisons.setdefault(server, WeightComparison(self.policy))
            found += [f"{name} of {server.url}" for name in comparison.differing(same)]
        return found

    def close(self) -> None:
        """Close the connections and let go of the folder; the servers stay."""
        for server in self._servers:
            server.requests.close()
        if self._folder is not None:
            self._folder.close()

    def _send(self, server: _Server, backend: str) -> None:
        """Send the policy's weights to a server; after a failure the transfer is opened anew the next time."""
        transfer, parts = self._transfers.pop(server, None), urlsplit(server.url)
        try:
            if transfer is None:
                self._ask(server, "POST", "/shutdown_weight_transfer_engine", timeout_s=_RELOAD_S)  # of a run before
                transfer = connect(
                    backend,
                    ask=partial(self._ask, server, "POST", timeout_s=_RELOAD_S),
                    weights=self.weights,
                    address=(parts.hostname or "", parts.port or _PORTS[parts.scheme]),
                    num_workers=self._ask(server, "GET", "/get_world_size")["world_size"],
                )
            transfer.send_weights()
        except (RuntimeError, OSError, LookupError) as error:
            started = f'--weight-transfer-config \'{{"backend": "{backend}"}}\''
            raise ServerDown(f"does not take weights by {backend} ({error}); it is started with {started}") from error
        self._transfers[server] = transfer

    def _forget(self, server: _Server) -> None:
        """Forget prefixes cached under older weights; wait while a request that was given up still ends."""
        give_up = time.monotonic() + _FORGET_S
        while not self._ask(server, "POST", "/reset_prefix_cache").get("success"):
            if time.monotonic() > give_up:
                raise ServerDown("keeps prefixes that were cached under older weights")
            time.sleep(0.2)

    def _drop(self, server: _Server, error: ServerDown) -> None:
        _logger.warning("%s: %s; the other servers take over", server.url, error)
        self._alive = [other for other in self._alive if other is not server]

    def _complete(self, requests: Sequence[Request], server: _Server, number: int) -> Completion:
        request = requests[number]
        body = {
            "model": self._model[server.url],
            "prompt": list(request.prompt_ids),
            **sampling_fields(request, self.end_ids),
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        answer = self._ask(server, "POST", "/v1/completions", body)
        try:
            (choice,) = answer["choices"]
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            if len(ids) != len(logprobs) or not 0 < len(ids) <= request.max_new_tokens:
                raise ValueError(f"{len(ids)} tokens with {len(logprobs)} log-probs")
            return as_completion(ids, logprobs, request, choice["finish_reason"])
        except (KeyError, TypeError, ValueError) as error:
            raise ServerDown(f"its answer is no completion with token ids ({error!r})") from error

    def _ask(
        self, server: _Server, verb: str, path: str, body: object = None, *, timeout_s: float | None = None
    ) -> Any:
        """Send a request and return the JSON answer, {} where it has none."""
        try:
            answer = server.requests.send(
                verb,
                f"{server.url}{path}",
                headers={"Content-Type": "application/json"},
                max_body=_MAX_BODY,
                timeout_s=timeout_s or _GENERATE_S,
                content=None if body is None else json.dumps(body).encode(),
            )
        except (NotAnswered, Stopped) as error:
            raise ServerDown(f"cannot be reached ({error or type(error).__name__})") from error
        if answer.status != 200:
            raise ServerDown(f"answers {path} with {answer.status}: {answer.body[:_SHOWN].decode('utf-8', 'replace')}")
        try:
            return json.loads(answer.body) if answer.body else {}
        except (ValueError, RecursionError) as error:
            raise ServerDown(f"answers {path} with no JSON") from error

    def _write(self, weights: dict[str, Tensor]) -> None:
        """Write the weights whole, a tied head beside its embedding: servers keep a copy of each."""
        assert self._folder is not None
        self._folder.write(weights, self.policy.config)
