"""Training of a tiny random model: the loss falls, a killed run goes on exactly."""

import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from reges_index.dialogue import DialogueQueryBundle
from reges_index.dialogue.messages import Message, Turn
from reges_index.errors import AdapterError, ConfigError, TrainingError
from reges_index.item_expert import ReGeSRerank
from reges_index.models.adapters import load_manifest
from reges_index.query_expert.prompt import build_query_prompt, query_prompt_hash
from reges_index.query_expert.transform import ReGeSQueryTransform
from reges_index.training.batches import merge_prefixes, pad_right, plan_epoch
from reges_index.training.checkpoints import RunState, latest_checkpoint
from reges_index.training.examples import query_examples, selection_examples
from reges_index.training.experts import train_expert, train_item_expert, train_query_expert
from reges_index.training.loop import answer_loss
from reges_index.training.lora import fresh_lora
from reges_index.training.steps import content_hash
from tests.tiny import tiny_lm

from .dialogues import ITEMS, TURNS, data, settings

FIELDS = {"role": "query-expert", "about": {"prompt_hash": "0" * 16, "prompt_template": "x"}}


@contextmanager
def at_step(step, then, monkeypatch):
    """Once this step is done and saved, ``then`` is called with the state of the run."""
    save = RunState.save

    def save_and(self):
        save(self)
        if self.step == step:
            then(self)

    monkeypatch.setattr(RunState, "save", save_and)
    yield
    monkeypatch.setattr(RunState, "save", save)


def kill(state):
    raise KeyboardInterrupt


def examples(lm=None, **changes):
    return query_examples(data(), lm or tiny_lm(), settings(**changes))[0]


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


def test_the_loss_is_the_weighted_sum_and_the_same_in_a_tree():
    lm = tiny_lm()
    soft = settings(num_candidates=5, target_share=0.75, candidate_order="retrieved")
    fitting = {turn.id: [*turn.targets, "i5", "i6"] for turn in TURNS}
    made, _ = selection_examples(data(TURNS[:2], rankings=fitting), lm, soft)
    with fresh_lora(lm, soft) as model, torch.no_grad():
        alone = sum(
            example.weight * float(answer_loss(model, pad_right([replace(example, weight=1.0)], 0)))
            for example in made
        )
        assert float(answer_loss(model, pad_right(made, 0))) == pytest.approx(alone, rel=1e-4)
        assert float(answer_loss(model, merge_prefixes(made))) == pytest.approx(alone, rel=1e-4)


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
        data(),
        lm,
        settings(epochs=5),
        tmp_path / "qr",
    )
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


@pytest.mark.parametrize(
    "changes", [{"num_candidates": 3}, {"num_candidates": 5, "target_share": 0.75, "share_prefixes": True}]
)
def test_item_expert_learns(tmp_path, changes):
    options = settings(epochs=4, max_candidate_tokens=4, **changes)
    fitting = {turn.id: [*turn.targets, "i5", "i6"] for turn in TURNS}
    result = train_item_expert(data(rankings=fitting), tiny_lm(), options, tmp_path / "g")
    window = len(result.losses) // 4
    assert sum(result.losses[-window:]) < 0.8 * sum(result.losses[:window])
    manifest = load_manifest(result.adapter_dir)
    assert manifest.role == "item-expert"
    assert manifest.negatives == {
        "kind": "hard", "k": options.num_candidates, "candidate_order": "shuffled"
    }  # fmt: skip
    assert manifest.inference["max_candidate_tokens"] == 4


