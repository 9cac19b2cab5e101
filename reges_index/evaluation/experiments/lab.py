"""What the experiments share: data, retriever, model, and the runs that several of them need."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llama_index.core.llms.llm import LLM

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.catalog.live import open_catalog_at
from reges_index.dialogue import Turn, newest_text, render_history
from reges_index.errors import ConfigError
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.experiments.systems import (
    Predict,
    QueryKind,
    System,
    each,
    embed_texts,
    reasoned_freely,
    run_system,
    selected,
    texts_of,
    writing,
)
from reges_index.evaluation.predictions import Prediction, TitleMatcher, align
from reges_index.evaluation.scoring import Evaluation, evaluate_systems
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.files import hash_of, sha256_of
from reges_index.fusion.model import FusionModel
from reges_index.item_expert.prompt import selection_prompt_hash
from reges_index.item_expert.rerank import ReGeSRerank
from reges_index.models.adapters import WEIGHTS_FILE
from reges_index.models.backend import LocalBackend, resolve_backend
from reges_index.models.local_lm import LocalLM
from reges_index.models.named import api_kind, open_llm
from reges_index.query_expert.prompt import query_prompt_hash
from reges_index.query_expert.transform import ReGeSQueryTransform
from reges_index.training.pseudo_queries import read_notes

logger = logging.getLogger(__name__)

_SPOKEN_TOKENS = 256
# Paths, and what only scoring reads, are not among them.
_SHOWN_SETTINGS = {"candidates", "limit", "batch_size", "seed", "resamples", "level"}
DEPTH = 200
"""Items retrieved: room for 50 after mentioned ones have left."""

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
    llm
        An LLM of the user's own, behind an API for example, that chooses and writes in Table 1; the trained
        query expert stays ``lm``'s. None: ``lm`` does all.
    references
        Turn id to reference query, for Table 2 and as the oracle of Figures 5 and 7.
    retrievers
        Further retrievers by name, for Figures 5 and 7.
    systems
        Systems of the caller's own, which join Table 1.
    fusion
        A trained fusion, which joins Table 1 and whose sources `selection.ablation` switches off.
    """

    data: EvaluationData
    catalog: ItemCatalog
    folder: Path
    lm: LocalLM | None = None
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)
    llm: LLM | None = None
    references: Mapping[str, str] = field(default_factory=dict)
    retrievers: Mapping[str, ItemCatalog] = field(default_factory=dict)
    systems: Sequence[System] = ()
    fusion: FusionModel | None = None

    def __post_init__(self) -> None:
        absent = [item.id for item in self.data.items if item.id not in self.catalog]
        if absent:
            raise ConfigError(
                f"{len(absent)} items are not in catalog {self.catalog.name!r} (first: {absent[0]!r})",
                hint="index the same file that is given as --catalog",
            )
        self._queries: dict[tuple[str, str], dict[str, list[str]]] = {}
        self._found: dict[QueryKind, dict[str, list[str]]] = {}

    # -- what everything depends on ----------------------------------------------------------------

    @cached_property
    def _items_hash(self) -> str:
        # Titles and abstracts stand in prompts and are what is searched, so ids alone say too little.
        return hash_of([item.model_dump(mode="json") for item in self.data.items], digits=16)

    @cached_property
    def matcher(self) -> TitleMatcher:
        """Titles of the catalog."""
        return TitleMatcher(self.data.items)

    def model(self) -> LocalLM:
        """Return the model, or raise `NotRunnable`."""
        if self.lm is None:
            raise NotRunnable("it needs a model", hint="give --model, or install the embedded default")
        return self.lm

    @property
    def chooser(self) -> LLM | LocalLM:
        """The LLM that chooses and writes in Table 1: the user's own, else the model."""
        return self.llm if self.llm is not None else self.model()

    @property
    def chooser_name(self) -> str:
        """What the tables call `chooser`."""
        llm = self.llm
        name = str(llm.metadata.model_name or llm.class_name()) if llm is not None else self.model().name
        return name.split("/")[-1]

    def adapter_or_none(self, name: str) -> str | None:
        """Return the adapter's name if it is loaded."""
        return name if self.model().has_adapter(name) else None

    @cached_property
    def adapter_files(self) -> dict[str, str]:
        """The hash of each adapter's weights as a file: two of one name are two adapters."""
        paths = self.lm.adapter_paths if self.lm is not None else {}
        return {name: sha256_of(path / WEIGHTS_FILE) for name, path in paths.items()}

    def _adapter_hash(self, name: str | None) -> str | None:
        return None if name is None else f"{name} {self.adapter_files[name][:16]}"

    def about(self) -> dict[str, Any]:
        """Describe data, model, adapters and settings for the reports."""
        names = [self.chooser_name] if self.llm is not None else []
        names += [repr(self.lm)] if self.lm is not None else []
        return {
            "data": {"hash": self.data.hash, "files": self.data.files, "turns": len(self.data.turns)},
            "encoder": self.catalog.encoder.name,
            "model": " and ".join(names) or "none",
            "prompts": {"query expert": query_prompt_hash(), "item expert": selection_prompt_hash()},
            "adapters": ", ".join(f"{name} {file[:16]}" for name, file in self.adapter_files.items()),
            "adapter_files": self.adapter_files,
            "settings": {
                **self.settings.model_dump(mode="json", exclude_none=True, include=_SHOWN_SETTINGS),
                "dataset": self.settings.paper_dataset(),
            },
        }

    def _run_settings(self, turns: Sequence[Turn], **more: Any) -> dict[str, Any]:
        said = [[turn.id, [m.content for m in turn.messages]] for turn in turns]
        return {
            "turns": hash_of(said, digits=16),
            "items": self._items_hash,
            "encoder": self.catalog.encoder.name,
            "model": self.lm.name if self.lm else None,
            **({"llm": self.chooser_name} if self.llm is not None else {}),
            "base": self.lm.fingerprint if self.lm else None,
            **more,
        }

    # -- queries and candidates --------------------------------------------------------------------

    def queries(self, kind: QueryKind, *, train: Sequence[Turn] = ()) -> dict[str, list[str]]:
        """Return the texts of the query alone, by turn id; written by the model once and then kept.

        Parameters
        ----------
        train
            Train turns to write queries for, instead of the turns that are measured on.
        """
        turns = train or self.data.turns
        if kind == "original":
            return {turn.id: [render_history(turn.chat).text] for turn in turns}
        split = "train" if train else "turns"
        if (kind, split) not in self._queries:
            lm = self.model()
            adapter = QUERY_ADAPTER if kind == "augmented" else None
            if adapter is not None and not lm.has_adapter(adapter):
                raise NotRunnable(
                    "it needs a trained query expert (adapter query-expert), which is not loaded"
                )
            writer = self.llm if kind == "direct" and self.llm is not None else lm
            transform = ReGeSQueryTransform(writer, adapter=adapter)
            settings = self._run_settings(
                turns,
                kind=kind,
                adapter=self._adapter_hash(adapter),
                decoding=transform.decoding.model_dump(mode="json"),
                history=transform.max_history_tokens,
                prompt=query_prompt_hash(),
            )
            path = self.folder / "runs" / f"queries-{kind}-{split}.jsonl"
            logger.info("%s queries for %d turns: %s", kind, len(turns), path)
            made = run_system(writing(transform), turns, path, settings, batch_size=self.settings.batch_size)
            beside = bool(transform.decoding.context_messages)  # the newest messages, as one more text
            self._queries[kind, split] = {
                turn: own[:-1] if beside and len(own) > 1 else own for turn, own in texts_of(made).items()
            }
        return self._queries[kind, split]

    def searched(self, kind: QueryKind, *, train: Sequence[Turn] = ()) -> dict[str, list[str]]:
        """Return what the product searches with: LLM_QR's query beside what its manifest advises."""
        alone = self.queries(kind, train=train)
        if kind != "augmented" or not self.advised_context:
            return alone
        spoken = self.spoken(train or self.data.turns, self.advised_context)
        return {turn: [*texts, spoken[turn]] for turn, texts in alone.items()}

    @cached_property
    def advised_context(self) -> int:
        """How many of the newest messages the query expert's manifest wants beside a query."""
        manifest = self.lm.manifest(QUERY_ADAPTER) if self.lm and self.lm.has_adapter(QUERY_ADAPTER) else None
        return int(manifest.inference.get("decoding", {}).get("context_messages", 0)) if manifest else 0

    def spoken(self, turns: Sequence[Turn], count: int) -> dict[str, str]:
        """Return the newest ``count`` messages of each turn as one text, as the query expert embeds them."""
        measure = resolve_backend(self.lm, role=QUERY_ADAPTER, adapter=None).measure if self.lm else None
        texts = {turn.id: newest_text(turn.chat, count) for turn in turns}
        if measure is None:
            return texts
        return {turn: measure.tail(text, _SPOKEN_TOKENS).strip() for turn, text in texts.items()}

    def best_kind(self) -> QueryKind:
        """Return ``augmented`` where there is a query expert, else ``original``."""
        return "augmented" if self.lm is not None and self.lm.has_adapter(QUERY_ADAPTER) else "original"

    def retrieved(
        self,
        queries: Mapping[str, Sequence[str]],
        run: str,
        catalog: ItemCatalog | None = None,
        *,
        turns: Sequence[Turn] | None = None,
    ) -> list[Prediction]:
        """Return what a retriever finds for each turn; kept in ``runs/<run>.jsonl``.

        Kept on the disk because an approximate index need not find the very same list again, and a run
        that goes on must go on with the candidates that it began with.
        """
        searching = catalog or self.catalog

        def find(turn: Turn) -> Prediction:
            texts = queries[turn.id]
            vectors = embed_texts([texts], searching.embed_model).tolist()
            (found,) = searching.retrieve_batch(vectors, DEPTH)
            return Prediction(id=turn.id, ranking=tuple(item for item, _ in found), query=texts[0])

        asked = hash_of([list(queries[turn.id]) for turn in turns or self.data.turns], digits=16)
        return self.run(
            each(find), run, turns=turns, retriever=searching.encoder.name, depth=DEPTH, queries=asked
        )

    def shown(self, top_k: int, kind: QueryKind | None = None) -> dict[str, list[str]]:
        """Return the first ``top_k`` items that the retriever finds, by turn id, best first.

        Parameters
        ----------
        kind
            Of the queries; None takes `best_kind`.
        """
        kind = kind or self.best_kind()
        if kind not in self._found:
            made = self.retrieved(self.searched(kind), f"retrieved-0-{kind}")
            self._found[kind] = {p.id: list(p.ranking) for p in made}
        return {turn: ids[:top_k] for turn, ids in self._found[kind].items()}

    # -- selection ---------------------------------------------------------------------------------

    def rerank(self, adapter: str | None, *, own: bool = False, **options: Any) -> ReGeSRerank:
        """Return an item expert that ranks everything it is shown.

        Parameters
        ----------
        own
            Of the user's LLM where there is one (`chooser`), which has no adapter and chooses as the product
            does by default.
        """
        options |= {"top_n": 10**6, "seed": self.settings.seed}
        if own and self.llm is not None:
            return ReGeSRerank(self.llm, **options)
        lm = self.model()
        # Untrained ones get the same budgets as the trained one recommends.
        trained = lm.manifest(ITEM_ADAPTER) if lm.has_adapter(ITEM_ADAPTER) else None
        for name in ("max_candidate_tokens", "max_history_tokens"):
            options[name] = trained.inference.get(name) if trained is not None else None
        return ReGeSRerank(lm, adapter=adapter, **options)

    def select(
        self,
        candidates: Mapping[str, Sequence[str]],
        run: str,
        *,
        adapter: str | None,
        turns: Sequence[Turn] | None = None,
        own: bool = False,
        freely: bool = False,
        **options: Any,
    ) -> list[Prediction]:
        """Let the item expert choose among given candidates; kept in ``runs/<run>.jsonl``.

        Parameters
        ----------
        own, options
            As for `rerank`.
        freely
            Whether a chain of thought ends in free text, as in the paper (`systems.reasoned_freely`).
        """
        rerank = self.rerank(adapter, own=own, **options)
        choose = reasoned_freely if freely else selected

        def answer(turn: Turn) -> Prediction:
            listed = [self.data.by_id[item] for item in candidates[turn.id]]
            return choose(rerank, listed, turn, self.matcher)

        # Budgets and length penalty come from the adapter's manifest, which may change.
        backend = rerank.backend
        penalty = rerank.asking["length_penalty"]
        template: Any = rerank.get_prompts()["select_prompt"]
        return self.run(
            each(answer), run, turns=turns, candidates=candidates, mode=str(rerank.mode), freely=freely,
            adapter=self._adapter_hash(backend.adapter if isinstance(backend, LocalBackend) else None),
            prompt=selection_prompt_hash(template), budgets=asdict(rerank.budget),
            **({"length_penalty": penalty} if penalty else {}),
        )  # fmt: skip

    def end_to_end(
        self, top_k: int, adapter: str | None, *, mode: str = "score", own: bool = False, freely: bool = False
    ) -> list[Prediction]:
        """Retrieve and choose; run once for all experiments that want the same."""
        own = own and self.llm is not None
        by = "own" if own else adapter or "bare"
        run = f"{mode}{'-freely' * freely}-{top_k}-{self.best_kind()}-{by}"
        options: dict[str, Any] = {} if own else {"mode": mode}
        return self.select(self.shown(top_k), run, adapter=adapter, own=own, freely=freely, **options)

    def run(
        self,
        predict: Predict,
        run: str,
        *,
        turns: Sequence[Turn] | None = None,
        candidates: Mapping[str, Sequence[str]] | None = None,
        **settings: Any,
    ) -> list[Prediction]:
        """Run any system; what it was shown is part of what a run is known by."""
        turns = self.data.turns if turns is None else turns
        shown = [[turn.id, list((candidates or {}).get(turn.id, ()))] for turn in turns]
        described = self._run_settings(
            turns, **settings, seed=self.settings.seed, candidates=hash_of(shown, digits=16)
        )
        path = self.folder / "runs" / f"{run}.jsonl"
        logger.info("%s over %d turns", path, len(turns))
        return run_system(predict, turns, path, described, batch_size=self.settings.batch_size)

    def measured(
        self,
        predictions: Mapping[str, Sequence[Prediction]],
        *,
        data: EvaluationData | None = None,
        baselines: bool = False,
    ) -> Evaluation:
        """Score predictions by system.

        Parameters
        ----------
        data
            Other turns than the lab's; not with ``baselines``.
        baselines
            Whether the baselines stand beside them; the retriever's is its run for the whole dialogue.
        """
        data = data or self.data

        def retrieve(_queries: list[str], top_k: int) -> list[list[str]]:
            found = self.shown(top_k, "original")
            return [found[turn.id] for turn in self.data.turns]

        return evaluate_systems(
            data,
            [align(name, made, data, matcher=self.matcher) for name, made in predictions.items()],
            settings=self.settings,
            retrieve=retrieve if baselines else None,
            baselines=baselines,
        )


