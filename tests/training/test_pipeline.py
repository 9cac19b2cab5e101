"""Whole runs on a tiny random model: both experts learn, resume and load."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from reges_index import QueryDecoding, ReGeSQueryTransform
from reges_index.catalog import ItemCatalog
from reges_index.dialogue import DialogueQueryBundle
from reges_index.dialogue.render import search_text
from reges_index.errors import InputError, ModelError
from reges_index.fusion import FusionModel
from reges_index.item_expert import ReGeSRerank
from reges_index.models import LocalLM
from reges_index.models.adapters import load_manifest
from reges_index.training.pipeline import run_recipe
from reges_index.training.rankings import read_rankings
from reges_index.training.recipe import load_recipe
from tests.catalog.hashing import HashingEmbedding
from tests.fusion.recipes import write_recipe
from tests.tiny import save_tiny

from .films import items, turns
from .killable import run_killable
from .openai_server import Reply, chat_server
from .test_pseudo_queries import client

ROOT = Path(__file__).parents[2]

RECIPE = """
name: smoke
base: ./model
out: run
data:
  - {name: films, conversations: turns.jsonl, catalog: items.jsonl, pseudo_queries: pq.jsonl}
query_expert: &few
  {max_steps: 12, epochs: 3, batch_size: 4, learning_rate: 2.0e-2, max_tokens: 512, dtype: float32}
decoding: {max_new_tokens: 12}
negatives: {top_k: 6}
item_expert:
  <<: *few
  num_candidates: 4
  max_tokens: 1024
"""


@pytest.fixture
def folder(tmp_path):
    """Model, data and recipe."""
    save_tiny(tmp_path / "model")
    write(tmp_path / "turns.jsonl", [turn.model_dump(mode="json") for turn in turns(16)])
    write(tmp_path / "items.jsonl", [item.model_dump(mode="json") for item in items().values()])
    write(
        tmp_path / "pq.jsonl", [{"id": t.id, "query": f"a quiet film of kind {t.id[1:]}"} for t in turns(16)]
    )
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def states(report):
    return {step.name: step.state for step in report.steps}


def run(folder, **options):
    return run_recipe(folder / "recipe.yaml", embed_model=HashingEmbedding(), **options)


def change(folder, old, new, name="recipe.yaml"):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def test_unlabelled_chats_and_a_teacher_are_enough(folder):
    """A shop's way: a large LLM ranks, what it puts first stands for the truth, and nobody labels."""
    chats = [turn.model_copy(update={"targets": ()}).model_dump(mode="json") for turn in turns(16)]
    write(folder / "turns.jsonl", chats)
    change(folder, ", pseudo_queries: pq.jsonl", "")
    change(folder, "item_expert:", "teacher: {llm: x}\ndistill: retrieved\nitem_expert:\n  target_share: 0.7")

    def script(prompt, number):
        return Reply("2, 1, 3" if "numbers of the" in prompt else f"a film of kind {number}")

    with chat_server(script) as server:
        report = run(folder, teacher=client(server.url))
        asked = len(server.prompts)
        assert asked == 32
        assert set(states(run(folder, teacher=client(server.url))).values()) == {"done before"}
        assert len(server.prompts) == asked
    assert list(states(report)) == [
        *(
            "teacher-rankings.films",
            "pseudo-queries.films",
            "query-expert",
            "hard-negatives.films",
            "item-expert",
        )
    ]
    ranked = [
        json.loads(line) for line in (folder / "run/teacher-rankings/films.jsonl").read_text().splitlines()
    ]
    assert all(len(row["ranking"]) == 3 for row in ranked)
    second = server.prompts[-1].rsplit("Ground truth items:", 1)[1]
    assert any(row["titles"][0] in second for row in ranked)


def test_both_experts_learn_load_and_change_the_output(folder):
    """The smoke test of the whole way: files in, two adapters out, within seconds."""
    started = time.monotonic()
    report = run(folder)
    assert list(states(report)) == ["query-expert", "hard-negatives.films", "item-expert"]
    assert set(states(report).values()) == {"ran"}
    by_name = {step.name: step.report for step in report.steps}
    for expert in ("query-expert", "item-expert"):
        assert by_name[expert]["steps"] == 12
        assert by_name[expert]["last_loss"] < 0.8 * by_name[expert]["first_loss"]
    negatives = read_rankings(
        folder / "run" / "hard-negatives" / "films.jsonl", turns=turns(16), items=items()
    )
    assert {len(ids) for ids in negatives.values()} == {8}

    lm = LocalLM.from_pretrained(folder / "model", dtype="float32")
    lm.load_adapter("query-expert", report.query_expert, role="query-expert")
    lm.load_adapter("item-expert", report.item_expert, role="item-expert")
    bundle = DialogueQueryBundle.from_dialogue(turns(1)[0])
    decoding = QueryDecoding(max_new_tokens=12)
    expert, bare = (ReGeSQueryTransform(lm, adapter=name, decoding=decoding) for name in ("auto", None))
    trained = expert.run(bundle)
    assert trained.query_str != bare.run(bundle).query_str
    prompt = expert.build_prompt(bundle).messages
    [[learned], [before]] = (
        lm.score(prompt, ["a quiet film of kind 0"], adapter=name) for name in ("query-expert", None)
    )
    assert learned.logprob > before.logprob + 10
    catalog = ItemCatalog.from_items(items().values(), embed_model=HashingEmbedding(), name="smoke")
    nodes = catalog.as_retriever(5).retrieve(trained)
    with_expert, without = (
        ReGeSRerank(lm, adapter=a).rank(nodes, trained).candidates for a in ("auto", None)
    )
    assert [c.probability for c in with_expert] != [c.probability for c in without]

    manifest = load_manifest(report.query_expert)
    assert manifest.inference["decoding"] == {"max_new_tokens": 12}
    assert [data.path.split("/")[1] for data in manifest.data] == ["turns.jsonl", "pq.jsonl"]
    assert [data.rows for data in load_manifest(report.item_expert).data] == [16, 10, 16]
    assert time.monotonic() - started < 110


