"""Counts over train dialogues, bound to catalogs."""

import numpy as np

from reges_index.fusion.statistics import ItemStatistics, Observation

from .films import FILMS

BY_ID = {item.id: item for item in FILMS}


def items(*ids):
    return tuple(BY_ID[i] for i in ids)


STATISTICS = ItemStatistics.count(
    [
        Observation(items("f1", "f2", "f3"), items("f2"), age=0.9),
        Observation(items("f1", "f2"), items("f2", "f2"), age=0.0),
        Observation(items("f6"), items("f6"), age=0.0),
    ]
)


def test_counts_by_item():
    bound = STATISTICS.bind(FILMS)
    assert bound.recommended.tolist() == [0, 3, 0, 0, 0, 1, 0, 0]
    assert bound.named.tolist() == [2, 2, 1, 0, 0, 1, 0, 0]
    assert 2 < bound.recent[1] < 2.1  # the old one counts little
    assert bound.known == 4 / 8


def test_pairs_are_symmetric():
    bound = STATISTICS.bind(FILMS)
    pairs = {
        (one, int(two)): float(count)
        for one in range(len(FILMS))
        for two, count in zip(*bound.together(one), strict=True)
    }
    assert pairs == {(0, 1): 2, (1, 0): 2, (0, 2): 1, (2, 0): 1, (1, 2): 1, (2, 1): 1}


def test_a_catalog_with_other_ids_is_recognised_by_title_and_year():
    other = [item.model_copy(update={"id": f"x-{item.id}"}) for item in reversed(FILMS)]
    bound = STATISTICS.bind(other)
    assert bound.recommended.tolist() == STATISTICS.bind(FILMS).recommended.tolist()[::-1]
    assert bound.known == 4 / 8


def test_items_of_one_title_and_year_are_told_apart_by_id():
    twin = BY_ID["f6"].model_copy(update={"id": "f6-twin"})
    statistics = ItemStatistics.count(
        [Observation((BY_ID["f6"],), (BY_ID["f6"],)), Observation((twin,), (twin, twin))]
    )
    bound = statistics.bind([BY_ID["f6"], twin])
    assert bound.recommended.tolist() == [1, 2]
    assert bound.title.tolist() == [3, 3]


def test_an_unknown_catalog_has_no_counts():
    other = [item.model_copy(update={"title": f"{item.title} of another kind"}) for item in FILMS]
    bound = STATISTICS.bind(other)
    assert bound.known == 0
    assert not np.any([bound.recommended, bound.recent, bound.named, bound.title])
    assert all(len(bound.together(n)[0]) == 0 for n in range(len(other)))


def test_nothing_counted_binds_to_nothing():
    empty = ItemStatistics.count([])
    assert empty.bind(FILMS).known == 0
    assert empty.bind([]).known == 0