def test_compiled_layers_give_the_same_losses_and_go_away(tmp_path):
    lm = tiny_lm()
    runs = [
        train_query_expert(
            data(), lm, settings(compile=on, share_prefixes=True, epochs=1), tmp_path / f"{on}"
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
        train_query_expert(data(), tiny_lm(), settings(compile=True), tmp_path / "a")


def test_a_killed_run_goes_on_exactly(tmp_path, monkeypatch):
    made = examples()
    options = settings(save_every_minutes=1e-9)
    whole = train_expert(lambda _: made, tiny_lm(), options, tmp_path / "whole", **FIELDS)
    with at_step(7, kill, monkeypatch), pytest.raises(KeyboardInterrupt):
        train_expert(lambda _: made, tiny_lm(), options, tmp_path / "cut", **FIELDS)
    assert not (tmp_path / "cut").exists()
    went_on = train_expert(lambda _: made, tiny_lm(), options, tmp_path / "cut", **FIELDS)
    assert went_on.losses == pytest.approx(whole.losses, rel=1e-6)
    name = "adapter_model.safetensors"
    assert (went_on.adapter_dir / name).read_bytes() == (whole.adapter_dir / name).read_bytes()


def test_other_settings_begin_anew_and_a_longer_run_goes_on(tmp_path, monkeypatch):
    made = examples()
    train_expert(lambda _: made, tiny_lm(), settings(epochs=2), tmp_path / "a", **FIELDS)
    assert latest_checkpoint(tmp_path / "a.run").name == "checkpoint-12"
    longer = train_expert(lambda _: made, tiny_lm(), settings(epochs=3), tmp_path / "a", **FIELDS)
    assert longer.steps == 18
    assert not list((tmp_path / "a.run").glob("set-aside*"))

    options = settings(epochs=2, seed=1, save_every_minutes=1e-9)
    whole = train_expert(lambda _: made, tiny_lm(), options, tmp_path / "whole", **FIELDS)
    with at_step(3, kill, monkeypatch), pytest.raises(KeyboardInterrupt):
        train_expert(lambda _: made, tiny_lm(), options, tmp_path / "a", **FIELDS)
    assert latest_checkpoint(tmp_path / "a.run").name == "checkpoint-3"
    assert latest_checkpoint(tmp_path / "a.run" / "set-aside-1").name == "checkpoint-18"
    went_on = train_expert(lambda _: made, tiny_lm(), options, tmp_path / "a", **FIELDS)
    assert went_on.losses == pytest.approx(whole.losses, rel=1e-6)


def test_the_two_newest_checkpoints_are_kept(tmp_path):
    weight = torch.nn.Parameter(torch.zeros(1))
    for count in (40, 50, 60):
        state = RunState({"x": weight}, torch.optim.AdamW([weight]), tmp_path, "run")
        state.losses = [1.0] * count
        state.save()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-50", "checkpoint-60"]
    with torch.no_grad():
        weight.fill_(7)
    again = RunState({"x": weight}, torch.optim.AdamW([weight]), tmp_path, "run")
    again.resume()
    assert (again.step, float(weight)) == (60, 0)
    (tmp_path / "checkpoint-60" / "state.json").write_text("{half")
    with pytest.raises(TrainingError, match="checkpoint-60 is no checkpoint that can be read"):
        again.resume()


def weights_of_nan(state):
    with torch.no_grad():
        next(iter(state.parameters.values())).fill_(math.nan)


def gradients_of(value):
    """The loss is finite all the way, as when a backward pass overflows."""
    return lambda state: next(iter(state.parameters.values())).register_hook(lambda grad: grad.fill_(value))


@pytest.mark.parametrize("fault", [weights_of_nan, gradients_of(math.nan), gradients_of(math.inf)])
def test_a_step_that_is_no_number_stops_before_it_is_taken_and_keeps_the_checkpoint(
    tmp_path, fault, monkeypatch
):
    lm, seen = tiny_lm(), {}

    def poison(state):
        fault(state)
        seen.update({name: p.detach().clone() for name, p in state.parameters.items()})
        seen["now"] = state.parameters

    options = settings(save_every_minutes=1e-9)
    with (
        at_step(4, poison, monkeypatch),
        pytest.raises(TrainingError, match=r"(loss|gradient's norm) of step 5 is (nan|inf)"),
    ):
        train_expert(lambda _: examples(), lm, options, tmp_path / "a", **FIELDS)
    newest = latest_checkpoint(tmp_path / "a.run")
    assert newest.name == "checkpoint-4"
    kept = load_file(newest / "tensors.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())
    now = seen.pop("now")
    assert all(torch.equal(p.nan_to_num(7), seen[name].nan_to_num(7)) for name, p in now.items())
    assert not (tmp_path / "a").exists()
    assert not any("lora" in name for name, _ in lm.model.named_parameters())


def test_the_base_comes_back_as_it_was(tmp_path):
    lm = tiny_lm()
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    train_query_expert(data(), lm, settings(epochs=1, share_prefixes=True), tmp_path / "a")
    after = dict(lm.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert lm.model.config._attn_implementation == tiny_lm().model.config._attn_implementation
    lm.load_adapter("a", tmp_path / "a")
    with pytest.raises(ConfigError, match="on top"):
        train_query_expert(data(), lm, settings(), tmp_path / "b")


def test_module_names_that_the_base_lacks_are_named(tmp_path):
    with pytest.raises(ConfigError, match="lora_targets"):
        train_query_expert(data(), tiny_lm(), settings(lora_targets=("nope",)), tmp_path / "a")


# -- what inference takes over -------------------------------------------------------------------------


def test_a_dialogue_that_fits_in_training_is_not_cut_at_inference(tmp_path):
    """The paper's budgets: 4,096 tokens of input, of which the dialogue may take what it needs."""
    said = [
        Message(role="assistant" if n % 2 else "user", content=f"I want something {'old ' * 40}, number {n}.")
        for n in range(16)
    ]
    turn = Turn(id="long", dialog_id="long", messages=tuple(said), targets=("i0",))
    options = settings(max_tokens=4000, max_steps=1, num_candidates=3, negatives="random")
    lm, known = tiny_lm(), data([turn], queries={"long": "an old film"})
    queries = train_query_expert(known, lm, options, tmp_path / "q").adapter_dir
    items = train_item_expert(known, lm, options, tmp_path / "g").adapter_dir
    [asked], _ = query_examples(known, lm, options)
    [shown], report = selection_examples(known, lm, options)
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
    inference = load_manifest(train_query_expert(data(), lm, options, tmp_path / "q").adapter_dir).inference
    assert inference == {"max_history_tokens": 40}
    options = settings(max_tokens=420, max_steps=1, num_candidates=3, negatives="random")
    manifest = load_manifest(train_item_expert(data(), lm, options, tmp_path / "g").adapter_dir)
    assert 300 < manifest.inference["max_input_tokens"] < 420
    assert manifest.training["budgets"] == manifest.inference


# -- going on from an adapter --------------------------------------------------------------------------


def test_going_on_from_an_adapter_begins_with_its_weights(tmp_path, monkeypatch):
    first = train_query_expert(data(), tiny_lm(), settings(epochs=5), tmp_path / "first")
    saved = load_file(tmp_path / "first" / "adapter_model.safetensors")
    begun = {}

    def remember(self, *args, made=RunState.__init__, **options):
        made(self, *args, **options)
        begun.update(
            {name.replace(".default", ""): p.detach().clone() for name, p in self.parameters.items()}
        )

    monkeypatch.setattr(RunState, "__init__", remember)
    again = settings(epochs=1, start_from=tmp_path / "first", learning_rate=1e-4)
    second = train_query_expert(data(), tiny_lm(), again, tmp_path / "second")
    assert begun.keys() == saved.keys()
    assert all(torch.equal(begun[name], saved[name]) for name in saved)
    assert second.losses[0] < 0.75 * first.losses[0]
    training = load_manifest(second.adapter_dir).training
    assert training["start_from"] == content_hash(tmp_path / "first")


@pytest.mark.parametrize("changes", [{"lora_r": 8}, {"lora_targets": ("q_proj",)}])
def test_an_adapter_of_another_shape_is_no_start(tmp_path, changes):
    train_query_expert(data(), tiny_lm(), settings(max_steps=1), tmp_path / "first")
    lm = tiny_lm()
    with pytest.raises(ConfigError, match=r"start_from: .* other LoRA layers"):
        train_query_expert(
            data(), lm, settings(start_from=tmp_path / "first", **changes), tmp_path / "second"
        )
    assert not any("lora" in name for name, _ in lm.model.named_parameters())


def test_an_adapter_of_another_role_or_base_is_no_start(tmp_path):
    train_query_expert(data(), tiny_lm(), settings(max_steps=1), tmp_path / "first")
    start = {"start_from": tmp_path / "first"}
    options = settings(num_candidates=3, negatives="random", **start)
    with pytest.raises(AdapterError, match="trained as query-expert, not as item-expert"):
        train_item_expert(data(), tiny_lm(), options, tmp_path / "second")
    with pytest.raises(AdapterError, match="was trained on tiny-llama-0"):
        train_query_expert(data(), tiny_lm("qwen2"), settings(**start), tmp_path / "second")


def test_a_checkpoint_of_another_start_is_set_aside(tmp_path):
    for seed, name in enumerate(("one", "two")):
        train_query_expert(data(), tiny_lm(), settings(max_steps=1, seed=seed), tmp_path / name)
    for name, aside in (("one", False), ("one", False), ("two", True)):
        options = settings(max_steps=2, start_from=tmp_path / name)
        train_query_expert(data(), tiny_lm(), options, tmp_path / "out")
        assert (tmp_path / "out.run" / "set-aside-1").exists() == aside


def test_the_chain_of_thought_goes_on_from_a_plain_item_expert(tmp_path):
    lm, quick = tiny_lm(), {"num_candidates": 4, "negatives": "random", "max_steps": 1}
    first = train_item_expert(data(), lm, settings(**quick), tmp_path / "plain")
    sets = data(reasoning={turn.id: "The seeker would like a film." for turn in TURNS})
    options = settings(**quick, start_from=first.adapter_dir)
    second = train_item_expert(sets, lm, options, tmp_path / "cot", cot=True)
    manifest = load_manifest(second.adapter_dir)
    stage = manifest.training["first_stage"]
    assert (manifest.role, stage["steps"], stage["negatives"]) == ("item-expert-cot", 1, "random")
    again = settings(**quick, start_from=second.adapter_dir)
    with pytest.raises(AdapterError, match="item-expert-cot"):  # not the other way round
        train_item_expert(data(), lm, again, tmp_path / "plain-2")
