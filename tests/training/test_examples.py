"""What the experts are shown in training: prompts as at inference, and which items stand in LLM_G's lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reges_index.catalog import Item
from reges_index.dialogue.measure import HFMeasure
from reges_index.dialogue.messages import Message
from reges_index.errors import ConfigError, InputError
from reges_index.files import checked
from reges_index.item_expert.prompt import PromptBudget, build_selection_prompt
from reges_index.query_expert.prompt import build_query_prompt
from reges_index.training.config import ExpertTraining
from reges_index.training.data import TrainingData
from reges_index.training.examples import candidate_list, query_examples, selection_examples
from tests.tiny import tiny_lm

from .dialogues import ITEMS, QUERIES, TITLES, TURNS, data, settings
from .films import turn

MANY = {f"i{n}": Item(id=f"i{n}", title=f"Film {n}", year=2000) for n in range(30)}


def ids(items):
    return [item.id for item in items]


def test_training_prompts_are_inference_prompts():
    lm = tiny_lm()
    made = {e.id: e for e in query_examples(data(), lm, settings())[0]}
    turn = TURNS[3]
    prompt = build_query_prompt(turn.chat)
    assert list(made[turn.id].prompt_ids) == lm.encode_chat(prompt.messages)
    assert list(made[turn.id].answer_ids) == lm.encode_answer(QUERIES[turn.id])

    made, _ = selection_examples(data(), lm, settings(num_candidates=3, max_candidate_tokens=9))
    example = next(e for e in made if e.id == f"{turn.id} {turn.targets[0]}")
    text = lm.tokenizer.decode(example.prompt_ids)
    shown = [ITEMS[name] for name in sorted(ITEMS, key=lambda n: text.find(f"\n{ITEMS[n].title} ("))]
    shown = [item for item in shown if f"\n{item.title} (" in text]
    same = build_selection_prompt(
        turn.chat, shown, measure=HFMeasure(lm.tokenizer), budget=PromptBudget(details=9)
    )
    assert len(shown) == 4
    assert list(example.prompt_ids) == lm.encode_chat(same.messages)
    assert list(example.answer_ids) == lm.encode_answer(ITEMS[turn.targets[0]].title)


def test_turns_without_a_usable_query_are_counted():
    queries = {**QUERIES, TURNS[0].id: "  "}
    del queries[TURNS[1].id]
    made, report = query_examples(data(queries=queries), tiny_lm(), settings())
    assert len(made) == len(TURNS) - 2
    assert report.reasons == {"no_pseudo_query": [TURNS[0].id, TURNS[1].id]}
    with pytest.raises(InputError, match="no example could be made of 12 turns"):
        query_examples(data(queries={"stranger": "a film"}), tiny_lm(), settings())


def test_a_long_dialogue_is_cut_and_the_answer_never():
    lm = tiny_lm()
    long = TURNS[0].model_copy(update={"messages": (Message(role="user", content="word " * 900),)})
    made, report = query_examples(data([long]), lm, settings(max_tokens=400))
    assert made[0].length <= 400
    assert made[0].answer_ids == tuple(lm.encode_answer(QUERIES[long.id]))
    assert report.shortened_histories == 1


def test_several_targets_give_several_examples_without_each_other():
    turn = TURNS[0].model_copy(update={"targets": ("i0", "i1", "gone")})
    hard = {turn.id: ["i1", "i2", "i0", "i3", "i4"]}
    lm = tiny_lm()
    made, report = selection_examples(data([turn], retrieved=hard), lm, settings(num_candidates=3))
    assert [e.id for e in made] == ["d0-0 i0", "d0-0 i1"]
    first, second = (lm.tokenizer.decode(e.prompt_ids) for e in made)
    assert ["\nAlien (" in first, "\nAliens (" in first] == [True, False]
    assert ["\nAlien (" in second, "\nAliens (" in second] == [False, True]
    assert report.reasons == {"target_not_in_catalog": ["d0-0 gone"]}


def test_lookalikes_of_the_truth_are_no_negatives():
    items = {**ITEMS, "copy": Item(id="copy", title="ALIEN", year=1980)}
    turn = TURNS[0].model_copy(update={"targets": ("i0",)})
    lm = tiny_lm()
    lists = data([turn], items, retrieved={turn.id: ["copy", "i2"]})
    made, report = selection_examples(lists, lm, settings(num_candidates=2))
    assert "ALIEN" not in lm.tokenizer.decode(made[0].prompt_ids)
    assert report.reasons == {"fewer_negatives_than_k": ["d0-0"]}


def test_candidates_are_shuffled_by_seed_and_epoch_and_k_is_checked():
    lm = tiny_lm()
    options = settings(num_candidates=5, negatives="random")
    first, _ = selection_examples(data(), lm, options)
    again, _ = selection_examples(data(), lm, options)
    later, _ = selection_examples(data(), lm, options, epoch=1)
    assert first == again != later
    with pytest.raises(ConfigError, match="num_candidates=8"):
        selection_examples(data(), lm, settings(num_candidates=8, negatives="random"))


def test_too_many_names_for_the_context_is_an_error_not_a_cut():
    with pytest.raises(InputError, match="do not fit"):
        selection_examples(data(), tiny_lm(), settings(num_candidates=7, negatives="random", max_tokens=230))


@given(
    retrieved=st.lists(st.sampled_from(sorted(MANY)), unique=True, min_size=6, max_size=20),
    target=st.sampled_from(sorted(MANY)),
    epoch=st.integers(0, 3),
)
def test_in_the_retrievers_order_the_true_item_stands_at_its_rank(retrieved, target, epoch):
    options = settings(num_candidates=4, candidate_order="retrieved")
    own = turn("t", "hello", targets=(target,))
    listed, _ = candidate_list(
        TrainingData([own], MANY, retrieved={"t": retrieved}), own, target, options, epoch
    )
    wrong = [i for i in ids(listed) if i != target]
    assert sorted([*wrong, target]) == sorted(ids(listed))
    assert wrong == [i for i in retrieved if i != target][:4]
    place = ids(listed).index(target)
    assert target not in retrieved or place == min(retrieved.index(target), 4)


def test_a_true_item_that_was_not_retrieved_may_stand_anywhere():
    own = turn("t", "hello", targets=("i20",))
    known = TrainingData([own], MANY, retrieved={"t": [f"i{n}" for n in range(4)]})
    options = settings(num_candidates=4, candidate_order="retrieved")
    places = {ids(candidate_list(known, own, "i20", options, n)[0]).index("i20") for n in range(60)}
    assert places == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("kind", ["random", "mixed"])
def test_chance_draws_from_the_catalog_beside_the_retriever(kind):
    own = turn("t", "hello", targets=("i0",))
    known = TrainingData([own], MANY, retrieved={"t": ["i1", "i2", "i3", "i4"]})
    options = settings(num_candidates=4, negatives=kind)
    lists = [set(ids(candidate_list(known, own, "i0", options, epoch)[0])) for epoch in range(60)]
    assert {len(listed) for listed in lists} == {5}
    assert set().union(*lists) == set(MANY)
    assert (set.intersection(*lists) == {"i0", "i1", "i2"}) == (kind == "mixed")


def test_several_catalogs_give_lists_of_their_own():
    other = turn("x", "a film, please", targets=("i7",))
    sets = [*data(TURNS[:1]), TrainingData([other], MANY)]
    lm = tiny_lm()
    made, report = selection_examples(sets, lm, settings(num_candidates=3, negatives="random"))
    first, second = (lm.tokenizer.decode(e.prompt_ids) for e in made)
    assert ("Film" in first.split("conversation history:")[0], report.turns) == (False, 2)
    assert not any(f"\n{title} (" in second for title in TITLES)


def test_the_chain_of_thought_answers_with_reasoning_then_the_item():
    lm = tiny_lm()
    reasoning = {turn.id: "The seeker wants a film." for turn in TURNS[1:]}
    made, report = selection_examples(
        data(reasoning=reasoning), lm, settings(num_candidates=3, negatives="random"), cot=True
    )
    assert report.reasons == {"no_reasoning": [TURNS[0].id]}
    assert lm.tokenizer.decode(made[0].answer_ids[:-1]) == f"The seeker wants a film.\n{TITLES[3]}"


# -- soft targets --------------------------------------------------------------------------------------

FITTING = {turn.id: [*turn.targets, "i5", "i6"] for turn in TURNS}
SOFT = settings(num_candidates=5, target_share=0.75, candidate_order="retrieved", epochs=1)


def test_the_answers_to_one_prompt_share_its_weight():
    by_prompt = {}
    for example in selection_examples(data(rankings=FITTING), tiny_lm(), SOFT)[0]:
        by_prompt.setdefault(example.prompt_ids, []).append(example)
    assert len(by_prompt) == len(TURNS)
    for examples in by_prompt.values():
        weights = [example.weight for example in examples]
        assert sum(weights) == pytest.approx(1)
        assert weights[0] == 0.75
        assert weights[0] > weights[1] >= weights[-1] > 0
        assert len({example.answer_ids for example in examples}) == len(examples) > 1


def test_what_fits_is_no_wrong_answer_even_without_soft_targets():
    own = turn("t", "hello", targets=("i0",))
    fitting, found = {"t": ["i1", "i2"]}, {"t": ["i1", "i3", "i2", "i4", "i5"]}
    known = TrainingData([own], MANY, retrieved=found, rankings=fitting)
    listed, fits = candidate_list(known, own, "i0", settings(num_candidates=3))
    assert (set(ids(listed)), fits) == ({"i0", "i3", "i4", "i5"}, [])


def test_items_that_were_turned_down_are_among_the_wrong_ones():
    lm = tiny_lm()
    turn = TURNS[0].model_copy(update={"mentioned": ("i1", "i7")})
    options = settings(num_candidates=3, named_negatives=1, target_share=0.75)
    found, *_ = selection_examples(data([turn], rankings=FITTING), lm, options)[0]
    assert "Toy Story" in lm.tokenizer.decode(found.prompt_ids)  # the newest


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"lerning_rate": 1}, "lerning_rate"),
        ({"epochs": 0}, "epochs"),
        ({"candidate_order": "retrieved", "negatives": "mixed"}, "others have no order"),
    ],
)
def test_impossible_settings_are_refused(values, problem):
    with pytest.raises(ConfigError, match=problem):
        checked(ExpertTraining, values, where="settings")
