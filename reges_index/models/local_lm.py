"""One causal LM and its LoRA adapters, in one memory, for any number of threads and tasks.

The only module of the package that lets the model run. Both experts of ReGeS (the paper's LLM_QR and LLM_G,
section 3.3) are adapters of one base, so one of them costs two megabytes and no second model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from llama_index.core.base.llms.types import ChatMessage
from peft import PeftModel

from reges_index.errors import AdapterError, InputError, ModelError
from reges_index.models.adapter_switch import AdapterSwitch
from reges_index.models.adapters import AdapterManifest, check_adapter
from reges_index.models.chat_frame import ChatFrame
from reges_index.models.embedded import resolve_base
from reges_index.models.generation import Generation, GenerationOptions, TextStream, generate_all
from reges_index.models.loading import load_base
from reges_index.models.scoring import (
    ChoiceScore,
    choose_greedily,
    score_separately,
    score_tree,
    why_no_tree,
)
from reges_index.models.text import read_text

logger = logging.getLogger(__name__)

SHIPPED_ADAPTERS = Path(__file__).parents[1] / "adapters"

Prompt: TypeAlias = str | Sequence[ChatMessage]
"""Raw text, taken verbatim, or chat messages, to which the model's chat template is applied once."""

# What an adapter's weights depend on, see `LocalLM.fingerprint`.
_BASE_FIELDS = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "tie_word_embeddings"),
)


