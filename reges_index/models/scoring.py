"""Log-probabilities of k answers to one prompt, for about the price of reading the prompt.

The prompt goes through the model once and leaves its keys and values in a cache. Then all answers go through
together, as one trie: every node is one position, sees the prompt and its own ancestors only (a 4D additive
mask), and has the position id that it would have had on its own. In fp32 this equals k separate forwards to
within rounding; the costs are measured in ``benchmarks/selection.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

_LOGITS_BUDGET = 256 * 1024 * 1024
"""Bytes of fp32 logits that one forward over trie nodes may make; more nodes go in several forwards."""

_MASKED_ATTENTION = ("sdpa", "eager")
"""Attention implementations that take a 4D additive mask as it is."""


class ChoiceScore(NamedTuple):
    """What the model thinks of one choice.

    Attributes
    ----------
    logprob
        Natural-log probability of all its tokens and the end token after them, given the prompt.
    num_tokens
        How many tokens that is, end token included; divide by it for a length-normalised score.
    """

    logprob: float
    num_tokens: int


class _Trie:
    """Token sequences as a tree, with what they share stored once; each ends with an end token.

    Node 0 is the root; every other node is one token after its parent, which has a smaller number.
    """

    def __init__(self, choices: Sequence[Sequence[int]]) -> None:
        self.tokens, self.parents, self.depths = [-1], [-1], [0]
        self.children: list[dict[int, int]] = [{}]
        self.leaves = [self._add(choice) for choice in choices]
        self.inner = [node for node in range(1, len(self.tokens)) if self.children[node]]
        """Nodes that have children, root excluded, parents first: what the model has to read."""

    def _add(self, choice: Sequence[int]) -> int:
        node = 0
        for token in choice:
            if token not in self.children[node]:
                self.children[node][token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
                self.depths.append(self.depths[node] + 1)
                self.children.append({})
            node = self.children[node][token]
        return node

    def path(self, node: int) -> list[int]:
        """Return the nodes from a node up to the root, the root excluded."""
        nodes = []
        while node > 0:
            nodes.append(node)
            node = self.parents[node]
        return nodes


def why_no_tree(model: Any) -> str:
    """Say why :func:`score_tree` does not fit ``model``; an empty string means that it does.

    A model fits if its layers are plain or sliding-window attention, if it takes position ids, and if its
    attention kernel takes an additive mask. State-space layers, chunked attention, flash attention and ALiBi
    do not fit.
    """
    config = model.config.get_text_config()
    if config is not model.config:
        return "a model of several parts, which make masks of their own"
    implementation = getattr(config, "_attn_implementation", None)
    if implementation not in _MASKED_ATTENTION:
        return f"attention implementation {implementation!r} takes no 4D mask"
    other = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if other:
        return f"layers of type {', '.join(sorted(other))}"
    if getattr(config, "use_bidirectional_attention", False):
        return "bidirectional attention"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "its forward takes no position ids"
    return ""


def prefill(model: Any, prompt_ids: Sequence[int]) -> tuple[torch.Tensor, DynamicCache]:
    """Read the prompt once; return the logits after its last token, [vocabulary], and the cache.

    The cache keeps every position in sliding-window layers too: nodes of a trie look back from different
    depths.
    """
    cache = DynamicCache()
    return _last_logits(model, prompt_ids, past_key_values=cache, use_cache=True), cache


def _last_logits(model: Any, ids: Sequence[int], **options: Any) -> torch.Tensor:
    input_ids = torch.tensor([list(ids)], device=model.device)
    logits: torch.Tensor = model(input_ids=input_ids, logits_to_keep=1, **options).logits[0, -1]
    return logits


def score_tree(
    model: Any, prompt_ids: Sequence[int], choices: Sequence[Sequence[int]], *, max_nodes: int | None = None
) -> list[ChoiceScore]:
    """Score every choice with one forward of the prompt and one of the trie.

    Parameters
    ----------
    model
        A causal LM for which :func:`why_no_tree` has no objection, in eval mode, under
        ``torch.inference_mode()``.
    prompt_ids, choices
        Token ids; each choice's have an end token at their end.
    max_nodes
        Trie nodes per forward; by default as many as keep the logits under 256 MiB.

    Returns
    -------
    list of ChoiceScore
        One for each choice, in their order; equal choices have equal scores.
    """
    trie = _Trie(choices)
    last_logits, cache = prefill(model, prompt_ids)
    edges = torch.zeros(len(trie.tokens), dtype=torch.float32)
    _read_edges(edges, trie, [0], last_logits[None])

    chunk = max_nodes or max(1, _LOGITS_BUDGET // (4 * last_logits.shape[-1]))
    for start in range(0, len(trie.inner), chunk):
        nodes = trie.inner[start : start + chunk]
        positions = [len(prompt_ids) + trie.depths[node] - 1 for node in nodes]
        logits = model(
            input_ids=torch.tensor([[trie.tokens[node] for node in nodes]], device=model.device),
            attention_mask=_masks(model, trie, start, positions, len(prompt_ids)),
            position_ids=torch.tensor([positions], device=model.device),
            past_key_values=cache,
            use_cache=True,
        ).logits[0]
        _read_edges(edges, trie, nodes, logits)

    # The sums run over a path of tens of tokens; float64 on the CPU costs nothing and adds no rounding.
    totals = [0.0] * len(trie.tokens)
    for node, value in enumerate(edges.tolist()):
        if node:
            totals[node] = totals[trie.parents[node]] + value
    return [ChoiceScore(totals[leaf], trie.depths[leaf]) for leaf in trie.leaves]


def score_separately(
    model: Any, prompt_ids: Sequence[int], choices: Sequence[Sequence[int]]
) -> list[ChoiceScore]:
    """Score every choice with a forward of its own: the reference, and the way for models without a tree.

    Costs k forwards of prompt and choice. Parameters and result as in :func:`score_tree`.
    """
    known: dict[tuple[int, ...], ChoiceScore] = {}
    for choice in dict.fromkeys(map(tuple, choices)):
        ids = torch.tensor([[*prompt_ids, *choice]], device=model.device)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(choice) + 1).logits[0, :-1].float()
        targets = torch.tensor(choice, device=logits.device)
        picked = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(-1)
        known[choice] = ChoiceScore(float(picked.double().sum()), len(choice))
    return [known[tuple(choice)] for choice in choices]


def choose_greedily(
    model: Any, prompt_ids: Sequence[int], choices: Sequence[Sequence[int]], *, cached: bool = True
) -> int:
    """Walk the trie of the choices, taking the likelier branch at every fork; return the choice at its end.

    Tokens that leave no choice are appended without asking the model, so the cost is one forward of the
    prompt and one short forward for each fork but the first. Greedy is not the same as best: `score_tree`
    compares whole titles, and the two agreed on 4 of 14 prompts of an untrained model. Of equal choices the
    first is returned. Parameters as in :func:`score_tree`.

    Parameters
    ----------
    cached
        Keep keys and values between forks. False reads everything again at each, for models whose cache is
        of another kind (state-space or chunked layers).
    """
    trie = _Trie(choices)
    node, unread, written = 0, list(prompt_ids), list(prompt_ids)
    cache = DynamicCache() if cached else None
    if len(set(trie.leaves)) == 1:  # nothing to decide
        return 0
    while branches := trie.children[node]:
        token = next(iter(branches))
        if len(branches) > 1:
            ids = unread if cached else written
            logits = _last_logits(model, ids, past_key_values=cache, use_cache=cached)
            unread = []
            tokens = list(branches)
            token = tokens[int(logits[torch.tensor(tokens, device=logits.device)].float().argmax())]
        unread.append(token)
        written.append(token)
        node = branches[token]
    return trie.leaves.index(node)


def _read_edges(edges: torch.Tensor, trie: _Trie, nodes: Sequence[int], logits: torch.Tensor) -> None:
    """Write the log-probability of every child of ``nodes`` into ``edges``; logits [nodes, vocabulary]."""
    rows = [row for row, node in enumerate(nodes) for _ in trie.children[node]]
    targets = [token for node in nodes for token in trie.children[node]]
    below = [child for node in nodes for child in trie.children[node].values()]
    logits = logits.float()
    row_index = torch.tensor(rows, device=logits.device)
    picked = logits[row_index, torch.tensor(targets, device=logits.device)]
    edges[torch.tensor(below)] = (picked - logits.logsumexp(-1)[row_index]).cpu()


def _masks(
    model: Any, trie: _Trie, start: int, positions: Sequence[int], prompt: int
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Additive mask [1, 1, nodes, keys] of the inner nodes from ``start`` on, or one per layer type.

    Each sees the prompt, its ancestors and itself. Sliding-window layers see a key only if it is less than
    the window away in *positions*, which for a node of a tree is not the same as in columns.
    """
    read = trie.inner[: start + len(positions)]
    column = {node: prompt + index for index, node in enumerate(read)}
    allowed = torch.zeros(len(positions), prompt + len(read), dtype=torch.bool)
    allowed[:, :prompt] = True
    for row, node in enumerate(read[start:]):
        allowed[row, [column[step] for step in trie.path(node)]] = True

    def additive(seen: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(seen.shape, dtype=model.dtype)
        mask.masked_fill_(~seen, torch.finfo(model.dtype).min)
        return mask[None, None].to(model.device)

    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    types = set(getattr(config, "layer_types", None) or ())
    if window is None or types == {"full_attention"}:
        return additive(allowed)
    keys = [*range(prompt), *(prompt + trie.depths[node] - 1 for node in read)]
    distance = torch.tensor(positions)[:, None] - torch.tensor(keys)[None, :]
    sliding = additive(allowed & (distance < window))
    # A model without layer types but with a window (Mistral) slides in every layer.
    return {"full_attention": additive(allowed), "sliding_attention": sliding} if len(types) > 1 else sliding
