"""What tells a new wish from an answer: learnt from dialogues that go on and from such that do not."""

from dataclasses import replace

import numpy as np
import pytest

from reges_index.dialogue import Message
from reges_index.fusion.features import QueryVectors, dialogue_texts
from reges_index.fusion.model import FusionModel
from reges_index.fusion.topic import SAME_TOPIC
from reges_index.training.data import TrainingData
from reges_index.training.topic_fitting import fit_topic
from reges_index.training.vector_cache import VectorCache
from tests.builders import chat
from tests.catalog.hashing import HashingEmbedding

from .films import FILMS, train_turns
from .small import embed, small_fusion

THANKS = ["Good one! More?", "Good one, more?", "More of it? Good one!", "One more? Good!", "More? Good one."]


@pytest.fixture
def data():
    turns = train_turns(repeats=60)
    goes_on = [turn for turn in turns if len(turn.messages) == 3]
    changed = [
        turn.model_copy(update={"messages": (*turn.messages[:2], Message(role="user", content=said))})
        for turn, said in zip(goes_on, THANKS * 12, strict=True)
    ]
    first = [turn for turn in turns if len(turn.messages) == 1]
    return TrainingData([*changed, *first], {item.id: item for item in FILMS})


def test_a_wish_is_told_from_talk_and_the_model_keeps_it(data, tmp_path):
    topic = fit_topic([data], VectorCache(tmp_path / "kept", HashingEmbedding()))
    vectors = embed([item.text() for item in FILMS])

    def share(last):
        said = chat("I loved Harbour Lights (1994)", "Good one!", last)
        pair = QueryVectors(*embed(dialogue_texts(said)))
        return topic.share(pair.dialogue, pair.last, vectors @ pair.dialogue, vectors @ pair.last)

    assert share("A comedy that makes me laugh please") > 0.5
    assert share("Good one! More?") == 0
    model = replace(small_fusion(), topic=topic)
    model.save(tmp_path / "made")
    assert FusionModel.load(tmp_path / "made").fingerprint == model.fingerprint
    assert replace(model, topic=SAME_TOPIC).fingerprint != model.fingerprint


def test_without_a_dialogue_that_goes_on_no_change_is_learnt(tmp_path, caplog):
    first = [turn for turn in train_turns() if len(turn.messages) == 1]
    cache = VectorCache(tmp_path / "kept", HashingEmbedding())
    assert fit_topic([TrainingData(first, {item.id: item for item in FILMS})], cache) is SAME_TOPIC
    assert "cannot be learnt" in caplog.text
    one = np.ones(3)
    assert SAME_TOPIC.share(one, one, one, one) == 0
