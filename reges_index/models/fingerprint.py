"""Telling by a hash whether an adapter and a base belong together."""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["base_fingerprint"]

_FIELDS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "tie_word_embeddings",
)


def base_fingerprint(config: Any, tokenizer: Any) -> str:
    """Hash what an adapter's weights depend on.

    The architecture, its sizes, and every token with its id. Not the weights: the same base de-quantized
    from a GGUF and downloaded from the hub must agree, and do up to rounding.

    Parameters
    ----------
    config
        The model's configuration (of a model with several parts, its language part counts).
    tokenizer
        The tokenizer.

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits.
    """
    text = config.get_text_config()
    fixed = {field: getattr(text, field, None) for field in _FIELDS}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode())
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0]))
    digest.update(json.dumps(vocabulary).encode())
    return digest.hexdigest()
