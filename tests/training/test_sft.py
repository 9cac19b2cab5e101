"""Training of a tiny random model: the loss falls, a killed run goes on exactly."""

import math
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reges_index.catalog.item import Item
from reges_index.dialogue import DialogueQueryBundle
from reges_index.dialogue.measure import HFMeasure
from reges_index.dialogue.messages import Message, Turn
from reges_index.errors import AdapterError, ConfigError, InputError, StorageError, TrainingError
from reges_index.files import checked, whole_folder
from reges_index.item_expert import ReGeSRerank
from reges_index.item_expert.prompt import PromptBudget, build_selection_prompt
from reges_index.models.adapters import load_manifest
from reges_index.query_expert import ReGeSQueryTransform
from reges_index.query_expert.prompt import build_query_prompt, query_prompt_hash
from reges_index.training.batches import merge_prefixes, pad_right, plan_epoch
from reges_index.training.checkpoints import (
    Checkpoint,
    latest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from reges_index.training.config import ExpertTraining
from reges_index.training.data import query_examples
from reges_index.training.item_expert import train_item_expert
from reges_index.training.loop import answer_loss
from reges_index.training.lora import fresh_lora
from reges_index.training.query_expert import train_query_expert
from reges_index.training.run_state import RunState
from reges_index.training.selection_data import selection_examples
from reges_index.training.sft import train_expert
from reges_index.training.steps import content_hash
from tests.tiny import tiny_lm

TITLES = ("Alien", "Aliens", "Heat", "Up", "Titanic", "Inception", "Interstellar", "Toy Story")
ITEMS = {
    f"i{n}": Item(id=f"i{n}", title=title, year=1980 + n, genres=["drama"], abstract=f"A film about {title}.")
    for n, title in enumerate(TITLES)
}
FIELDS = {"name": "test", "prompt_hash": "0" * 16, "prompt_template": "x"}


@contextmanager
def killed_after(step, monkeypatch):
    """The run in the block is killed when this step is done."""
    finish = RunState.finish_step

    def finish_and_stop(self, loss, **rest):
        finish(self, loss, **rest)
        if self.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunState, "finish_step", finish_and_stop)
    with pytest.raises(KeyboardInterrupt):
        yield
    monkeypatch.setattr(RunState, "finish_step", finish)


def dialogue(number, turns=2):
    """Turns of one dialogue; the messages of each begin with those of the one before it."""
    words = ("funny", "scary", "old", "romantic", "epic")
    said = [Message(role="user", content=f"I want something {words[number % 5]}, please.")]
    made = []
    for turn in range(turns):
        target = f"i{(number + 3 * turn) % len(TITLES)}"
        made.append(
            Turn(id=f"d{number}-{turn}", dialog_id=f"d{number}", messages=tuple(said), targets=(target,))
        )
        said = [
            *said,
            Message(role="assistant", content=f"Have you seen {TITLES[turn]}?"),
            Message(role="user", content="Yes, I liked it. Another one?"),
        ]
    return made


TURNS = [turn for number in range(6) for turn in dialogue(number)]
QUERIES = {turn.id: f"a {turn.messages[0].content.split()[3]} film" for turn in TURNS}


def settings(**changes):
    fast = {"learning_rate": 1e-2, "lora_r": 4, "epochs": 3, "batch_size": 2}
    return ExpertTraining(**(fast | changes))


def examples(lm=None, **changes):
    return query_examples(TURNS, QUERIES, lm or tiny_lm(), settings(**changes))[0]


def test_defaults_are_the_papers():
    paper = ExpertTraining()
    assert (paper.lora_r, paper.lora_alpha, paper.lora_targets) == (8, 32, ("q_proj", "v_proj"))
    assert (paper.learning_rate, paper.warmup, paper.epochs, paper.batch_size) == (1e-4, 0.1, 1, 2)
    assert paper.max_tokens == 4096


