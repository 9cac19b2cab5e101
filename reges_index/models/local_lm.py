"""One causal LM and its LoRA adapters, in one memory, for any number of threads and tasks.

The only module of the package that lets the model run. Both experts of ReGeS (the paper's LLM_QR and LLM_G,
section 3.3) are adapters of one base, so one of them costs two megabytes and no second model.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from reges_index.errors import InputError
from reges_index.models.adapted_model import AdaptedModel
from reges_index.models.constrained import choose_greedily
from reges_index.models.generation import Generation, GenerationOptions, as_stop, generate_all, stream_options
from reges_index.models.loading import load_base
from reges_index.models.streaming import TextStream
from reges_index.models.tokenized_model import Prompt
from reges_index.models.tree_scoring import ChoiceScore, can_score_tree, score_separately, score_tree

__all__ = ["LocalLM", "Prompt"]

logger = logging.getLogger(__name__)

SHIPPED_ADAPTERS = Path(__file__).parents[1] / "adapters"


class LocalLM(AdaptedModel):
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
        super().__init__(model, tokenizer, name=name)
        self._no_tree = can_score_tree(model)
        self.separate_scorings = 0
        """How many calls of :meth:`score` took k separate forwards, since the model cannot take a tree."""
        if self._no_tree:
            logger.warning(
                "%s cannot score choices as a tree (%s): each choice will cost a forward of the whole prompt",
                self.name,
                self._no_tree,
            )

    def __repr__(self) -> str:
        where = f"{self._model.dtype}, {self._model.device}"
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
        model, tokenizer, name = load_base(name_or_path, dtype=dtype, device=device, revision=revision)
        lm = cls(model, tokenizer, name=name)
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

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        adapter: str | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        repetition_penalty: float = 1.0,
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
        max_new_tokens, temperature, top_p, stop, repetition_penalty, no_repeat_ngram_size, \
num_return_sequences, seed
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
        options = GenerationOptions(
            max_new_tokens,
            temperature,
            top_p,
            as_stop(stop),
            repetition_penalty,
            no_repeat_ngram_size,
            num_return_sequences,
            seed,
        )
        self.check_known(adapter)
        encoded = [self._encode_within(prompt, max_new_tokens) for prompt in prompts]
        return generate_all(
            self._model,
            self._frame,
            encoded,
            options,
            batch_size=batch_size,
            hold=lambda: self._using(adapter),
        )

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
        parsed = stream_options(options)
        ids = self._encode_within(prompt, parsed.max_new_tokens)
        self.check_known(adapter)
        return TextStream(self._model, self._frame, ids, parsed, lambda: self._using(adapter))

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
            if self._no_tree:
                self.separate_scorings += 1
                return score_separately(self._model, ids, answers)
            return score_tree(self._model, ids, answers)

    def choose(self, prompt: Prompt, choices: Sequence[str], *, adapter: str | None = None) -> int:
        """Write the answer greedily, limited to the choices, and return which one it was.

        See :func:`~reges_index.models.constrained.choose_greedily`. Parameters as in :meth:`score`. Of equal
        choices the first is returned.
        """
        self.check_known(adapter)
        ids, answers = self._encode_choices(prompt, choices)
        with self._using(adapter), torch.inference_mode():
            return choose_greedily(self._model, ids, answers, cached=not self._no_tree)

    # -- the same without blocking an event loop -------------------------------------------------------

    async def agenerate(self, prompts: Sequence[Prompt], **options: Any) -> list[list[Generation]]:
        """Do :meth:`generate` in a thread."""
        return await asyncio.to_thread(self.generate, prompts, **options)

    async def ascore(
        self, prompt: Prompt, choices: Sequence[str], *, adapter: str | None = None, answer_start: str = ""
    ) -> list[ChoiceScore]:
        """Do :meth:`score` in a thread."""
        return await asyncio.to_thread(
            self.score, prompt, choices, adapter=adapter, answer_start=answer_start
        )

    async def achoose(self, prompt: Prompt, choices: Sequence[str], *, adapter: str | None = None) -> int:
        """Do :meth:`choose` in a thread."""
        return await asyncio.to_thread(self.choose, prompt, choices, adapter=adapter)

    async def astream(
        self, prompt: Prompt, *, adapter: str | None = None, **options: Any
    ) -> AsyncIterator[str]:
        """Do :meth:`stream` without blocking the event loop."""
        stream = await asyncio.to_thread(self.stream, prompt, adapter=adapter, **options)
        try:
            while (piece := await asyncio.to_thread(next, stream, None)) is not None:
                yield piece
        finally:
            stream.close()
