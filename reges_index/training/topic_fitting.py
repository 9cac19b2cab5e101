"""Fitting `TopicChange`: real dialogues, which go on, against such that end in somebody else's wish."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from reges_index.catalog import Item
from reges_index.dialogue import Message, Turn
from reges_index.fusion.features import dialogue_texts
from reges_index.fusion.topic import SAME_TOPIC, TopicChange, topic_features
from reges_index.training.data import TrainingData
from reges_index.training.fusion_fitting import up_to_an_answer, user_messages
from reges_index.training.vector_cache import VectorCache

logger = logging.getLogger(__name__)

# Of one data set, so that large ones do not outweigh the many small ones.
_MOST = 1000
# The inverse strength of the penalty, chosen on fourteen domains that were left out (finetune/FUSION.md).
_C = 0.01
# How people come to something else; often they just say it.
_LEADS = (
    "{}", "{}", "{}", "{} please", "actually, i'd rather have {}", "actually {}", "no, {} instead", "now {}",
    "what about {}?", "how about {}?", "ok and {}", "and {}?", "thanks. now {}",
    "great. and {} for my friend", "something different: {}", "let's try {}", "forget that, {}",
    "hmm, maybe {}", "can you find {}?", "i also need {}",
)  # fmt: skip


def fit_topic(sets: Sequence[TrainingData], cache: VectorCache) -> TopicChange:
    """Return what tells a new wish from an answer or a condition; `SAME_TOPIC` where no dialogue goes on.

    Parameters
    ----------
    sets
        Of any domains, with catalogs; the more domains, the better it does in others. Pseudo-queries make
        short wishes.
    cache
        Of the encoder's vectors.
    """
    rows: list[np.ndarray] = []
    labels: list[bool] = []
    for data in sets:
        old = [turn for turn in data.turns if user_messages(turn) > 1][:_MOST]
        new = list(_changed(data, len(old)))
        likeness = cache.get("text", [item.text() for item in data.items.values()])
        texts = [dialogue_texts(turn.chat) for turn in (*old, *new)]
        vectors = cache.get("query", [text for pair in texts for text in pair])
        for dialogue, last in zip(vectors[::2], vectors[1::2], strict=True):
            rows.append(topic_features(dialogue, last, likeness @ dialogue, likeness @ last))
        labels += [False] * len(old) + [True] * len(new)
    if len(set(labels)) < 2:
        logger.warning("no turn follows another of its dialogue, so a change of topic cannot be learnt")
        return SAME_TOPIC
    scaler = StandardScaler().fit(rows)
    model = LogisticRegression(C=_C, max_iter=500).fit(scaler.transform(rows), labels)
    # A dead dimension of an encoder varies by 1e-33 and would get a weight of 1e31.
    weights = np.where(scaler.scale_ > 1e-6, model.coef_[0] / scaler.scale_, 0.0)
    intercept = model.intercept_[0] - weights @ scaler.mean_
    logger.info("change of topic: %d turns that go on, %d that do not", labels.count(False), sum(labels))
    return TopicChange(np.array([*weights, intercept], dtype=np.float32))


def _changed(data: TrainingData, count: int) -> list[Turn]:
    """Return dialogues, up to an answer, that go on with a wish of another kind."""
    rng = random.Random(0)
    before = [answered for turn in data.turns if (answered := _answered(turn, data))]
    makers = _wishes(data, rng)
    if not before or not makers:
        return []
    return [
        Turn(
            id=f"topic-{number}",
            messages=(*rng.choice(before), Message(role="user", content=rng.choice(makers)())),
            targets=(),
        )
        for number in range(count)
    ]


def _answered(turn: Turn, data: TrainingData) -> tuple[Message, ...]:
    """Return the messages up to the last answer; a dialogue's first message is answered by its target."""
    messages = list(turn.messages)
    target = next((data.items[i] for i in turn.targets if i in data.items), None)
    if len(messages) == 1 and target is not None:
        messages.append(Message(role="assistant", content=f"How about {target.title}?"))
    return up_to_an_answer(messages)


def _wishes(data: TrainingData, rng: random.Random) -> list[Callable[[], str]]:
    """Return what makes wishes that stand alone: first messages, pseudo-queries, genres, words of items."""
    first = [turn.messages[0].content for turn in data.turns if len(turn.messages) == 1]
    queries = list(data.queries.values())
    genres = sorted({genre for item in data.items.values() for genre in item.genres})
    items = list(data.items.values())
    noun = data.domain.noun

    def led(wish: str) -> str:
        return rng.choice(_LEADS).format(wish)

    def words_of(item: Item) -> str:
        words = [word.lower().strip(".,") for word in item.text().split() if len(word) > 4]
        return " ".join(rng.sample(words, min(len(words), rng.randint(1, 2))))

    makers: list[Callable[[], str]] = []
    if first:
        makers += [lambda: rng.choice(first)] * 2
    if queries:
        makers += [lambda: led(_article(rng.choice(queries)))] * 2
        makers += [lambda: led("something " + " ".join(rng.choice(queries).split()[: rng.randint(1, 3)]))]
    if genres:
        makers += [lambda: led(_article(f"{rng.choice(genres)} {noun}"))]
    if items:
        about = ("about", "with", "for")
        makers += [lambda: led(_article(f"{noun} {rng.choice(about)} {words_of(rng.choice(items))}"))]
    return makers


def _article(words: str) -> str:
    return f"{'an' if words[:1] in tuple('aeiou') else 'a'} {words}"