@pytest.mark.parametrize("values", [{"lerning_rate": 1}, {"epochs": 0}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(ConfigError):
        checked(ExpertTraining, values, where="x")


# -- the data ------------------------------------------------------------------------------------------


def test_training_prompts_are_inference_prompts():
    lm = tiny_lm()
    made = {e.id: e for e in query_examples(TURNS, QUERIES, lm, settings())[0]}
    turn = TURNS[3]
    prompt = build_query_prompt(turn.chat)
    assert list(made[turn.id].prompt_ids) == lm.encode_chat(prompt.messages)
    assert list(made[turn.id].answer_ids) == lm.encode_answer(QUERIES[turn.id])

    hard = {t.id: [name for name in ITEMS if name not in t.targets] for t in TURNS}
    made, _ = selection_examples(TURNS, ITEMS, hard, lm, settings(num_candidates=3, max_candidate_tokens=9))
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
    queries = {**QUERIES, TURNS[0].id: "  ", "stranger": "a film"}
    del queries[TURNS[1].id]
    made, report = query_examples(TURNS, queries, tiny_lm(), settings())
    assert len(made) == len(TURNS) - 2
    assert report.reasons == {
        "pseudo_query_of_unknown_turn": ["stranger"],
        "empty_pseudo_query": [TURNS[0].id],
        "no_pseudo_query": [TURNS[1].id],
    }
    with pytest.raises(InputError, match="belongs to any"):
        query_examples(TURNS, {"stranger": "a film"}, tiny_lm(), settings())


def test_a_long_dialogue_is_cut_and_the_answer_never():
    lm = tiny_lm()
    long = TURNS[0].model_copy(update={"messages": (Message(role="user", content="word " * 900),)})
    made, report = query_examples([long], {long.id: "a film"}, lm, settings(max_tokens=400))
    assert made[0].length <= 400
    assert made[0].answer_ids == tuple(lm.encode_answer("a film"))
    assert report.shortened_histories == 1


def test_several_targets_give_several_examples_without_each_other():
    turn = TURNS[0].model_copy(update={"targets": ("i0", "i1", "gone")})
    hard = {turn.id: ["i1", "i2", "i0", "i3", "i4"]}
    lm = tiny_lm()
    made, report = selection_examples([turn], ITEMS, hard, lm, settings(num_candidates=3))
    assert [e.id for e in made] == ["d0-0 i0", "d0-0 i1"]
    first, second = (lm.tokenizer.decode(e.prompt_ids) for e in made)
    assert ["\nAlien (" in first, "\nAliens (" in first] == [True, False]
    assert ["\nAlien (" in second, "\nAliens (" in second] == [False, True]
    assert report.reasons == {"target_not_in_catalog": ["d0-0 gone"]}


def test_lookalikes_of_the_truth_are_no_negatives():
    items = {**ITEMS, "copy": Item(id="copy", title="ALIEN", year=1980)}
    turn = TURNS[0].model_copy(update={"targets": ("i0",)})
    lm = tiny_lm()
    made, report = selection_examples(
        [turn], items, {turn.id: ["copy", "i2"]}, lm, settings(num_candidates=2)
    )
    assert "ALIEN" not in lm.tokenizer.decode(made[0].prompt_ids)
    assert report.reasons == {"fewer_negatives_than_k": ["d0-0"]}


def test_candidates_are_shuffled_by_seed_and_epoch_and_k_is_checked():
    lm = tiny_lm()
    options = settings(num_candidates=5, negatives="random")
    first, _ = selection_examples(TURNS, ITEMS, {}, lm, options)
    again, _ = selection_examples(TURNS, ITEMS, {}, lm, options)
    later, _ = selection_examples(TURNS, ITEMS, {}, lm, options, epoch=1)
    assert first == again != later
    with pytest.raises(ConfigError, match="num_candidates=8"):
        selection_examples(TURNS, ITEMS, {}, lm, settings(num_candidates=8, negatives="random"))


def test_too_many_names_for_the_context_is_an_error_not_a_cut():
    with pytest.raises(InputError, match="do not fit"):
        selection_examples(
            TURNS, ITEMS, {}, tiny_lm(), settings(num_candidates=7, negatives="random", max_tokens=230)
        )


def test_a_dialogue_can_share_one_list():
    lm = tiny_lm()
    options = settings(num_candidates=4, negatives="random", candidates_of="dialogue")
    made, _ = selection_examples(TURNS[:2], ITEMS, {}, lm, options)
    assert len(made) == 2
    shared = [a == b for a, b in zip(made[0].prompt_ids, made[1].prompt_ids, strict=False)]
    text = lm.tokenizer.decode(made[0].prompt_ids)
    assert text.count("A film about") == 5
    assert all(shared[: len(made[0].prompt_ids) - 12])  # up to the end of the shorter dialogue

    both = TURNS[0].model_copy(update={"targets": ("i0", "i3"), "dialog_id": "d0"})
    other = TURNS[1].model_copy(update={"targets": ("i0",)})
    third = TURNS[1].model_copy(update={"id": "d0-2", "targets": ("i3",)})
    _, report = selection_examples([both, other, third], ITEMS, {}, lm, options)
    assert report.reasons == {"several_targets_in_the_shared_list": ["d0-0"]}


# -- batches -------------------------------------------------------------------------------------------


def test_a_tree_gives_each_answer_the_loss_it_has_alone():
    lm = tiny_lm()
    made = examples(lm)
    with fresh_lora(lm, settings(share_prefixes=True)) as model:
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        model.eval()
        tree = merge_prefixes(made[:5])
        together = answer_loss(model, tree).item()
        alone = sum(answer_loss(model, pad_right([e], 0)).item() for e in made[:5])
        padded = answer_loss(model, pad_right(made[:5], 0)).item()
    assert tree.input_ids.numel() < 0.6 * sum(e.length for e in made[:5])
    assert together == pytest.approx(alone, rel=1e-5)
    assert padded == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("share", [True, False])
def test_every_epoch_holds_every_example_once(share):
    made = examples()
    options = {"batch_size": 2, "accumulation": 2, "share_prefixes": share, "seed": 3}
    plan = plan_epoch(made, epoch=0, **options)
    ids = [e.id for step in plan for part in step for e in part]
    assert sorted(ids) == sorted(e.id for e in made)
    assert plan == plan_epoch(made, epoch=0, **options)
    assert plan != plan_epoch(made, epoch=1, **options)


# -- training ------------------------------------------------------------------------------------------


def test_query_expert_learns_loads_and_changes_the_output(tmp_path):
    lm = tiny_lm()
    result = train_query_expert(
        TURNS, QUERIES, lm, settings(epochs=5), tmp_path / "qr",
        manifest_fields={"name": "tiny"},
    )  # fmt: skip
    assert result.steps == len(result.losses) == 5 * len(TURNS) / 2
    assert sum(result.losses[-6:]) < 0.75 * sum(result.losses[:6])
    manifest = load_manifest(result.adapter_dir)
    assert manifest.prompt_hash == query_prompt_hash()
    assert manifest.training["steps"] == result.steps

    prompt = build_query_prompt(TURNS[0].chat).messages
    before = lm.generate([prompt], max_new_tokens=8)[0][0].text
    lm.load_adapter("qr", result.adapter_dir, role="query-expert")
    after = lm.generate([prompt], max_new_tokens=8, adapter="qr")[0][0].text
    assert after != before
    assert before == lm.generate([prompt], max_new_tokens=8)[0][0].text


def test_item_expert_learns(tmp_path):
    hard = {turn.id: [name for name in ITEMS if name not in turn.targets] for turn in TURNS}
    options = settings(num_candidates=3, epochs=4, max_candidate_tokens=4)
    result = train_item_expert(TURNS, ITEMS, hard, tiny_lm(), options, tmp_path / "g")
    assert sum(result.losses[-6:]) < 0.8 * sum(result.losses[:6])
    manifest = load_manifest(result.adapter_dir)
    assert manifest.negatives == {"kind": "hard", "k": 3, "candidates_of": "turn"}
    assert manifest.inference["max_candidate_tokens"] == 4


def test_chain_of_thought_answers_with_reasoning_then_the_item(tmp_path):
    lm = tiny_lm()
    reasoning = {turn.id: "The seeker wants a film." for turn in TURNS[1:]}
    options = settings(num_candidates=3, negatives="random", epochs=1)
    made, report = selection_examples(TURNS, ITEMS, {}, lm, options, reasoning=reasoning)
    assert report.reasons == {"no_reasoning": [TURNS[0].id]}
    assert (
        lm.tokenizer.decode(made[0].answer_ids[:-1]) == "The seeker wants a film.\nInception"[:25] + TITLES[3]
    )
    result = train_item_expert(TURNS, ITEMS, {}, lm, options, tmp_path / "cot", reasoning=reasoning)
    assert load_manifest(result.adapter_dir).role == "item-expert-cot"


def test_compiled_layers_give_the_same_losses_and_go_away(tmp_path):
    lm = tiny_lm()
    runs = [
        train_query_expert(
            TURNS, QUERIES, lm, settings(compile=on, share_prefixes=True, epochs=1), tmp_path / f"{on}"
        )
        for on in (True, False)
    ]
    assert runs[0].losses == pytest.approx(runs[1].losses, rel=1e-4)
    assert not any("forward" in vars(layer) for layer in lm.model.get_decoder().layers)
    assert lm.model.config._attn_implementation == tiny_lm().model.config._attn_implementation


def test_no_compiler_is_said_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        train_query_expert(TURNS, QUERIES, tiny_lm(), settings(compile=True), tmp_path / "a")


def test_a_killed_run_goes_on_exactly(tmp_path, monkeypatch):
    made = examples()
    options = settings(save_every_minutes=1e-9)
    whole = train_expert(
        made, tiny_lm(), options, tmp_path / "whole", role="query-expert", manifest_fields=FIELDS
    )

    with killed_after(7, monkeypatch):
        train_expert(made, tiny_lm(), options, tmp_path / "cut", role="query-expert", manifest_fields=FIELDS)
    assert not (tmp_path / "cut").exists()
    went_on = train_expert(
        made, tiny_lm(), options, tmp_path / "cut", role="query-expert", manifest_fields=FIELDS
    )
    assert went_on.losses == pytest.approx(whole.losses, rel=1e-6)
    name = "adapter_model.safetensors"
    assert (went_on.adapter_dir / name).read_bytes() == (whole.adapter_dir / name).read_bytes()


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train_query_expert(TURNS, QUERIES, tiny_lm(), settings(epochs=1), tmp_path / "a")
    with pytest.raises(TrainingError, match="other data or settings"):
        train_query_expert(TURNS, QUERIES, tiny_lm(), settings(epochs=1, seed=1), tmp_path / "a")
    longer = train_query_expert(TURNS, QUERIES, tiny_lm(), settings(epochs=2), tmp_path / "a")
    assert longer.steps == len(TURNS)


def test_a_run_that_begins_anew_keeps_its_own_checkpoints(tmp_path, monkeypatch):
    made, fields = examples(), {"role": "query-expert", "manifest_fields": FIELDS}
    train_expert(made, tiny_lm(), settings(epochs=2), tmp_path / "a", **fields)
    assert latest_checkpoint(tmp_path / "a.run").name == "checkpoint-12"
    options = settings(epochs=2, seed=1, save_every_minutes=1e-9)
    whole = train_expert(made, tiny_lm(), options, tmp_path / "whole", **fields)
    with killed_after(3, monkeypatch):
        train_expert(made, tiny_lm(), options, tmp_path / "a", resume=False, **fields)
    assert latest_checkpoint(tmp_path / "a.run").name == "checkpoint-3"
    assert latest_checkpoint(tmp_path / "a.run" / "set-aside-1").name == "checkpoint-12"
    went_on = train_expert(made, tiny_lm(), options, tmp_path / "a", **fields)
    assert went_on.losses == pytest.approx(whole.losses, rel=1e-6)


def test_a_checkpoint_just_written_is_never_the_one_deleted(tmp_path):
    for step in (400, 500, 50, 60):
        write_checkpoint(tmp_path, Checkpoint(step, {"x": torch.zeros(1)}))
        assert (tmp_path / f"checkpoint-{step}").is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-500", "checkpoint-60"]


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    lm = tiny_lm()
    options = settings(save_every_minutes=1e-9)
    finish = RunState.finish_step

    def poison(self, loss, **rest):
        finish(self, loss, **rest)
        if self.step == 4:
            with torch.no_grad():
                next(iter(self.named.values())).fill_(math.nan)

    monkeypatch.setattr(RunState, "finish_step", poison)
    with pytest.raises(TrainingError, match=r"step 5 (is|has the norm) nan"):
        train_expert(examples(), lm, options, tmp_path / "a", role="query-expert", manifest_fields=FIELDS)
    assert latest_checkpoint(tmp_path / "a.run").name == "checkpoint-4"
    assert not (tmp_path / "a").exists()
    assert not any("lora" in name for name, _ in lm.model.named_parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_stops_before_the_step(tmp_path, value, monkeypatch):
    """The loss is finite all the way, as when a backward pass overflows."""
    options = settings(save_every_minutes=1e-9)
    finish, weights = RunState.finish_step, {}

    def poison(self, loss, **rest):
        finish(self, loss, **rest)
        weights.update(self.named)
        if self.step == 4:
            next(iter(self.named.values())).register_hook(lambda grad: grad.fill_(value))

    monkeypatch.setattr(RunState, "finish_step", poison)
    with pytest.raises(TrainingError, match="gradient of step 5 has the norm"):
        train_expert(
            examples(), tiny_lm(), options, tmp_path / "a", role="query-expert", manifest_fields=FIELDS
        )
    newest = latest_checkpoint(tmp_path / "a.run")
    assert newest.name == "checkpoint-4"
    kept = read_checkpoint(newest).tensors
    assert all(torch.equal(kept[f"weight/{name}"], p.detach()) for name, p in weights.items())
    assert all(bool(p.isfinite().all()) for p in weights.values())


def test_a_full_disk_leaves_the_old_folder(tmp_path):
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "old").write_text("old")

    def write():
        with whole_folder(target) as work:
            (work / "half").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]
    assert (target / "old").read_text() == "old"


def replace_folder(target, fault=None):
    """Put a new folder in the place of ``target``."""
    with whole_folder(target) as work:
        (work / "new").write_text("new")
        if fault is not None:
            raise fault


def test_a_fault_on_replacement_puts_the_old_folder_back(tmp_path, monkeypatch):
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "old").write_text("old")
    move = Path.replace

    def fails_for_the_new_one(self, to):
        if (self / "new").exists():
            raise OSError(5, "Input/output error")
        return move(self, to)

    monkeypatch.setattr(Path, "replace", fails_for_the_new_one)
    with pytest.raises(StorageError, match=r"Input/output error.*\n.*is untouched"):
        replace_folder(target)
    assert (target / "old").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]

    def fails_twice(self, to):
        if Path(to) == target:
            raise OSError(5, "Input/output error")
        return move(self, to)

    monkeypatch.setattr(Path, "replace", fails_twice)
    with pytest.raises(StorageError, match=r"what was there before is in .*\.adapter-old"):
        replace_folder(target)
    assert (tmp_path / ".adapter-old" / "old").read_text() == "old"