def test_what_is_done_is_skipped_and_a_change_runs_what_depends_on_it(folder):
    run(folder)
    assert set(states(run(folder)).values()) == {"done before"}
    change(folder, "num_candidates: 4", "num_candidates: 5")
    assert [name for name, state in states(run(folder)).items() if state == "ran"] == ["item-expert"]
    assert (folder / "run" / "steps" / "set-aside" / "item-expert-1" / "item-expert").is_dir()
    change(folder, "top_k: 6", "top_k: 7")
    assert [name for name, state in states(run(folder)).items() if state == "ran"] == [
        "hard-negatives.films", "item-expert",
    ]  # fmt: skip
    rows = [json.loads(line) for line in (folder / "pq.jsonl").read_text().splitlines()]
    write(folder / "pq.jsonl", [{**row, "query": "a loud film"} for row in rows])
    assert set(states(run(folder)).values()) == {"ran"}


def test_a_recipe_with_more_steps_goes_on_from_its_checkpoints(folder, caplog):
    run(folder)
    change(folder, "max_steps: 12, epochs: 3", "max_steps: 14, epochs: 4")
    caplog.set_level("INFO")
    report = run(folder)
    assert {step.report["steps"] for step in report.steps if "expert" in step.name} == {14}
    assert sum("behind step 12" in record.getMessage() for record in caplog.records) >= 1


def test_without_a_query_expert_the_lists_are_what_the_dialogue_itself_finds(folder):
    text = RECIPE[: RECIPE.index("query_expert:")].replace(", pseudo_queries: pq.jsonl", "")
    text += "query_expert: null\nnegatives: {top_k: 6}\n"
    text += "item_expert: {num_candidates: 4, max_steps: 2, dtype: float32}\n"
    (folder / "recipe.yaml").write_text(text)
    report = run(folder)
    assert list(states(report)) == ["hard-negatives.films", "item-expert"]
    assert report.query_expert is None
    catalog = ItemCatalog.from_items(items().values(), embed_model=HashingEmbedding(), name="same")
    rows = map(json.loads, (folder / "run/hard-negatives/films.jsonl").read_text().splitlines())
    for row, turn in zip(rows, turns(16), strict=True):
        found = catalog.as_retriever(8).retrieve(search_text(turn.chat))
        nearest = [hit.node.node_id for hit in found]
        assert row["ranking"][:6] == nearest[:6]  # the last ones may be equally near


def test_random_negatives_need_no_mining_and_no_item_expert_is_fine(folder):
    change(folder, "num_candidates: 4", "negatives: random\n  num_candidates: 4")
    report = run(folder)
    assert list(states(report)) == ["query-expert", "item-expert"]
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text[: text.index("item_expert:")] + "item_expert: null\n")
    report = run(folder)
    assert (list(states(report)), report.item_expert) == (["query-expert"], None)


def test_a_teacher_writes_what_is_missing_and_failed_turns_are_asked_for_again(folder):
    broken = {"kind 3": Reply("no", status=400)}

    def script(prompt, number):
        fault = next((reply for key, reply in broken.items() if key in prompt), None)
        return fault or Reply("The seeker likes quiet films." if "step by step" in prompt else "a quiet film")

    with chat_server(script) as server:
        (folder / "recipe.yaml").write_text(
            RECIPE.replace(", pseudo_queries: pq.jsonl", "")
            + "cot: true\n"
            + f"teacher: {{llm: 'openai-like:teacher@{server.url}', options: {{max_retries: 0}}}}\n"
        )
        with pytest.raises(ModelError, match="1 turns got no answer"):
            run(folder)
        asked = len(server.prompts)
        broken.clear()
        report = run(folder)
    assert list(states(report)) == [
        "pseudo-queries.films", "query-expert", "hard-negatives.films", "reasoning.films", "item-expert-cot",
    ]  # fmt: skip
    assert len(server.prompts) - asked == 1 + 16
    assert server.limits[asked:] == [128] + [256] * 16  # a query; two or three sentences
    manifest = load_manifest(report.item_expert)
    assert (manifest.role, "step by step" in manifest.prompt_template) == ("item-expert-cot", True)


