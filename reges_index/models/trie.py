"""A trie over token ids: the candidates' titles, with what they share stored once.

Pure Python, no tensors: :mod:`reges_index.models.tree_scoring` turns it into one forward of the model and
:mod:`reges_index.models.constrained` walks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["TokenTrie"]


@dataclass(frozen=True)
class TokenTrie:
    """Token sequences as a tree. Node 0 is the root; every other node is one token after its parent.

    A parent always has a smaller number than its children, so a walk in number order meets ancestors first.

    Attributes
    ----------
    tokens
        Token id of each node; the root has -1.
    parents
        Parent of each node; the root has -1.
    depths
        Distance from the root, which is the token's offset from the end of the prompt plus one.
    children
        For each node, token id -> node.
    leaves
        For each choice given to :meth:`build`, in that order, the node at which it ends. Equal choices
        share a leaf.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    children: tuple[dict[int, int], ...] = field(repr=False)
    leaves: tuple[int, ...]

    @classmethod
    def build(cls, choices: Sequence[Sequence[int]]) -> TokenTrie:
        """Build the trie of ``choices``.

        Parameters
        ----------
        choices
            Token ids of each choice, at least one each. None may be a proper prefix of another: end each
            with an end token, or "Alien" would be cut off the probability of "Aliens".

        Raises
        ------
        ValueError
            For no choices, an empty choice, or a choice that is a proper prefix of another.
        """
        if not choices:
            raise ValueError("no choices to build a trie of")
        tokens, parents, depths = [-1], [-1], [0]
        children: list[dict[int, int]] = [{}]
        leaves: list[int] = []
        for number, choice in enumerate(choices):
            if not choice:
                raise ValueError(f"choice {number} has no tokens")
            node = 0
            for token in choice:
                following = children[node].get(token)
                if following is None:
                    following = len(tokens)
                    children[node][token] = following
                    tokens.append(token)
                    parents.append(node)
                    depths.append(depths[node] + 1)
                    children.append({})
                node = following
            leaves.append(node)
        for number, leaf in enumerate(leaves):
            if children[leaf]:
                raise ValueError(f"choice {number} is a proper prefix of another: end each with an end token")
        return cls(tuple(tokens), tuple(parents), tuple(depths), tuple(children), tuple(leaves))

    def __len__(self) -> int:
        """Return the number of nodes without the root."""
        return len(self.tokens) - 1

    @property
    def inner(self) -> tuple[int, ...]:
        """Nodes that have children, root excluded, parents first: what the model has to read."""
        return tuple(node for node in range(1, len(self.tokens)) if self.children[node])

    def path(self, node: int) -> tuple[int, ...]:
        """Nodes from the root (excluded) down to ``node`` (included)."""
        nodes: list[int] = []
        while node > 0:
            nodes.append(node)
            node = self.parents[node]
        return tuple(reversed(nodes))

    def sequence(self, node: int) -> tuple[int, ...]:
        """Token ids from the root down to ``node``."""
        return tuple(self.tokens[step] for step in self.path(node))

    def choice_at(self, leaf: int) -> int:
        """Return the first choice that ends at ``leaf``."""
        return self.leaves.index(leaf)