def test_a_folder_that_a_killed_run_had_moved_comes_back(tmp_path):
    target, moved = tmp_path / "adapter", tmp_path / ".adapter-old"
    moved.mkdir()
    (moved / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        replace_folder(target, KeyboardInterrupt())
    assert (target / "old").read_text() == "old"
    replace_folder(target)
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]
    assert [p.name for p in target.iterdir()] == ["new"]


def test_the_base_comes_back_as_it_was(tmp_path):
    lm = tiny_lm()
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    train_query_expert(TURNS, QUERIES, lm, settings(epochs=1, share_prefixes=True), tmp_path / "a")
    after = dict(lm.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert lm.model.config._attn_implementation == tiny_lm().model.config._attn_implementation
    lm.load_adapter("a", tmp_path / "a")
    with pytest.raises(ConfigError, match="on top"):
        train_query_expert(TURNS, QUERIES, lm, settings(), tmp_path / "b")


def test_module_names_that_the_base_lacks_are_named(tmp_path):
    with pytest.raises(ConfigError, match="lora_targets"):
        train_query_expert(TURNS, QUERIES, tiny_lm(), settings(lora_targets=("nope",)), tmp_path / "a")


# -- what inference takes over -------------------------------------------------------------------------


def test_a_dialogue_that_fits_in_training_is_not_cut_at_inference(tmp_path):
    """The paper's budgets: 4,096 tokens of input, of which the dialogue may take what it needs."""
    said = [
        Message(role="assistant" if n % 2 else "user", content=f"I want something {'old ' * 40}, number {n}.")
        for n in range(16)
    ]
    turn = Turn(id="long", dialog_id="long", messages=tuple(said), targets=("i0",))
    options = settings(max_tokens=4000, max_steps=1, num_candidates=3, negatives="random")
    lm = tiny_lm()
    queries = train_query_expert([turn], {"long": "an old film"}, lm, options, tmp_path / "q").adapter_dir
    items = train_item_expert([turn], ITEMS, {}, lm, options, tmp_path / "g").adapter_dir
    [asked], _ = query_examples([turn], {"long": "an old film"}, lm, options)
    [shown], report = selection_examples([turn], ITEMS, {}, lm, options)
    assert len(asked.prompt_ids) > 1200
    assert report.shortened_histories == 0

    lm.load_adapter("query-expert", queries, role="query-expert")
    lm.load_adapter("item-expert", items, role="item-expert")
    bundle = DialogueQueryBundle.from_dialogue(turn)
    prompt = ReGeSQueryTransform(lm).build_prompt(bundle)
    assert lm.encode_chat(prompt.messages) == list(asked.prompt_ids)
    text = lm.tokenizer.decode(shown.prompt_ids)
    listed = sorted(
        (item for item in ITEMS.values() if f"\n{item.title} (" in text),
        key=lambda item: text.find(f"\n{item.title} ("),
    )
    rerank = ReGeSRerank(lm)
    assert lm.encode_chat(rerank.build_prompt(listed, bundle).messages) == list(shown.prompt_ids)
    assert rerank.budget.total < options.max_tokens  # the answer and the chat template have had their share
    bare = ReGeSRerank(lm, adapter=None).build_prompt(listed, bundle)
    assert bare.history.dropped > 0  # untrained, the default holds


def test_less_room_in_training_is_less_at_inference(tmp_path):
    options = settings(max_tokens=300, max_steps=1, max_history_tokens=40)
    lm = tiny_lm()
    inference = load_manifest(
        train_query_expert(TURNS, QUERIES, lm, options, tmp_path / "q").adapter_dir
    ).inference
    assert inference == {"max_history_tokens": 40}
    options = settings(max_tokens=420, max_steps=1, num_candidates=3, negatives="random")
    manifest = load_manifest(train_item_expert(TURNS, ITEMS, {}, lm, options, tmp_path / "g").adapter_dir)
    assert 300 < manifest.inference["max_input_tokens"] < 420
    assert manifest.training["budgets"] == manifest.inference


# -- going on from an adapter --------------------------------------------------------------------------


def test_going_on_from_an_adapter_begins_with_its_weights(tmp_path, monkeypatch):
    first = train_query_expert(TURNS, QUERIES, tiny_lm(), settings(epochs=5), tmp_path / "first")
    saved = load_file(tmp_path / "first" / "adapter_model.safetensors")
    begun = {}

    def remember(self, *args, made=RunState.__init__, **options):
        made(self, *args, **options)
        begun.update({name.replace(".default", ""): p.detach().clone() for name, p in self.named.items()})

    monkeypatch.setattr(RunState, "__init__", remember)
    again = settings(epochs=1, start_from=tmp_path / "first", learning_rate=1e-4)
    second = train_query_expert(TURNS, QUERIES, tiny_lm(), again, tmp_path / "second")
    assert begun.keys() == saved.keys()
    assert all(torch.equal(begun[name], saved[name]) for name in saved)
    assert second.losses[0] < 0.75 * first.losses[0]
    training = load_manifest(second.adapter_dir).training
    assert training["start_from"] == content_hash(tmp_path / "first")


@pytest.mark.parametrize("changes", [{"lora_r": 8}, {"lora_targets": ("q_proj",)}])
def test_an_adapter_of_another_shape_is_no_start(tmp_path, changes):
    train_query_expert(TURNS, QUERIES, tiny_lm(), settings(max_steps=1), tmp_path / "first")
    lm = tiny_lm()
    with pytest.raises(ConfigError, match=r"start_from: .* other LoRA layers"):
        train_query_expert(
            TURNS, QUERIES, lm, settings(start_from=tmp_path / "first", **changes), tmp_path / "second"
        )
    assert not any("lora" in name for name, _ in lm.model.named_parameters())


def test_an_adapter_of_another_role_or_base_is_no_start(tmp_path):
    train_query_expert(TURNS, QUERIES, tiny_lm(), settings(max_steps=1), tmp_path / "first")
    start = {"start_from": tmp_path / "first"}
    options = settings(num_candidates=3, negatives="random", **start)
    with pytest.raises(AdapterError, match="trained as query-expert, not as item-expert"):
        train_item_expert(TURNS, ITEMS, {}, tiny_lm(), options, tmp_path / "second")
    with pytest.raises(AdapterError, match="was trained on tiny-llama-0"):
        train_query_expert(TURNS, QUERIES, tiny_lm("qwen2"), settings(**start), tmp_path / "second")


def test_a_checkpoint_of_another_start_is_refused(tmp_path):
    for seed, name in enumerate(("one", "two")):
        train_query_expert(TURNS, QUERIES, tiny_lm(), settings(max_steps=1, seed=seed), tmp_path / name)
    for name, fails in (("one", False), ("one", False), ("two", True)):
        options = settings(max_steps=2, start_from=tmp_path / name)
        if not fails:
            train_query_expert(TURNS, QUERIES, tiny_lm(), options, tmp_path / "out")
            continue
        with pytest.raises(TrainingError, match="other data or settings"):
            train_query_expert(TURNS, QUERIES, tiny_lm(), options, tmp_path / "out")


def test_lists_vary_between_the_bounds_and_are_the_same_for_a_seed(tmp_path):
    turns = [turn for number in range(20) for turn in dialogue(number)]
    lm = tiny_lm()

    def lengths(**changes):
        options = settings(num_candidates=6, num_candidates_from=2, negatives="random", **changes)
        made, _ = selection_examples(turns, ITEMS, {}, lm, options)
        return [lm.tokenizer.decode(e.prompt_ids).count("A film about") - 1 for e in made]

    assert set(lengths()) == {2, 3, 4, 5, 6}
    assert lengths() == lengths()
    assert lengths(seed=1) != lengths()
    with pytest.raises(ConfigError, match="num_candidates_from=7 is more than num_candidates=6"):
        checked(ExpertTraining, {"num_candidates": 6, "num_candidates_from": 7}, where="x")
    options = settings(num_candidates=6, num_candidates_from=2, negatives="random", max_steps=1)
    manifest = load_manifest(train_item_expert(TURNS, ITEMS, {}, lm, options, tmp_path / "g").adapter_dir)
    assert manifest.negatives == {"kind": "random", "k": 6, "k_from": 2, "candidates_of": "turn"}
