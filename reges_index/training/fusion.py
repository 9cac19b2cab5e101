"""`FusionRecipe`: the YAML of finetune/recipes/fusion.yaml, reading what it names, and fitting by it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from reges_index.catalog.encoder import encoder_identity
from reges_index.dialogue import Message, Turn
from reges_index.files import load_yaml, sha256_of
from reges_index.fusion.features import SOURCES, CatalogSources, QueryVectors, check_sources, dialogue_texts
from reges_index.fusion.statistics import ItemStatistics
from reges_index.training.config import Place
from reges_index.training.data import DataSet, ModelName, read_data
from reges_index.training.fusion_fitting import (
    EXTRA,
    Example,
    ScorerTraining,
    TrainSet,
    fit_fusion,
    fit_weights,
    make_examples,
    recalls,
    spliced_turns,
)
from reges_index.training.recipe import DomainFolders
from reges_index.training.topic_fitting import fit_topic
from reges_index.training.vector_cache import VectorCache

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding


class FusionRecipe(BaseModel):
    """How a fusion is fitted.

    Attributes
    ----------
    data
        Train sets; of each the turns, the catalog, and where there are some, pseudo-queries (`reges finetune
        pseudo-queries`) and a teacher's rankings (`reges finetune teacher-rankings`).
    topics
        Data sets of other domains, from which a change of topic is learnt besides.
    out
        Folder of the model.
    cache
        Folder where vectors are kept between runs.
    encoder
        "reges", another encoder's name or a folder.
    without
        Sources that get no weight.
    folds
        Of the statistics, which come from other dialogues than a turn's own, and of the cross-validation.
    training
        Settings of the fit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: tuple[DataSet, ...] = Field(min_length=1)
    topics: DomainFolders | None = None
    out: Place
    cache: Place
    encoder: ModelName = "reges"
    without: tuple[str, ...] = ()
    folds: int = Field(default=3, ge=2)
    training: ScorerTraining = ScorerTraining()

    @property
    def topic_sets(self) -> list[DataSet]:
        """What a change of topic is learnt from."""
        return [*self.data, *(self.topics.data() if self.topics else ())]

    def settings(self) -> dict[str, Any]:
        """Return the settings of the fit as plain data."""
        return self.model_dump(mode="json", include={"without", "folds", "training"})

    def manifest(self, embed_model: BaseEmbedding | None = None) -> dict[str, Any]:
        """Return what the model records: encoder, data by hash, settings, versions."""
        identity = encoder_identity(embed_model or self.encoder)
        names = ("reges-index", "torch", "numpy", "bm25s")
        return {
            "encoder": {
                "name": identity.name,
                "dimension": identity.dimension,
                "text_template": identity.text_template,
            },
            "data": {its.name: [sha256_of(path) for path in its.files] for its in self.topic_sets},
            "settings": self.settings(),
            "versions": {name: version(name) for name in names},
        }


def _train_set(its: DataSet, cache: VectorCache) -> TrainSet:
    data = read_data(its)
    items = list(data.items.values())
    sources = CatalogSources(
        items, cache.get("text", [item.text() for item in items]), ItemStatistics.count([])
    )
    place = {item.id: number for number, item in enumerate(items)}

    def embedded(turns: Sequence[Turn]) -> TrainSet:
        texts = [dialogue_texts(turn.chat) for turn in turns]
        found = cache.get("query", [text for pair in texts for text in pair])
        vectors = [QueryVectors(found[2 * n], found[2 * n + 1]) for n in range(len(turns))]
        return TrainSet(its.name, turns, sources, vectors)

    found = embedded(data.turns)
    if data.rankings:
        found.rankings = [[place[i] for i in data.rankings.get(turn.id, ())] for turn in data.turns]
    found.spliced = embedded(spliced_turns(data.turns))
    found.queries = embedded(
        [
            turn.model_copy(update={"messages": (Message(role="user", content=data.queries[turn.id]),)})
            for turn in data.turns
            if turn.id in data.queries
        ]
    )
    return found


def read_recipe(path: str | Path) -> FusionRecipe:
    """Read a recipe; its paths are relative to the file. Errors are those of `load_yaml`."""
    return load_yaml(path, FusionRecipe, hint="see finetune/recipes/fusion.yaml")


def _cross_validate(
    examples: Sequence[Example], recipe: FusionRecipe, without: Collection[str]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Judge each block of examples by weights of the others; blocks are next to each other in time."""
    groups: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        groups.setdefault(example.group, []).append(number)
    fold = {n: place * recipe.folds // len(its) for its in groups.values() for place, n in enumerate(its)}
    weights = []
    for block in range(recipe.folds):
        others = [example for n, example in enumerate(examples) if fold[n] != block]
        weights.append(fit_weights(others, recipe.training, without=without))
    found: dict[str, dict[str, dict[str, float | None]]] = {"all": {}, "new": {}}
    for name, its in groups.items():
        if name == EXTRA:
            continue
        judged = [(examples[n], weights[fold[n]]) for n in its]
        for protocol, scores in found.items():
            scores[name] = recalls(judged, new=protocol == "new")
    return found


def train_by_recipe(
    recipe: FusionRecipe, *, out: Path | None = None, embed_model: BaseEmbedding | None = None
) -> dict[str, Any]:
    """Fit what a recipe describes and write the model; ``out`` and ``embed_model`` go before the recipe's.

    Returns
    -------
    ``out``, the folder of the model, and ``cross_validation``: protocol ("all", or "new" without named items)
    to data set to recall at 1, 5, 10 and 50 and the number of pairs of turn and target. Each turn is judged
    by weights that have not seen it.

    Raises
    ------
    InputError
        If data cannot be read, or a source's name is unknown.
    TrainingError
        If no turn has a target in its catalog.
    """
    without = {name for source in check_sources(recipe.without) for name in SOURCES[source]}
    cache = VectorCache(recipe.cache, embed_model or recipe.encoder)
    topic = fit_topic([read_data(its) for its in recipe.topic_sets], cache)
    sets = [_train_set(its, cache) for its in recipe.data]
    examples = make_examples(sets, recipe.training, folds=recipe.folds)
    scores = _cross_validate(examples, recipe, without)
    model = fit_fusion(sets, recipe.training, recipe.manifest(embed_model), examples, topic, without=without)
    place = recipe.out if out is None else out
    model.save(place)
    return {"out": str(place), "cross_validation": scores}