def _open_models(config: EvaluationSettings) -> tuple[LocalLM, LLM | None]:
    """Return the model with its adapters, and the LLM behind an API where one is named."""
    name = config.model
    own = open_llm(name) if name is not None and api_kind(name) is not None else None
    if own is not None:
        name = None  # the trained experts' rows stay those of the embedded model
    # A model of its own, as adapters are loaded into it: the default one is shared by the whole process.
    lm = LocalLM.from_pretrained(None if name == "embedded" else name)
    shipped = LocalLM.shipped_adapters() if name in (None, "embedded") else {}
    for adapter, folder in (
        (QUERY_ADAPTER, config.query_adapter),
        (ITEM_ADAPTER, config.item_adapter),
        (RANDOM_ADAPTER, config.random_adapter),
        (COT_ADAPTER, config.cot_adapter),
    ):
        chosen = shipped.get(adapter) if folder is None else folder
        if chosen is not None and chosen != "none":
            lm.load_adapter(adapter, chosen, role=ITEM_ADAPTER if adapter == RANDOM_ADAPTER else adapter)
    return lm, own if isinstance(own, LLM) else None


def _open_catalogs(
    config: EvaluationSettings, data: EvaluationData
) -> tuple[ItemCatalog, dict[str, ItemCatalog]]:
    made = Path(config.out or ".") / "store"

    def index(name: str, encoder: str | None) -> ItemCatalog:
        return ItemCatalog.from_items(data.items, persist_dir=made, name=name, embed_model=encoder)

    if config.store is None:
        catalog = index(config.name, config.encoder)
    else:
        opened = open_catalog_at(config.store, config.name, config.encoder)
        # All experiments read one version, whatever is swapped while they run.
        catalog = opened.current if isinstance(opened, LiveCatalog) else opened
    return catalog, {encoder: index(f"more-{n}", encoder) for n, encoder in enumerate(config.more_encoders)}


def build_lab(config: EvaluationSettings) -> Lab:
    """Read the data, open catalog and model, and put the lab together.

    Raises
    ------
    ReGeSError
        As the parts say.
    """
    for name in ("conversations", "catalog", "out"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is missing", hint=f"give --{name}, or {name}: in the YAML file")
    data = EvaluationData.read(config.conversations, config.catalog, config.train)
    if config.limit is not None:
        data = data.subset(data.turns[: config.limit])
    references = read_notes(config.references, "query") if config.references else {}
    catalog, more = _open_catalogs(config, data)
    lm, llm = _open_models(config)
    fusion = FusionModel.default()
    return Lab(
        data=data,
        catalog=catalog,
        folder=Path(config.out or "."),
        lm=lm,
        settings=config,
        llm=llm,
        references=references,
        retrievers=more,
        fusion=fusion if fusion.fits(catalog) else None,
    )
