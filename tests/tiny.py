"""Tiny random models with a real tokenizer, for tests that need the machinery but not the knowledge.

Everything is built in memory in well under a second; nothing is read from disk or network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from reges_index.models.local_lm import LocalLM

__all__ = ["ARCHITECTURES", "save_tiny", "save_tiny_adapter", "tiny_lm", "tiny_model", "tiny_tokenizer"]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SENTENCES = (
    "user: I love science fiction films from the eighties, can you recommend one like Blade Runner?",
    "assistant: Sure! Have you seen Alien (1979) or Aliens (1986)? Both are great and a little scary.",
    "Which of these candidates should be recommended next? Answer with the title only.",
    "A crew on a spaceship meets a creature that hunts them one by one in the dark corridors.",
    "The Matrix, The Matrix Reloaded, Titanic, Heat, Up, Inception, Interstellar, Toy Story, Toy Story 2",
    "Write a short query that describes what the user wants to watch: genre, mood, actors, director.",
    "No horror please, something funny with my kids for tonight; romantic comedy or animation is fine.",
    "0 1 2 3 4 5 6 7 8 9 1954 1977 1984 1994 1999 2001 2010 2014 2023",
)

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral")
"""Model types that :func:`tiny_model` knows; the last three have sliding-window layers here."""

SLIDING_WINDOW = 16
"""Tokens; short, so that ordinary test prompts are longer than the window."""


def tiny_tokenizer(*, chat: bool = True, bos: bool = False, vocab_size: int = 600) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on a few sentences; ``<|im_end|>`` is the end token, as in SmolLM2.

    With ``bos`` the tokenizer puts ``<s>`` before every text and the chat template does the same, which is
    where a careless caller gets two of them.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token="<s>" if bos else None,
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    if chat:
        fast.chat_template = ("{{ bos_token }}" if bos else "") + CHATML
    return fast


def tiny_model(
    arch: str = "llama", seed: int = 0, *, vocab_size: int = 600, context: int = 4096, **overrides: Any
) -> PreTrainedModel:
    """A random causal LM of four small layers in fp32, the same for the same seed."""
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {arch!r}; known: {', '.join(ARCHITECTURES)}")
    options: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": context,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
    }
    if arch.startswith("gemma"):
        # query_pre_attn_scalar is the head size in all Gemma models of this size class.
        options |= {"sliding_window": SLIDING_WINDOW, "query_pre_attn_scalar": 8}
        options["layer_types"] = ["sliding_attention", "full_attention"] * 2
    if arch == "mistral":
        options["sliding_window"] = SLIDING_WINDOW
    config = AutoConfig.for_model(arch, **(options | overrides))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Attention is left to transformers: sdpa where the model supports it, eager for Gemma 2 (softcap).
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


def tiny_lm(arch: str = "llama", seed: int = 0, *, chat: bool = True, bos: bool = False) -> LocalLM:
    """A :class:`LocalLM` over :func:`tiny_model` and :func:`tiny_tokenizer`."""
    from reges_index.models.local_lm import LocalLM

    tokenizer = tiny_tokenizer(chat=chat, bos=bos)
    return LocalLM(tiny_model(arch, seed, vocab_size=len(tokenizer)), tokenizer, name=f"tiny-{arch}-{seed}")


def save_tiny(path: str | Path, arch: str = "llama", seed: int = 0) -> Path:
    """Write model and tokenizer as a Hugging Face folder and return it."""
    tokenizer = tiny_tokenizer()
    tiny_model(arch, seed, vocab_size=len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Path(path)


def save_tiny_adapter(path: str | Path, arch: str = "llama", seed: int = 0, *, base_seed: int = 0) -> Path:
    """Write a random LoRA adapter (strong enough to change the output) for the tiny model; plain PEFT."""
    from peft import LoraConfig, get_peft_model

    base = tiny_model(arch, base_seed, vocab_size=len(tiny_tokenizer()))
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    peft_model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(1000 + seed)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    peft_model.peft_config["default"].base_model_name_or_path = f"tiny-{arch}-{base_seed}"
    # Left at "auto", PEFT asks the hub whether the vocabulary of the base has changed.
    peft_model.save_pretrained(path, save_embedding_layers=False)
    return Path(path)
