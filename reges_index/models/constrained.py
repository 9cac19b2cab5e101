"""Greedy decoding that can only end in one of the choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from reges_index.models.tree_scoring import prefill
from reges_index.models.trie import TokenTrie

__all__ = ["choose_greedily"]


def choose_greedily(
    model: Any, prompt_ids: Sequence[int], choices: Sequence[Sequence[int]], *, cached: bool = True
) -> int:
    """Walk the trie of ``choices``, taking the likelier branch at every fork.

    Tokens that leave no choice are appended without asking the model, so the cost is one forward of the
    prompt and one short forward per fork. Greedy is not the same as best: :func:`score_tree` compares whole
    titles, and the two agreed on 4 of 14 prompts of an untrained model.

    Parameters
    ----------
    model
        A causal LM in eval mode, under ``torch.inference_mode()``.
    prompt_ids
        Token ids of the prompt.
    choices
        Token ids of each choice, with an end token at the end of each.
    cached
        Keep keys and values between forks. False reads everything again at each, for models whose cache is
        of another kind (state-space or chunked layers).

    Returns
    -------
    int
        Index of the choice; the first of equal ones.
    """
    trie = TokenTrie.build(choices)
    # With nothing to decide the model need not be asked at all.
    if len(set(trie.leaves)) == 1:
        return 0
    logits, cache = prefill(model, prompt_ids) if cached else (_read_again(model, prompt_ids), None)
    node = 0
    pending: list[int] = []
    written: list[int] = []
    while trie.children[node]:
        branches = trie.children[node]
        if len(branches) > 1:
            if pending and cached:
                ids = torch.tensor([pending], device=model.device)
                logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[
                    0, -1
                ]
            elif pending:
                logits = _read_again(model, [*prompt_ids, *written])
            pending = []
            tokens = list(branches)
            token = tokens[int(logits[torch.tensor(tokens, device=logits.device)].float().argmax())]
        else:
            token = next(iter(branches))
        pending.append(token)
        written.append(token)
        node = branches[token]
    return trie.choice_at(node)


def _read_again(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Logits after the last of ``ids``, shape [vocabulary], without a cache."""
    output = model(
        input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False, logits_to_keep=1
    )
    logits: torch.Tensor = output.logits[0, -1]
    return logits