def test_data_is_checked_before_anything_runs(folder):
    write(folder / "pq.jsonl", [{"id": "other-0", "query": "for other conversations"}])
    with pytest.raises(InputError, match="'other-0' is none of the 16 turns"):
        run(folder)
    assert not (folder / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)  # five starts of a process
def test_killed_at_many_points_it_ends_with_the_same_adapters(folder):
    """kill -9 once training, mining and training again have begun, then a run to the end."""
    change(folder, "max_steps: 12, epochs: 3", "max_steps: 24, epochs: 6, save_every_minutes: 0.001")
    # Processes forked off one that has imported everything but run nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.killable"])
    kills = 0
    for patterns in (
        "query-expert.run/checkpoint-*",
        "hard-negatives/*.jsonl",
        "item-expert.run/*",
    ):
        process = context.Process(
            target=run_killable, args=(str(folder / "recipe.yaml"), str(folder / "killed"))
        )
        process.start()
        while process.is_alive():
            if any((folder / "killed").glob(patterns)):
                process.kill()
                kills += 1
                break
            time.sleep(0.01)
        process.join()
    assert kills == 3
    run(folder, out=folder / "killed")
    run(folder, out=folder / "whole")
    for adapter in ("query-expert", "item-expert"):
        whole, killed = (
            LocalLM.from_pretrained(
                folder / "model", dtype="float32", adapters={adapter: folder / out / adapter}
            )
            for out in ("whole", "killed")
        )
        weights = [
            {name: p for name, p in lm.model.named_parameters() if "lora_" in name} for lm in (whole, killed)
        ]
        assert weights[0]
        # Another process may sum in another order, since where memory lies picks the kernels: 2e-5 after all
        # steps on a Xeon with AMX. A step lost or done twice moves weights by about the learning rate.
        for name, tensor in weights[0].items():
            assert tensor.allclose(weights[1][name], atol=1e-4), name
    negatives = [(folder / out / "hard-negatives" / "films.jsonl").read_text() for out in ("whole", "killed")]
    assert negatives[0] == negatives[1]


def test_the_tiny_recipe_runs_on_a_tiny_model(tmp_path):
    """finetune/recipes/tiny.yaml, its base and teacher replaced by four random layers."""
    from tests.tiny import tiny_lm

    recipe = load_recipe(ROOT / "finetune" / "recipes" / "tiny.yaml", out=tmp_path / "run")
    lines = recipe.data[0].conversations[0].read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "turns.jsonl").write_text("".join(lines[:8]), encoding="utf-8")
    recipe = recipe.model_copy(
        update={
            "base": str(save_tiny(tmp_path / "model")),
            "data": (recipe.data[0].model_copy(update={"conversations": (tmp_path / "turns.jsonl",)}),),
        }
    )
    report = run_recipe(recipe, teacher=tiny_lm(), embed_model=HashingEmbedding())
    written = next(step.report for step in report.steps if step.name == "pseudo-queries.books")
    assert written["written"] + sum(map(len, written["left_out"].values())) == 8
    assert {step.report["steps"] for step in report.steps if step.name.endswith("-expert")} == {4}


def test_a_fusion_is_the_last_step_and_skipped_when_done(folder):
    films = folder / "films"
    films.mkdir()
    write_recipe(films)
    text = RECIPE[: RECIPE.index("item_expert:")] + "item_expert: null\nfusion: films/fusion.yaml\n"
    (folder / "recipe.yaml").write_text(text)
    report = run(folder)
    assert list(states(report)) == ["query-expert", "fusion"]
    assert report.fusion == str(folder / "run" / "fusion")
    assert not (films / "made").exists()  # it belongs to this run
    made = FusionModel.load(report.fusion)
    assert report.steps[-1].report["cross_validation"]["all"]["films"]["pairs"] == 24
    assert set(states(run(folder)).values()) == {"done before"}

    change(films, "l2: 1.0e-3", "l2: 1.0e-1", "fusion.yaml")
    assert [name for name, state in states(run(folder)).items() if state == "ran"] == ["fusion"]
    assert FusionModel.load(report.fusion).fingerprint != made.fingerprint
    assert (folder / "run" / "steps" / "set-aside" / "fusion-1" / "fusion" / "fusion.json").exists()
    (folder / "run" / "fusion" / "fusion.safetensors").write_bytes(b"half")
    assert states(run(folder))["fusion"] == "ran"

    change(films, "turns.jsonl", "gone.jsonl", "fusion.yaml")
    with pytest.raises(InputError, match=r"gone\.jsonl is no file"):
        run(folder)
