"""Which items stand in LLM_G's training lists, and in which order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reges_index.catalog import Item
from reges_index.errors import ConfigError, InputError
from reges_index.files import checked
from reges_index.models.adapters import load_manifest
from reges_index.training.candidate_lists import ListMaker
from reges_index.training.config import ExpertTraining
from reges_index.training.item_expert import train_item_expert
from reges_index.training.selection_data import selection_examples
from tests.tiny import tiny_lm

from .films import items as films
from .films import turn

ITEMS = {f"i{n}": Item(id=f"i{n}", title=f"Film {n}", year=2000) for n in range(30)}


def settings(**values):
    return checked(ExpertTraining, {"num_candidates": 4, **values}, where="settings")


def ids(candidates):
    return [item.id for item in candidates.items]


@given(
    retrieved=st.lists(st.sampled_from(sorted(ITEMS)), unique=True, min_size=6, max_size=20),
    target=st.sampled_from(sorted(ITEMS)),
    epoch=st.integers(0, 3),
)
def test_in_the_retrievers_order_the_true_item_stands_at_its_rank(retrieved, target, epoch):
    maker = ListMaker(ITEMS, {"t": retrieved}, settings(candidate_order="retrieved", hard_from=10))
    made = maker.of_turn(turn("t", "hello", targets=(target,)), target, epoch)
    listed = ids(made)
    assert sorted(set(listed)) == sorted(listed)
    assert len(listed) == 5
    assert target in listed
    wrong = [i for i in listed if i != target]
    assert set(wrong) <= set([i for i in retrieved if i != target][:10])
    known = listed if target in retrieved else wrong
    assert known == sorted(known, key=retrieved.index)
    assert made.truths[0][1] == target


def test_a_true_item_that_was_not_retrieved_may_stand_anywhere():
    maker = ListMaker(ITEMS, {"t": [f"i{n}" for n in range(4)]}, settings(candidate_order="retrieved"))
    own = turn("t", "hello", targets=("i20",))
    places = {ids(maker.of_turn(own, "i20", epoch)).index("i20") for epoch in range(60)}
    assert places == {0, 1, 2, 3, 4}


def test_hard_negatives_are_drawn_among_the_nearest_anew_each_epoch():
    retrieved = [f"i{n}" for n in range(20)]
    maker = ListMaker(ITEMS, {"t": retrieved}, settings(hard_from=8))
    own = turn("t", "hello", targets=("i3",))
    lists = [ids(maker.of_turn(own, "i3", epoch)) for epoch in range(40)]
    assert lists[0] == ids(maker.of_turn(own, "i3", 0))
    # i3 itself takes no place among the nearest wrong ones: i8 is the eighth of them.
    assert set().union(*lists) == {f"i{n}" for n in range(9)}
    nearest = ListMaker(ITEMS, {"t": retrieved}, settings())
    assert {frozenset(ids(nearest.of_turn(own, "i3", epoch))) for epoch in range(9)} == {
        frozenset(retrieved[:5])
    }


def test_a_drawn_negative_that_is_in_no_catalog_is_named():
    maker = ListMaker(ITEMS, {"t": ["stranger", "i1", "i2", "i3"]}, settings(hard_from=4))
    with pytest.raises(InputError, match="'stranger' is not in the catalog"):
        maker.of_turn(turn("t", "hello", targets=("i9",)), "i9", 0)


@pytest.mark.parametrize("shared", ["turn", "dialogue"])
def test_only_targets_that_were_found_are_asked_for(shared):
    lm = tiny_lm()
    both = turn("both", "hello", targets=("i0", "i1"))
    gone = turn("gone", "hello", targets=("i2",))
    retrieved = {"both": ["i5", "i1", "i6", "i7", "i8"], "gone": ["i5", "i6", "i7", "i8"]}
    options = settings(missed_share=0, candidates_of=shared)
    made, report = selection_examples([both, gone], ITEMS, retrieved, lm, options)
    assert [example.id for example in made] == ["both i1"]
    assert report.reasons == {"target_not_retrieved": ["both i0", "gone i2"]}
    text = lm.tokenizer.decode(made[0].prompt_ids)
    assert "Film 0 (" not in text  # the other target is no wrong answer either
    with pytest.raises(InputError, match="'target_not_retrieved': 1"):
        selection_examples([gone], ITEMS, retrieved, lm, options)


@given(share=st.floats(0, 1), more=st.floats(0, 1), seed=st.integers(0, 9))
def test_a_larger_share_of_missed_targets_only_adds_some(share, more, seed):
    share, more = sorted((share, more))
    turns = [turn(f"t{n}", "hello", targets=(f"i{n % 5}", f"i{5 + n % 5}")) for n in range(40)]
    retrieved = {own.id: [own.targets[0], "i10", "i11"] for own in turns}

    def asked(value: float) -> set[tuple[str, str]]:
        maker = ListMaker(ITEMS, retrieved, settings(missed_share=value, seed=seed))
        return {(own.id, target) for own in turns for target in maker.targets(own)}

    assert {(own.id, own.targets[0]) for own in turns} == asked(0) <= asked(share) <= asked(more) <= asked(1)
    assert len(asked(1)) == 80
    assert 10 < len(asked(0.5)) - 40 < 30  # binomial: outside once in 10,000 seeds


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"hard_from": 3}, "hard_from=3 is less than num_candidates=4"),
        ({"hard_from": 9, "negatives": "random"}, "need hard or mixed"),
        ({"missed_share": 0.5, "negatives": "random"}, "need hard or mixed"),
        ({"candidate_order": "retrieved", "negatives": "mixed"}, "no retriever's order"),
        ({"candidate_order": "retrieved", "candidates_of": "dialogue"}, "no retriever's order"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, problem):
    with pytest.raises(ConfigError, match=problem):
        settings(**values)


def test_the_chain_of_thought_goes_on_from_a_plain_item_expert(tmp_path):
    lm, given_items = tiny_lm(), films()
    turns = [turn(f"t{n}", "a film, please", targets=(f"f{n}",)) for n in range(4)]
    quick = {"negatives": "random", "max_steps": 1}
    first = train_item_expert(turns, given_items, {}, lm, settings(**quick), tmp_path / "plain")
    notes = {t.id: "The seeker would like a film." for t in turns}
    second = train_item_expert(
        turns, given_items, {}, lm, settings(**quick, start_from=first.adapter_dir), tmp_path / "cot",
        reasoning=notes,
    )  # fmt: skip
    assert second.steps == 1
    stage = load_manifest(second.adapter_dir).training["first_stage"]
    assert (stage["steps"], stage["negatives"]["kind"]) == (1, "random")
    again = settings(**quick, start_from=second.adapter_dir)
    with pytest.raises(Exception, match="item-expert-cot"):  # not the other way round
        train_item_expert(turns, given_items, {}, lm, again, tmp_path / "plain-2")