class LocalLM:
    """A Hugging Face causal LM with named LoRA adapters.

    All methods are thread-safe: one lock covers the choice of the adapter and the forward that uses it, so
    concurrent callers wait for each other and get what they would get alone.

    Parameters
    ----------
    model
        A causal LM. It is put in eval mode and stays where it is, in its own number format.
    tokenizer
        Its tokenizer.
    name
        What adapters call this base; the model's own name or path by default.
    """

    _default: LocalLM | None = None
    _default_lock = threading.Lock()

    def __init__(self, model: Any, tokenizer: Any, *, name: str | None = None) -> None:
        given = model if isinstance(model, PeftModel) else None
        base = model if given is None else given.get_base_model()
        self.model = base.eval()
        """The Hugging Face model; its adapters are switched off whenever no method runs."""
        self.tokenizer = tokenizer
        self.name = name or str(getattr(base, "name_or_path", "") or type(base).__name__)
        self._frame = ChatFrame(tokenizer, base.generation_config.eos_token_id)
        self._switch = AdapterSwitch(base, given)
        self._manifests: dict[str, AdapterManifest | None] = dict.fromkeys(self._switch.paths)
        self._lock = threading.RLock()
        self._no_tree = why_no_tree(base)
        if self._no_tree:
            logger.warning(
                "%s cannot score choices as a tree (%s): each choice will cost a forward of the whole prompt",
                self.name,
                self._no_tree,
            )

    def __repr__(self) -> str:
        where = f"{self.model.dtype}, {self.model.device}"
        return f"LocalLM({self.name!r}, adapters={list(self.adapters)}, {where})"

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        revision: str | None = None,
        adapters: Mapping[str, str | Path] | None = None,
    ) -> LocalLM:
        """Load a base model and, if given, its adapters.

        Parameters
        ----------
        name_or_path
            A folder or hub name; None or "embedded" for SmolLM2-135M-Instruct (see :mod:`.embedded`).
        dtype
            "auto" is bf16 on hardware that computes in it, else fp32.
        device
            "auto" is a GPU if there is one.
        revision
            Branch, tag or commit of a hub model.
        adapters
            Adapter name -> folder.

        Raises
        ------
        ModelNotFoundError
            If the model is nowhere.
        ModelError
            If it is there and cannot be loaded; only safetensors are read, and no code of the model's own.
        AdapterError
            If an adapter is damaged or belongs to another base.
        """
        base = resolve_base(None if name_or_path is None else str(name_or_path), revision=revision)
        model, tokenizer = load_base(base, dtype=dtype, device=device)
        lm = cls(model, tokenizer, name=base.name)
        for adapter, path in (adapters or {}).items():
            lm.load_adapter(adapter, path)
        return lm

    @classmethod
    def default(cls) -> LocalLM:
        """Return the embedded base with the adapters that ship with this package, loaded once per process.

        Adapters are the folders in ``reges_index/adapters`` that hold one; each is named after its folder.
        """
        with cls._default_lock:
            if cls._default is None:
                cls._default = cls.from_pretrained(adapters=cls.shipped_adapters())
            return cls._default

    @staticmethod
    def shipped_adapters() -> dict[str, Path]:
        """Return the adapters of the embedded base that come with this package: name -> folder."""
        files = sorted(SHIPPED_ADAPTERS.glob("*/adapter_config.json"))
        # Beside them lie the encoder's, which say so in a manifest of their own.
        folders = [file.parent for file in files if not (file.parent / "reges_encoder.json").is_file()]
        return {folder.name: folder for folder in folders}

    # -- what it is, and texts as the tokens that it reads ---------------------------------------------

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer brings a chat template."""
        return self._frame.has_template

    @property
    def end_token_id(self) -> int:
        """The token that ends an answer (the chat template's, where there is one)."""
        return self._frame.end_token_id

    @cached_property
    def opens_thoughts(self) -> bool:
        """Whether the chat template opens the model's thoughts, so that its answers hold their end only."""
        prompt = self._frame.render([ChatMessage(content="x")]) if self.has_chat_template else ""
        return read_text(prompt).unclosed

    @cached_property
    def context_window(self) -> int:
        """Tokens that prompt and answer may have together."""
        config = self.model.config.get_text_config()
        limits = [getattr(config, "max_position_embeddings", None), getattr(config, "n_positions", None)]
        # Tokenizers without a limit say 10^30.
        limits.append(getattr(self.tokenizer, "model_max_length", None))
        known = [int(limit) for limit in limits if limit and limit < 10**8]
        if not known:
            raise ModelError(
                f"neither the config nor the tokenizer of {self.name} says how long its context is",
                hint="set model.config.max_position_embeddings",
            )
        return min(known)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what an adapter depends on: the architecture, its sizes, and every token with its id.

        Not of the weights: the same base de-quantized from a GGUF and downloaded from the hub must agree, and
        do up to rounding.
        """
        text = self.model.config.get_text_config()
        fixed = {field: getattr(text, field, None) for field in _BASE_FIELDS}
        digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode())
        vocabulary = sorted(self.tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0]))
        digest.update(json.dumps(vocabulary).encode())
        return digest.hexdigest()

    def count_tokens(self, text: str) -> int:
        """Count the tokens of ``text``, without any that a template or the tokenizer puts around it."""
        return len(self._frame.encode_answer(text)) - 1

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids of chat messages, the chat template applied once and opened for the answer.

        Text that equals a special token or a marker of the template is broken up by a space, so that no
        message can imitate the template. Without a chat template messages become "User: ..." lines and a
        warning is logged.
        """
        return self._frame.encode(messages)

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of an answer as scored by `LocalLM.score`, end token included: what training aims at."""
        return self._frame.encode_answer(text)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; a ``str`` is raw text, taken verbatim.

        Raises
        ------
        InputError
            If it is empty, or leaves no room for an answer in the context window. Nothing is cut here.
        """
        ids = self._frame.encode_raw(prompt) if isinstance(prompt, str) else self.encode_chat(prompt)
        if not ids:
            raise InputError("the prompt is empty", hint="give text or messages")
        return ids

    def _encode_within(self, prompt: Prompt, room: int) -> list[int]:
        ids = self.encode(prompt)
        if len(ids) + room > self.context_window:
            raise InputError(
                f"a prompt of {len(ids)} tokens and {room} for the answer do not fit into the "
                f"{self.context_window} tokens of {self.name}",
                hint="shorten the prompt (the experts cut dialogues and abstracts), or ask for less",
            )
        return ids

    def _encode_choices(
        self, prompt: Prompt, choices: Sequence[str], answer_start: str = ""
    ) -> tuple[list[int], list[list[int]]]:
        if isinstance(choices, str) or not choices:
            raise InputError("there is nothing to choose from", hint="give a list of one or more texts")
        empty = next((number for number, choice in enumerate(choices) if not choice.strip()), None)
        if empty is not None:
            raise InputError(f"choice {empty} is empty", hint="leave it out, or give it a text")
        answers = [self.encode_answer(choice) for choice in choices]
        start = self.encode_answer(answer_start)[:-1] if answer_start else []
        return [*self._encode_within(prompt, len(start) + max(map(len, answers))), *start], answers

    # -- adapters --------------------------------------------------------------------------------------

    @property
    def given_adapter(self) -> str | None:
        """The adapter that the model was given with, a `PeftModel`'s active one; None without one."""
        return self._switch.given

    def adapter_from(self, path: str | Path) -> str:
        """Return the name of the adapter in a folder, which is loaded if it is not yet.

        Raises
        ------
        AdapterError
            As `load_adapter`.
        """
        folder = Path(path).expanduser().resolve()
        with self._lock:
            for name, place in self._switch.paths.items():
                if place.resolve() == folder:
                    return name
            name = plain = re.sub(r"[^\w-]+", "-", folder.name) or "adapter"
            number = 1
            while name in self._switch.paths:
                number += 1
                name = f"{plain}-{number}"
            self.load_adapter(name, folder)
            return name

    def load_adapter(self, name: str, path: str | Path, *, role: str | None = None) -> AdapterManifest | None:
        """Load a LoRA adapter from a folder.

        Parameters
        ----------
        name
            Name to use it by.
        path
            Folder with ``adapter_config.json``, ``adapter_model.safetensors`` and, from this package's
            training, ``reges_adapter.json``; may begin with ``~``.
        role
            What it must have been trained for, such as "query-expert"; None takes any.

        Returns
        -------
        AdapterManifest or None
            What the adapter says of itself; None for a plain PEFT adapter, which is logged as a warning.

        Raises
        ------
        AdapterError
            If the folder is missing or damaged, if the adapter is for another base or role, or if the name
            is taken. The model is then as it was before.
        """
        folder = Path(path).expanduser()
        with self._lock:  # from the look at the name on: two threads may want it
            if name in self._switch.paths:
                raise AdapterError(
                    f"an adapter {name!r} is loaded already, from {self._switch.paths[name]}",
                    hint="load the other one under another name",
                )
            manifest = check_adapter(folder, base=self, role=role)
            self._switch.load(name, folder)
            self._manifests[name] = manifest
        return manifest

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the loaded adapters, in the order of loading."""
        return tuple(self._switch.paths)

    @property
    def adapter_paths(self) -> dict[str, Path]:
        """Where each loaded adapter came from: name -> folder."""
        return dict(self._switch.paths)

    def has_adapter(self, name: str) -> bool:
        """Whether an adapter of this name is loaded."""
        return name in self._switch.paths

    def manifest(self, name: str) -> AdapterManifest | None:
        """Return what a loaded adapter says of itself; None for a plain PEFT adapter.

        Raises
        ------
        AdapterError
            If no adapter of this name is loaded.
        """
        self.check_known(name)
        return self._manifests[name]

    def check_known(self, adapter: str | None) -> None:
        """Raise `AdapterError` for an adapter that is not loaded."""
        if adapter is not None and adapter not in self._switch.paths:
            known = ", ".join(self.adapters) or "none is loaded"
            raise AdapterError(
                f"{self.name} has no adapter {adapter!r}; known: {known}",
                hint="load it with load_adapter(name, path), or use adapter=None for the bare base",
            )

    @contextlib.contextmanager
    def _using(self, adapter: str | None) -> Iterator[None]:
        """Hold the model with this adapter switched on, or none; the bare base comes back in any case."""
        self.check_known(adapter)
        with self._lock, self._switch.on(adapter):
            yield

    # -- running it ------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        adapter: str | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        no_repeat_ngram_size: int = 0,
        num_return_sequences: int = 1,
        seed: int | None = None,
        batch_size: int = 8,
    ) -> list[list[Generation]]:
        """Write answers, in batches sorted by length.

        Parameters
        ----------
        prompts
            Raw texts or message lists, mixed as you like.
        adapter
            Name of a loaded adapter, or None for the bare base.
        max_new_tokens, temperature, top_p, stop, no_repeat_ngram_size, num_return_sequences, seed
            See :class:`GenerationOptions`. With a seed, samples are the same for the same prompts and
            ``batch_size``.
        batch_size
            Prompts per forward; the answers do not depend on it in fp32, and in bf16 nearly not.

        Returns
        -------
        list of list of Generation
            For each prompt, in the order given, ``num_return_sequences`` generations (so ``[0]`` is the
            answer in the usual case of one).

        Raises
        ------
        InputError
            For a prompt that does not fit, or options that contradict each other.
        AdapterError
            For an adapter that is not loaded.
        """
        if isinstance(prompts, str):
            raise InputError("prompts is a text, not a list of prompts", hint="give [text]")
        options = GenerationOptions.of(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=stop,
            no_repeat_ngram_size=no_repeat_ngram_size,
            num_return_sequences=num_return_sequences,
            seed=seed,
        )
        self.check_known(adapter)
        encoded = [self._encode_within(prompt, max_new_tokens) for prompt in prompts]
        return generate_all(
            self.model, self._frame, encoded, options,
            batch_size=batch_size, hold=lambda: self._using(adapter),
        )  # fmt: skip

    def stream(self, prompt: Prompt, *, adapter: str | None = None, **options: Any) -> TextStream:
        """Write one answer piece by piece.

        Parameters
        ----------
        prompt
            Raw text or messages.
        adapter
            Name of a loaded adapter, or None for the bare base.
        **options
            Fields of :class:`GenerationOptions` except ``num_return_sequences``.

        Returns
        -------
        TextStream
            An iterator of texts, whose ``result`` is the whole :class:`Generation` afterwards. What goes
            wrong while writing is raised to the reader. A reader that leaves early should ``close()`` it
            (a ``with`` block does; so does garbage collection), which ends the writing.
        """
        parsed = GenerationOptions.of(**options)
        ids = self._encode_within(prompt, parsed.max_new_tokens)
        self.check_known(adapter)
        return TextStream(self.model, self._frame, ids, parsed, lambda: self._using(adapter))

    def score(
        self, prompt: Prompt, choices: Sequence[str], *, adapter: str | None = None, answer_start: str = ""
    ) -> list[ChoiceScore]:
        """Score every choice as the answer to a prompt, for little more than reading the prompt.

        Parameters
        ----------
        prompt
            Raw text or messages.
        choices
            Texts of one or more tokens; equal ones get equal scores.
        adapter
            Name of a loaded adapter, or None for the bare base.
        answer_start
            What the answer has said before the choice, such as the reasoning of section 3.7.2 with its line
            break; it is read, not scored.

        Returns
        -------
        list of ChoiceScore
            One for each choice: log-probability of its tokens and of the end token after them.
        """
        self.check_known(adapter)
        ids, answers = self._encode_choices(prompt, choices, answer_start)
        with self._using(adapter), torch.inference_mode():
            score = score_separately if self._no_tree else score_tree
            return score(self.model, ids, answers)

    def choose(self, prompt: Prompt, choices: Sequence[str], *, adapter: str | None = None) -> int:
        """Write the answer greedily, limited to the choices, and return which one it was.

        See :func:`~reges_index.models.scoring.choose_greedily`. Parameters as in :meth:`score`. Of equal
        choices the first is returned.
        """
        self.check_known(adapter)
        ids, answers = self._encode_choices(prompt, choices)
        with self._using(adapter), torch.inference_mode():
            return choose_greedily(self.model, ids, answers, cached=not self._no_tree)
