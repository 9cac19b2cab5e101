"""What the train dialogues most like a new one recommend."""

import numpy as np
import pytest

from reges_index.catalog import Item
from reges_index.fusion.statistics import Neighbours, shares_of

from .films import FILMS

SEA, HEAT, WINTER = FILMS[0], FILMS[2], FILMS[3]
NORTH, EAST = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def test_the_nearest_dialogue_has_most_to_say():
    bound = Neighbours.count([NORTH, EAST], [{SEA: 1.0}, {HEAT: 1.0}]).bind(FILMS)
    toward = np.array([0.9, np.sqrt(1 - 0.81)])
    scores = bound.scores(toward)
    assert scores.argmax() == 0
    assert scores[0] > scores[2] > 0
    assert np.count_nonzero(scores) == 2
    assert bound.scores(EAST).argmax() == 2


def test_a_catalog_without_the_items_learns_nothing():
    others = [Item(id="k1", title="Clay kettle"), Item(id="k2", title="Steel kettle")]
    bound = Neighbours.count([NORTH], [{SEA: 1.0}]).bind(others)
    assert bound.scores(NORTH).tolist() == [0, 0]
    assert Neighbours.count([], []).bind(FILMS).scores(NORTH).tolist() == [0] * len(FILMS)


@pytest.mark.parametrize(
    ("targets", "ranking", "expected"),
    [
        ([SEA], [], {SEA: 1.0}),
        ([SEA, HEAT], [], {SEA: 0.5, HEAT: 0.5}),
        ([], [HEAT], {HEAT: 1.0}),
        ([SEA], [HEAT], {SEA: 0.3, HEAT: 0.7}),
        ([SEA], [SEA], {SEA: 1.0}),
    ],
)
def test_targets_and_teacher_share_one_word(targets, ranking, expected):
    assert shares_of(targets, ranking, 0.7) == pytest.approx(expected)


def test_a_teachers_first_counts_most():
    found = shares_of([], [WINTER, SEA, HEAT], 0.7)
    assert found[WINTER] > found[SEA] > found[HEAT]
    assert sum(found.values()) == pytest.approx(1)
