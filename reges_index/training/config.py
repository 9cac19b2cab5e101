"""Settings of one expert's fine-tuning; the defaults are the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator


def _beside(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return path.expanduser() if folder is None else folder / path.expanduser()


Place = Annotated[Path, AfterValidator(_beside)]
"""A path as the YAML file means it in which it stands: relative to that file, or below home (~)."""


class ExpertTraining(BaseModel):
    """How one adapter is trained. Frozen; unknown keys are refused.

    Attributes
    ----------
    lora_r, lora_alpha, lora_targets
        Paper, section 3.3: "rank r = 8 and scaling factor alpha = 32, applied only to the query and value
        projection matrices".
    learning_rate
        Section 3.3: 1e-4 for 2B and 8B models; for 27B 2e-5 (LLM_QR) and 5e-5 (LLM_G). With AdamW. A model
        of 135M needs ten times as much (``finetune/RESULTS.md``).
    warmup
        Share of all steps with a rising rate; section 3.3: "over the first 10% of training steps".
    scheduler
        What follows the warm-up. The paper does not say; "linear" (to zero) is what Hugging Face's trainer
        does by default.
    max_grad_norm
        Not in the paper: the usual clipping.
    epochs
        Section 3.3: one.
    batch_size
        Examples of a micro-batch (one forward of one process); section 3.3: 2, and 1 for 27B.
    gradient_accumulation
        Micro-batches an optimizer step, those of all processes together.
    gradient_checkpointing
        Whether to compute activations twice to save memory.
    max_tokens
        Most tokens of prompt and answer; section 3.3: "maximum input sequence length to 4096 tokens".
    max_history_tokens
        Budget of the dialogue, cut from its oldest end; None leaves it to ``max_tokens``.
    max_candidate_tokens
        Budget of one candidate's details (item expert); None leaves it to ``max_tokens``.
    num_candidates
        k of section 2.4: wrong candidates beside the true one (item expert).
    negatives
        Where they come from: the retriever, chance, or both (Figure 6 compares the first two).
    candidate_order
        "shuffled" (section 2.4), or "retrieved": the retriever's order, as at inference, so that LLM_G
        learns how far to trust it. A true item that was not retrieved takes a random place.
    target_share
        With rankings of what else fits (a teacher's, or ``suitable`` of the turns): the share of the loss
        that is on the true item; the rest is on up to three others of the list that fit, by 1 / (1.5 + rank).
        1, the paper's way, knows one right answer.
    named_negatives
        How many of the items that the dialogue has named, the newest first, are among the wrong candidates:
        they were turned down, or are known already.
    share_prefixes
        Whether examples that begin alike (the turns of one dialogue) go through the model as one tree, each
        shared token once. Same loss; on INSPIRED and ReDial about half the tokens for LLM_QR.
    start_from
        Folder of an adapter of the same base, role and LoRA shape to go on from, such as the one of an
        earlier round; the chain-of-thought variant may go on from a plain item expert. None, the paper's
        way, begins with a fresh one.
    max_steps
        Optimizer steps after which to stop, whatever ``epochs`` says; None for no limit.
    save_every_minutes
        Between checkpoints.
    dtype
        Of the frozen base: "auto" is bf16 on hardware that computes in it, else fp32. The adapter is fp32.
    compile
        Whether to compile the decoder layers (torch.compile, which needs a C++ compiler on a CPU). It costs a
        minute at the start; SmolLM2-135M then trains 1.5 times as fast on a CPU. Same loss, to rounding.
    num_threads
        CPU threads; None leaves torch's choice.
    seed
        Of the adapter's first weights, the order of examples and of candidates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora_r: int = Field(default=8, ge=1)
    lora_alpha: int = Field(default=32, ge=1)
    lora_targets: tuple[str, ...] = Field(default=("q_proj", "v_proj"), min_length=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    warmup: float = Field(default=0.1, ge=0, le=1)
    scheduler: Literal["linear", "cosine"] = "linear"
    max_grad_norm: float = Field(default=1.0, gt=0)
    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=2, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False
    max_tokens: int = Field(default=4096, ge=16)
    max_history_tokens: int | None = Field(default=None, ge=1)
    max_candidate_tokens: int | None = Field(default=None, ge=0)
    num_candidates: int = Field(default=50, ge=1)
    negatives: Literal["hard", "random", "mixed"] = "hard"
    candidate_order: Literal["shuffled", "retrieved"] = "shuffled"
    target_share: float = Field(default=1.0, gt=0, le=1)
    named_negatives: int = Field(default=0, ge=0)
    share_prefixes: bool = False
    start_from: Place | None = None
    max_steps: int | None = Field(default=None, ge=1)
    save_every_minutes: float = Field(default=3.0, gt=0)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    num_threads: int | None = Field(default=None, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _has_an_order(self) -> ExpertTraining:
        if self.candidate_order == "retrieved" and self.negatives != "hard":
            raise ValueError("candidate_order 'retrieved' needs negatives 'hard': others have no order")
        return self
