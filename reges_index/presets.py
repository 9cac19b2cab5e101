"""The paper's whole configurations by name (Table 1), and the embedded one: values of `PipelineSettings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reges_index.errors import ConfigError, meant


@dataclass(frozen=True)
class Preset:
    """A configuration with a name.

    Attributes
    ----------
    name
        What it is asked for by.
    summary
        What it is, in a line.
    source
        Where it comes from.
    recipe
        What trains its adapters; it runs untrained until they are given.
    values
        What of `PipelineSettings` is not the default.
    """

    name: str
    summary: str
    source: str
    recipe: str
    values: Mapping[str, Any] = field(default_factory=dict)


# Section 3.3, "Technical Specifications" and "Models and Retrievers": k = 50, at most 4,096 input tokens, and
# "during inference for item generation, we set the decoding temperature to 0.1" (mode "generate"). The paper
# says Gemma-2B, LLaMA3.1-8B and Gemma-27B; the checkpoints are those of finetune/recipes, instruction-tuned.
# Gemma comes in 27B from its second version on only.
_PAPER: dict[str, Any] = {
    "query_adapter": "none",
    "item_adapter": "none",
    "retrieval": {"retriever": "vectors", "similarity_top_k": 50},
    "rerank": {"mode": "generate", "prior": False, "max_input_tokens": 4096},
}

_GEMMA_2B, _GEMMA_27B = "google/gemma-2b-it", "google/gemma-2-27b-it"
_LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"

_ALL = (
    Preset(
        "embedded",
        "offline, with what this package has trained: the default",
        "this package, finetune/RESULTS.md and finetune/FUSION.md",
        "finetune/recipes/embedded.yaml",
    ),
    Preset(
        "small",
        "Gemma-2B and DPR",
        "Table 1, small budget: 0.054 ReDial, 0.108 INSPIRED",
        "finetune/recipes/gemma-2b.yaml",
        {"llm": _GEMMA_2B, "encoder": "dpr", **_PAPER},
    ),
    Preset(
        "middle",
        "Llama-3.1-8B and BGE-large-en-v1.5",
        "Table 1, middle budget: 0.084 ReDial, 0.196 INSPIRED",
        "finetune/recipes/llama-3.1-8b.yaml",
        {"llm": _LLAMA_8B, "encoder": "bge-large", **_PAPER},
    ),
    Preset(
        "large",
        "Gemma-27B and text-embedding-3-large",
        "Table 1, large budget: 0.083 ReDial, 0.137 INSPIRED",
        "finetune/recipes/gemma-27b.yaml",
        {"llm": _GEMMA_27B, "encoder": "text-embedding-3-large", **_PAPER},
    ),
    Preset(
        "best-cot",
        "Llama-3.1-8B and text-embedding-3-large, chain of thought",
        "Table 1, best, and section 3.7.2: 0.094 ReDial, 0.218 INSPIRED",
        "finetune/recipes/llama-3.1-8b.yaml with cot: true",
        {
            "llm": _LLAMA_8B,
            "encoder": "text-embedding-3-large",
            **_PAPER,
            # Reasoning as in the paper; the item behind it is scored, where the paper lets it be written.
            "rerank": {**_PAPER["rerank"], "mode": "reason", "reasoning": {"temperature": 0.1}},
        },
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}
"""By name; the paper's success rates (hit@1) are with its adapters, which it has not published."""


def get_preset(name: str) -> Preset:
    """Return a preset.

    Raises
    ------
    ConfigError
        If there is none of that name; the hint lists those that there are.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}", hint=meant([name], PRESETS, "presets"))
    return PRESETS[name]
