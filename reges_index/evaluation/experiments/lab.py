"""What the experiments share: data, retriever, model, and the runs that several of them need."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llama_index.core.prompts import PromptTemplate

from reges_index.catalog.catalog import ItemCatalog
from reges_index.dialogue import Turn
from reges_index.errors import ConfigError
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.experiments.queries import (
    QUERY_NAMES,
    QueryKind,
    Retrieving,
    original_queries,
    written_queries,
)
from reges_index.evaluation.experiments.settings import LabSettings
from reges_index.evaluation.experiments.systems import Selecting, System, run_system
from reges_index.evaluation.files import sha256_of
from reges_index.evaluation.predictions import Prediction
from reges_index.evaluation.titles import TitleMatcher
from reges_index.fusion.model import FusionModel
from reges_index.item_expert.prompt import DEFAULT_SELECT_TMPL, selection_prompt_hash
from reges_index.item_expert.rerank import ReGeSRerank, RerankMode
from reges_index.models.adapter_switch import WEIGHTS_FILE
from reges_index.models.local_lm import LocalLM
from reges_index.query_expert.prompt import query_prompt_hash
from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = ["Lab", "LabSettings", "NotRunnable"]

logger = logging.getLogger(__name__)

QUERY_ADAPTER = "query-expert"
ITEM_ADAPTER = "item-expert"
RANDOM_ADAPTER = "item-expert-random"
COT_ADAPTER = "item-expert-cot"


class NotRunnable(ConfigError):
    """The experiment, or one of its systems, needs something that was not given."""


@dataclass
class Lab:
    """A data set, a retriever and a model, with a folder that keeps every run.

    Attributes
    ----------
    data
        Turns to measure on, items, and train turns where Figure 8 shall run.
    catalog
        The retriever; holds the same items as ``data``.
    folder
        Runs go to ``folder/runs``.
    lm
        The model with its adapters (``query-expert``, ``item-expert``, ``item-expert-random``,
        ``item-expert-cot``, as far as there are any); None allows only what needs no model.
    references
        Turn id to reference query, for Table 2.
    retrievers
        Further retrievers by name, for Figures 5 and 7.
    systems
        Systems of the caller's own, which join Table 1.
    fusion
        A trained fusion, which joins Table 1 and whose sources `ablation` switches off.
    command
        What was called, for the reports; None for this process's command line.
    """

    data: EvaluationData
    catalog: ItemCatalog
    folder: Path
    lm: LocalLM | None = None
    settings: LabSettings = field(default_factory=LabSettings)
    references: Mapping[str, str] = field(default_factory=dict)
    retrievers: Mapping[str, ItemCatalog] = field(default_factory=dict)
    systems: Sequence[System] = ()
    fusion: FusionModel | None = None
    command: Sequence[str] | None = None

    def __post_init__(self) -> None:
        absent = [item.id for item in self.data.items if item.id not in self.catalog]
        if absent:
            raise ConfigError(
                f"{len(absent)} items are not in catalog {self.catalog.name!r} (first: {absent[0]!r})",
                hint="index the same file that is given as --catalog",
            )
        self._queries: dict[tuple[QueryKind, str], dict[str, list[str]]] = {}
        self._found: dict[QueryKind, dict[str, list[str]]] = {}

    # -- what everything depends on ----------------------------------------------------------------

    @cached_property
    def _items_hash(self) -> str:
        # Titles and abstracts stand in prompts and are what is searched, so ids alone say too little.
        digest = hashlib.sha256()
        for item in self.data.items:
            digest.update(item.model_dump_json().encode() + b"\n")
        return digest.hexdigest()[:16]

    @cached_property
    def matcher(self) -> TitleMatcher:
        """Titles of the catalog."""
        return TitleMatcher(self.data.items)

    def model(self) -> LocalLM:
        """Return the model, or raise `NotRunnable`."""
        if self.lm is None:
            raise NotRunnable("it needs a model", hint="give --model, or install the embedded default")
        return self.lm

    def fusion_model(self) -> FusionModel:
        """Return the fusion, or raise `NotRunnable`."""
        if self.fusion is None:
            raise NotRunnable("it needs a fusion that was trained with this encoder")
        return self.fusion

    def needs_adapter(self, name: str, what: str) -> str:
        """Return the adapter's name, or raise `NotRunnable`."""
        if not self.model().has_adapter(name):
            raise NotRunnable(f"it needs {what}, which is not loaded")
        return name

    def adapter_or_none(self, name: str) -> str | None:
        """Return the adapter's name if it is loaded."""
        return name if self.model().has_adapter(name) else None

    def adapter_hash(self, name: str | None) -> str | None:
        """Return the adapter's name and a hash of its weights: two of one name are two adapters."""
        if name is None:
            return None
        digest = hashlib.sha256()
        own = [(n, p) for n, p in self.model().model.named_parameters() if f".{name}." in n]
        for parameter, values in sorted(own, key=lambda pair: pair[0]):
            digest.update(parameter.encode())
            digest.update(values.detach().float().cpu().numpy().tobytes())
        return f"{name} {digest.hexdigest()[:16]}"

    def _adapter_files(self) -> dict[str, str]:
        """Return the hash of each adapter's weights as a file, which tells whose results these are."""
        paths = self.lm.adapter_paths if self.lm else {}
        return {name: sha256_of(path / WEIGHTS_FILE) for name, path in paths.items()}

    def about(self) -> dict[str, Any]:
        """Describe data, model, adapters and settings for the reports."""
        adapters = [self.adapter_hash(name) for name in (self.lm.adapters if self.lm else ())]
        return {
            "data": {"hash": self.data.hash, "files": self.data.files, "turns": len(self.data.turns)},
            "encoder": self.catalog.encoder.name,
            "model": repr(self.lm) if self.lm else "none",
            "prompts": {"query expert": query_prompt_hash(), "item expert": selection_prompt_hash()},
            "adapters": ", ".join(str(name) for name in adapters),
            "adapter_files": self._adapter_files(),
            "settings": json.loads(json.dumps(asdict(self.settings))),  # lists, as in the file
            "command": self.command,
        }

    def _run_settings(self, turns: Sequence[Turn], **more: Any) -> dict[str, Any]:
        said = json.dumps([[turn.id, [m.content for m in turn.messages]] for turn in turns])
        return {
            "turns": hashlib.sha256(said.encode()).hexdigest()[:16],
            "items": self._items_hash,
            "encoder": self.catalog.encoder.name,
            "model": self.lm.name if self.lm else None,
            "base": self.lm.fingerprint if self.lm else None,
            **more,
        }

    # -- queries and candidates --------------------------------------------------------------------

    def queries(self, kind: QueryKind, *, train: Sequence[Turn] = ()) -> dict[str, list[str]]:
        """Return the texts to search with, by turn id; written by the model once and then kept.

        Parameters
        ----------
        train
            Train turns to write queries for, instead of the turns that are measured on.
        """
        split = "train" if train else "turns"
        turns = train or self.data.turns
        if (kind, split) not in self._queries:
            if kind == "original":
                found = original_queries(turns)
            else:
                lm = self.model()
                adapter = None
                if kind == "augmented":
                    adapter = self.needs_adapter(
                        QUERY_ADAPTER, "a trained query expert (adapter query-expert)"
                    )
                transform = ReGeSQueryTransform(lm, adapter=adapter)
                settings = self._run_settings(
                    turns,
                    kind=kind,
                    adapter=self.adapter_hash(adapter),
                    decoding=asdict(transform.decoding),
                    history=transform.max_history_tokens,
                    prompt=query_prompt_hash(),
                )
                path = self.folder / "runs" / f"queries-{kind}-{split}.jsonl"
                logger.info("%s queries for %d turns: %s", kind, len(turns), path)
                found = written_queries(turns, transform, path, settings, batch_size=self.settings.batch_size)
            self._queries[kind, split] = found
        return self._queries[kind, split]

    def best_kind(self) -> QueryKind:
        """Return ``augmented`` where there is a query expert, else ``original``."""
        return "augmented" if self.lm is not None and self.lm.has_adapter(QUERY_ADAPTER) else "original"

    def retrieved(
        self, queries: Mapping[str, Sequence[str]], name: str, run: str, catalog: ItemCatalog | None = None
    ) -> list[Prediction]:
        """Return what a retriever finds for each turn; kept in ``runs/<run>.jsonl``.

        Kept on the disk because an approximate index need not find the very same list again, and a run
        that goes on must go on with the candidates that it began with.
        """
        catalog = catalog or self.catalog
        system = Retrieving(name, queries, catalog, self.settings.depth)
        asked = json.dumps([list(queries[turn.id]) for turn in self.data.turns])
        settings = {
            "retriever": catalog.encoder.name,
            "depth": self.settings.depth,
            "queries": hashlib.sha256(asked.encode()).hexdigest()[:16],
        }
        return self.run(system, {}, settings, run=run)

    def shown(self, top_k: int, kind: QueryKind | None = None) -> dict[str, list[str]]:
        """Return the first ``top_k`` items that the retriever finds, by turn id, best first.

        Parameters
        ----------
        kind
            Of the queries; None takes `best_kind`.
        """
        kind = kind or self.best_kind()
        if kind not in self._found:
            made = self.retrieved(self.queries(kind), QUERY_NAMES[kind], f"retrieved-0-{kind}")
            self._found[kind] = {p.id: list(p.ranking) for p in made}
        return {turn: ids[:top_k] for turn, ids in self._found[kind].items()}

    # -- selection ---------------------------------------------------------------------------------

    def rerank(self, adapter: str | None, *, mode: RerankMode = "score", **options: Any) -> ReGeSRerank:
        """Return an item expert that ranks everything it is shown."""
        lm = self.model()
        trained = lm.manifest(ITEM_ADAPTER) if lm.has_adapter(ITEM_ADAPTER) else None
        advice = trained.inference if trained is not None else {}
        s = self.settings
        return ReGeSRerank(
            lm,
            adapter=adapter,
            mode=mode,
            top_n=10**6,
            seed=s.seed,
            max_candidate_tokens=s.max_candidate_tokens or advice.get("max_candidate_tokens"),
            max_history_tokens=s.max_history_tokens or advice.get("max_history_tokens"),
            **options,
        )

    def select(
        self,
        name: str,
        candidates: Mapping[str, Sequence[str]],
        *,
        adapter: str | None,
        mode: RerankMode = "score",
        turns: Sequence[Turn] | None = None,
        run: str,
    ) -> list[Prediction]:
        """Let the item expert choose among given candidates; kept in ``runs/<run>.jsonl``."""
        rerank = self.rerank(adapter, mode=mode)
        system = Selecting(name, rerank, candidates, self.data.by_id, self.matcher)
        settings = {**self.selection_settings(rerank, adapter), "mode": mode}
        return self.run(system, candidates, settings, turns=turns, run=run)

    def selection_settings(
        self, rerank: ReGeSRerank, adapter: str | None, template: PromptTemplate = DEFAULT_SELECT_TMPL
    ) -> dict[str, Any]:
        """Return what an item expert's choice depends on: weights, prompt, budgets and length penalty.

        The last two come from the adapter's manifest where the settings name none, and a manifest may change.
        """
        penalty = rerank.asking["length_penalty"]
        return {
            "adapter": self.adapter_hash(adapter),
            "prompt": selection_prompt_hash(template),
            "budgets": asdict(rerank.budget),
            **({"length_penalty": penalty} if penalty else {}),  # runs from before it was named have none
        }

    def end_to_end(
        self, name: str, top_k: int, adapter: str | None, *, mode: RerankMode = "score"
    ) -> list[Prediction]:
        """Retrieve and choose; run once for all experiments that want the same."""
        run = f"{mode}-{top_k}-{self.best_kind()}-{adapter or 'bare'}"
        return self.select(name, self.shown(top_k), adapter=adapter, mode=mode, run=run)

    def run(
        self,
        system: System,
        candidates: Mapping[str, Sequence[str]],
        settings: Mapping[str, Any],
        *,
        turns: Sequence[Turn] | None = None,
        run: str,
    ) -> list[Prediction]:
        """Run any system; what it was shown is part of what a run is known by."""
        turns = self.data.turns if turns is None else turns
        shown = json.dumps([[turn.id, list(candidates.get(turn.id, ()))] for turn in turns])
        described = self._run_settings(
            turns,
            **settings,
            seed=self.settings.seed,
            candidates=hashlib.sha256(shown.encode()).hexdigest()[:16],
        )
        path = self.folder / "runs" / f"{run}.jsonl"
        logger.info("%s over %d turns: %s", system.name, len(turns), path)
        return run_system(system, turns, path, described, batch_size=self.settings.batch_size)
