"""A pair of tiny random DPR encoders, saved as transformers saves the real ones."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertTokenizerFast, DPRConfig, DPRContextEncoder, DPRQuestionEncoder

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
DIMENSION = 32


def save_tiny_dpr(folder: Path, *, dimension: int = DIMENSION, seed: int = 0) -> tuple[Path, Path]:
    """Write a question and a context encoder, with weights of their own, and return their folders."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [
        *letters,
        *(f"##{letter}" for letter in letters),
        *(f"##{a}{b}" for a in "aeiou" for b in "nrst"),
    ]
    vocabulary = {token: number for number, token in enumerate([*SPECIALS, *pieces])}
    words = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = DPRConfig(
        vocab_size=len(vocabulary),
        hidden_size=dimension,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    folders = []
    for number, kind in enumerate((DPRQuestionEncoder, DPRContextEncoder)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + number)
            model = kind(config)
        target = folder / ("question", "context")[number]
        model.save_pretrained(target)
        BertTokenizerFast(tokenizer_object=words).save_pretrained(target)
        folders.append(target)
    return folders[0], folders[1]
