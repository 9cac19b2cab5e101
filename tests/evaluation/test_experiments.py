"""All experiments run end to end with a tiny random model and a real catalog; the numbers are noise."""

from __future__ import annotations

import json
import os
import random
import re

import numpy as np
import pytest
import torch
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata

from reges_index.catalog import ItemCatalog
from reges_index.catalog.demo import demo_catalog
from reges_index.dialogue import DialogueQueryBundle, Message, Turn, render_history
from reges_index.errors import ConfigError, InputError
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.experiments.described import PAPER
from reges_index.evaluation.experiments.lab import Lab
from reges_index.evaluation.experiments.registry import EXPERIMENTS, choose, run_experiments
from reges_index.evaluation.experiments.retrieval import text_scores
from reges_index.evaluation.experiments.selection import forced_candidates, forced_data, table4
from reges_index.evaluation.experiments.systems import run_system
from reges_index.evaluation.predictions import Prediction, read_predictions
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.evaluation.stats import holm
from reges_index.fusion.retriever import FusionRetriever
from reges_index.item_expert.prompt import DEFAULT_SELECT_TMPL, selection_prompt_hash
from reges_index.models.adapters import AdapterManifest, save_manifest
from tests.catalog.hashing import HashingEmbedding
from tests.fusion.small import small_fusion
from tests.tiny import save_tiny_adapter, tiny_lm

ITEMS = tuple(item.model_copy(update={"abstract": item.abstract[:40]}) for item in demo_catalog("films")[:60])


def turn(number, prefix="t"):
    draw = random.Random(f"{prefix}{number}")
    liked, wanted, other = draw.sample(ITEMS, 3)
    targets = (wanted.id, other.id) if number == 0 else (wanted.id,)
    return Turn(
        id=f"{prefix}{number}",
        dialog_id=f"{prefix}-d{number // 2}",
        messages=(
            Message(role="assistant", content="What do you like?"),
            Message(role="user", content=f"I liked {liked.title}, something with {wanted.genres[0]}"),
        ),
        targets=targets,
        mentioned=(liked.id,),
    )


@pytest.fixture(scope="module")
def data():
    return EvaluationData(tuple(turn(n) for n in range(5)), ITEMS, tuple(turn(n, "train") for n in range(8)))


@pytest.fixture(scope="module")
def catalog():
    return ItemCatalog.from_items(ITEMS, embed_model=HashingEmbedding(), name="experiments")


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    model = tiny_lm()
    for seed, name in enumerate(("query-expert", "item-expert", "item-expert-random", "item-expert-cot")):
        model.load_adapter(name, save_tiny_adapter(folder / name, seed=seed))
    return model


class Favourite:
    """A system of a user's own."""

    name = "my favourite"

    def predict(self, turns):
        for one in turns:
            yield Prediction(id=one.id, ranking=(ITEMS[0].id, ITEMS[1].id))


def make_lab(data, catalog, lm, folder, **more):
    return Lab(
        data,
        catalog,
        folder,
        lm,
        EvaluationSettings(
            dataset="inspired",
            candidates=10,
            resamples=200,
            batch_size=3,
        ),
        references={f"t{n}": "a film about robots in space" for n in range(4)},
        **more,
    )


@pytest.fixture(scope="module")
def fusion():
    return small_fusion()


@pytest.fixture(scope="module")
def finished(data, catalog, lm, fusion, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    lab = make_lab(data, catalog, lm, folder, systems=[Favourite()], fusion=fusion)
    return lab, run_experiments(lab, ["all"])


def test_every_experiment_writes_json_markdown_and_a_picture(finished):
    lab, outcome = finished
    assert list(outcome["done"]) == list(EXPERIMENTS)
    assert outcome["not_run"] == {}
    assert outcome["failed"] == {}
    for name, value in outcome["done"].items():
        assert json.loads((lab.folder / f"{name}.json").read_text()) == value
        assert (lab.folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        text = (lab.folder / f"{name}.md").read_text()
        assert "paper" in text or name == "ablation"
        assert value["about"]["data"]["hash"] == lab.data.hash
        assert f"torch {torch.__version__.split('+')[0]}" in text
        assert f"{os.cpu_count()} cores" in text
        ours = [row["value"] for row in value["rows"] if row["value"] is not None]
        assert ours
        assert np.isfinite(ours).all()
    index = (lab.folder / "experiments.md").read_text()
    assert all(f"({name}.md)" in index for name in EXPERIMENTS)


def rows(finished, name, **wanted):
    found = finished[1]["done"][name]["rows"]
    return [row for row in found if all(row[key] == value for key, value in wanted.items())]


def test_the_papers_values_stand_beside_ours(finished):
    shown = {row["paper_setting"]: row["paper"] for row in rows(finished, "table1") if row["paper_setting"]}
    assert set(PAPER["table1"]) == set(shown)
    assert shown["RARS"] == 0.059
    (forced,) = rows(
        finished, "table4", setting="10 candidates", protocol="all", metric="Item Generation Success"
    )
    assert forced["paper"] == 0.3873
    assert forced["n"] == 6  # pairs, not turns
    gains = [
        c["paper_gain"]
        for c in finished[1]["done"]["figure5"]["comparisons"]
        if (c["first"], c["second"]) == ("G-augmented R (LLM_QR)", "Original (raw dialogue)")
        and (c["metric"], c["protocol"]) == ("Recall@5", "all")
    ]
    assert gains == [0.81, 0.81]


def test_arms_of_equal_context_are_compared(finished):
    done = finished[1]["done"]
    names = {row["system"] for row in done["figure5"]["rows"]}
    alone = {name for name in names if "+" not in name and "no model" not in name}
    assert {f"{name} + last 4 messages" for name in alone} | alone | {"last 4 messages, no model"} == names
    assert "pseudo-query (oracle)" in alone
    for name in ("figure5", "figure7"):
        for c in done[name]["comparisons"]:
            if "no model" not in c["second"]:
                assert ("+" in c["first"]) == ("+" in c["second"])
        assert {c["second"] for c in done[name]["comparisons"]} >= {"last 4 messages, no model"}
    # Four of the five turns have a reference query; the oracle is measured on these.
    oracle = rows(finished, "figure5", system="pseudo-query (oracle)", protocol="all", metric="Recall@5")
    whole = rows(finished, "figure5", system="Original (raw dialogue)", protocol="all", metric="Recall@5")
    assert {row["n"] for row in oracle} == {5}
    assert {row["n"] for row in whole} == {6}


def test_figure_7_needs_no_references(data, catalog, lm, tmp_path):
    lab = make_lab(data, catalog, lm, tmp_path)
    lab.references = {}
    done = run_experiments(lab, ["figure7"])["done"]["figure7"]
    assert done["comparisons"]
    assert "no reference queries" in done["left_out"]["pseudo-query (oracle)"]


def test_table2_says_who_wrote_the_references_and_shows_no_figures_of_the_paper(finished):
    table = finished[1]["done"]["table2"]
    assert "LLM wrote" in table["title"]
    assert all(row["paper"] is None for row in table["rows"])
    assert "last 4 messages, no model" in {row["system"] for row in table["rows"]}


def test_chain_of_thought_stands_beside_its_own_arm(finished):
    compared = finished[1]["done"]["figure9"]["comparisons"]
    assert {(c["first"].split(",")[0], c["second"].split(",")[0]) for c in compared} == {
        ("candidates scored behind a chain of thought", "candidates scored"),
        ("written freely behind a chain of thought", "written freely at temperature 0.1"),
    }
    success = {row["system"] for row in rows(finished, "table3", metric="Rec Success Rate")}
    assert "ReGeS, free text (the paper's decoding)" in success


def test_an_llm_behind_an_api_chooses_and_writes_in_table_1(data, catalog, lm, tmp_path):
    asked = []

    class Remote(CustomLLM):
        @property
        def metadata(self):
            return LLMMetadata(model_name="remote-llm", context_window=8192)

        def complete(self, prompt, formatted=False, **kwargs):
            asked.append(prompt)
            return CompletionResponse(text=f"{ITEMS[3].title}")

        def stream_complete(self, prompt, formatted=False, **kwargs):
            raise NotImplementedError

    lab = make_lab(data, catalog, lm, tmp_path, llm=Remote())
    done = run_experiments(lab, ["table1"])["done"]["table1"]
    systems = {row["system"] for row in done["rows"] if row["value"] is not None}
    assert any(name.startswith("ReGeS (") and "remote-llm" in name for name in systems)
    assert {"RARS (LLM_QR's query)", "RARS (Direct Prompt's query)", "LLM-CRS (zero-shot LLM)"} <= systems
    assert asked
    free = read_predictions(tmp_path / "runs" / "free.jsonl")
    assert all(p.ranking == (ITEMS[3].title,) and not p.hallucinated for p in free)


def test_paired_tests_allow_for_each_other(finished):
    for name in ("figure5", "figure7", "table1", "ablation"):
        tests = {}
        for c in finished[1]["done"][name]["comparisons"]:
            tests.setdefault((c["setting"], c["protocol"], c["metric"]), []).append(c)
        for own in tests.values():
            assert len(own) > 1
            assert [c["p_holm"] for c in own] == pytest.approx(holm([c["p"] for c in own]))
        assert "p (Holm)" in (finished[0].folder / f"{name}.md").read_text()


def test_own_systems_and_baselines_stand_in_table_1(finished):
    systems = {row["system"] for row in rows(finished, "table1", protocol="all") if row["value"] is not None}
    assert {"my favourite", "most popular", "last mentioned", "BM25", "retriever"} <= systems
    assert {"RARS (LLM_QR's query)", "RARS (Direct Prompt's query)", "RARS (raw dialogue)"} <= systems
    assert any(name.startswith("RAMO") for name in systems)
    assert "ReGeS, chain of thought" in systems
    assert not any(name.startswith("baseline") for name in finished[1]["done"]["table1"]["left_out"])


def test_the_retriever_stands_in_table_1_as_it_retrieves_whole_dialogues(finished, data, catalog):
    for protocol in ("all", "new"):
        (row,) = rows(finished, "table1", system="retriever", protocol=protocol)
        hits = []
        for one in data.turns:
            (found,) = catalog.retrieve_batch([render_history(one.chat).text], 200)
            left = [item for item, _ in found if protocol == "all" or item not in one.mentioned]
            hits += [left[0] == target for target in one.targets]
        assert row["value"] == pytest.approx(np.mean(hits))
    c = [c for c in finished[1]["done"]["table1"]["comparisons"] if c["second"] == "retriever"]
    assert [one["protocol"] for one in c] == ["all", "new"]


def test_table_1_names_the_baselines_that_it_lacks(data, catalog, lm, tmp_path):
    bare = EvaluationData(data.turns, data.items)
    left_out = run_experiments(make_lab(bare, catalog, lm, tmp_path), ["table1"])["done"]["table1"][
        "left_out"
    ]
    assert "--train" in left_out["baseline most popular"]
    assert "baseline most popular" in (tmp_path / "table1.md").read_text()


def test_the_ablation_is_the_retriever_with_sources_switched_off(finished, data, catalog, fusion):
    lab, _ = finished
    systems = {row["system"] for row in rows(finished, "ablation")}
    assert {"fusion", "without words", "without encoder", "hashing-trigrams"} <= systems
    for run, without in (("fusion", ()), ("fusion-words", ("words",))):
        retriever = FusionRetriever(catalog, fusion, similarity_top_k=200, without=without)
        kept = {p.id: p for p in read_predictions(lab.folder / "runs" / f"{run}.jsonl")}
        for one in data.turns:
            nodes = retriever.retrieve(DialogueQueryBundle.from_dialogue(one))
            # By probability, not by place: two that are equal to rounding may stand either way round.
            made = dict(zip(kept[one.id].ranking, kept[one.id].probabilities, strict=True))
            assert made == pytest.approx({node.node.node_id: node.score for node in nodes}, rel=1e-4)
            assert list(made.values()) == sorted(made.values(), reverse=True)
    # The same system stands in Table 1, from the same run.
    (of_table,) = rows(finished, "table1", system="fusion", protocol="all")
    (of_ablation,) = rows(finished, "ablation", system="fusion", protocol="all", metric="Recall@1")
    assert of_table["value"] == of_ablation["value"]


def load_item_expert(model, folder, name="item-expert", seed=0, **told):
    """Load an item expert whose manifest tells this."""
    manifest = AdapterManifest(
        name=name,
        role="item-expert",
        base_model=model.name,
        base_fingerprint=model.fingerprint,
        prompt_hash=selection_prompt_hash(),
        prompt_template=DEFAULT_SELECT_TMPL.template,
        **told,
    )
    save_manifest(manifest, save_tiny_adapter(folder / name, seed=seed))
    model.load_adapter(name, folder / name, role="item-expert")
    return model


def test_every_item_expert_gets_the_budgets_that_the_trained_one_recommends(data, catalog, tmp_path):
    advised = load_item_expert(tiny_lm(), tmp_path, inference={"max_candidate_tokens": 3})
    turn, items = data.turns[0], list(ITEMS[:5])
    short, longer = (
        make_lab(data, catalog, model, tmp_path / "lab")
        .rerank(None)
        .build_prompt(items, DialogueQueryBundle.from_dialogue(turn))
        for model in (advised, tiny_lm())
    )
    assert len(short.messages[-1].content) < len(longer.messages[-1].content)


def test_without_a_fusion_the_ablation_says_so(data, catalog, lm, tmp_path):
    outcome = run_experiments(make_lab(data, catalog, lm, tmp_path), ["ablation"])
    assert "fusion" in outcome["not_run"]["ablation"]


def test_scored_candidates_cannot_be_hallucinated(finished):
    (scored,) = [
        row for row in rows(finished, "table3", metric="hallucination ratio") if "scored" in row["system"]
    ]
    assert scored["value"] == 0
    # A random model writes no titles.
    (free,) = [
        row
        for row in rows(finished, "table3", metric="hallucination ratio")
        if row["system"].startswith("LLM-CRS")
    ]
    assert free["value"] > 0.5


def test_a_finished_run_is_not_run_again(finished, data, catalog, lm, monkeypatch):
    lab, outcome = finished
    before = {path: path.stat().st_mtime_ns for path in (lab.folder / "runs").glob("*.jsonl")}
    assert len(before) > 10

    def fail(*args, **kwargs):
        raise AssertionError("the model or the retriever was asked again")

    # An approximate index may answer otherwise the next time: a run goes on with what it began with.
    monkeypatch.setattr(type(catalog), "retrieve_batch", fail)
    monkeypatch.setattr(type(lm), "score", fail)
    monkeypatch.setattr(type(lm), "generate", fail)
    again = run_experiments(make_lab(data, catalog, lm, lab.folder), ["table4", "figure5", "figure9"])
    assert {path: path.stat().st_mtime_ns for path in (lab.folder / "runs").glob("*.jsonl")} == before
    for name, value in again["done"].items():
        assert value["rows"] == outcome["done"][name]["rows"]


def test_another_adapter_of_the_same_name_is_another_run(data, catalog, lm, finished, tmp_path):
    other = tiny_lm()
    other.load_adapter("item-expert", save_tiny_adapter(tmp_path / "other", seed=77))
    other.load_adapter("query-expert", save_tiny_adapter(tmp_path / "query", seed=0))
    with pytest.raises(InputError, match="other settings: adapter"):
        table4(make_lab(data, catalog, other, finished[0].folder))


def test_the_list_of_experiments_grows_call_by_call(data, catalog, lm, tmp_path, monkeypatch):
    def listed():
        return re.findall(r"\((\w+)\.md\)", (tmp_path / "experiments.md").read_text())

    lab = make_lab(data, catalog, lm, tmp_path)
    assert list(run_experiments(lab, ["figure5", "ablation"])["done"]) == ["figure5"]
    assert "- ablation: not run, it needs a fusion" in (tmp_path / "experiments.md").read_text()
    assert list(run_experiments(lab, ["table2"])["done"]) == ["table2"]
    assert listed() == ["figure5", "table2"]

    def killed(lab):
        raise KeyboardInterrupt

    # What is done before a run is killed is in the list.
    monkeypatch.setitem(EXPERIMENTS, "figure8", killed)
    with pytest.raises(KeyboardInterrupt):
        run_experiments(lab, ["figure7", "figure8"])
    assert listed() == ["figure5", "figure7", "table2"]
    # Results of other data are no part of the list.
    run_experiments(make_lab(data.subset(data.turns[:4]), catalog, lm, tmp_path), ["ablation"])
    assert listed() == []


def test_an_experiment_that_fails_stops_no_other(data, catalog, lm, tmp_path):
    lab = make_lab(data, catalog, lm, tmp_path)
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "free.jsonl").write_text('{"id": "t0", "ranking": []}\n')  # nobody knows how it was made
    outcome = run_experiments(lab, ["table3", "table4", "table2"])
    assert list(outcome["done"]) == ["table2", "table4"]
    error = outcome["failed"]["table3"]
    assert (error["kind"], error["exit_code"]) == ("InputError", 2)
    assert "does not say how it was made" in error["message"]
    assert "- table3: failed, " in (tmp_path / "experiments.md").read_text()
    for left in runs.glob("free.jsonl*"):
        left.unlink()
    assert run_experiments(lab, ["table3"])["failed"] == {}


def test_other_texts_of_the_same_items_are_another_run(data, catalog, lm, finished):
    told = ITEMS[0].model_copy(update={"abstract": "Another story altogether."})
    changed = EvaluationData(data.turns, (told, *ITEMS[1:]), data.train)
    with pytest.raises(InputError, match="other settings: items"):
        make_lab(changed, catalog, lm, finished[0].folder).shown(10, "original")


def test_other_advice_in_the_manifest_is_another_run(data, catalog, tmp_path):
    def lab(tokens, **advice):
        model = load_item_expert(tiny_lm(), tmp_path, inference={"max_candidate_tokens": tokens, **advice})
        return make_lab(data, catalog, model, tmp_path / "lab")

    shown = {t.id: [item.id for item in ITEMS[:3]] for t in data.turns}
    first = lab(9).select(shown, "r", adapter="item-expert")
    assert lab(9).select(shown, "r", adapter="item-expert") == first
    with pytest.raises(InputError, match="other settings: budgets"):
        lab(3).select(shown, "r", adapter="item-expert")
    with pytest.raises(InputError, match="other settings: length_penalty"):
        lab(9, length_penalty=1.0).select(shown, "r", adapter="item-expert")
    assert lab(9, length_penalty=0.0).select(shown, "r", adapter="item-expert") == first


def test_a_killed_run_goes_on(data, tmp_path):
    path = tmp_path / "run.jsonl"

    class Dies(Favourite):
        def predict(self, turns):
            if path.exists() and path.read_text().count("\n") >= 2:
                raise KeyboardInterrupt
            yield from super().predict(turns)

    with pytest.raises(KeyboardInterrupt):
        run_system(Dies().predict, data.turns, path, {"a": 1}, batch_size=2)
    assert path.read_text().count("\n") == 2
    done = run_system(Favourite().predict, data.turns, path, {"a": 1}, batch_size=2)
    assert sorted(p.id for p in done) == sorted(t.id for t in data.turns)
    with pytest.raises(InputError, match="other settings"):
        run_system(Favourite().predict, data.turns, path, {"a": 2})


def test_what_cannot_run_says_why(data, catalog, tmp_path):
    bare = EvaluationData(data.turns, data.items)
    lab = Lab(bare, catalog, tmp_path, tiny_lm(), EvaluationSettings(candidates=10, resamples=200))
    outcome = run_experiments(lab, ["table2", "figure6", "figure8", "figure5"])
    assert "reference queries" in outcome["not_run"]["table2"]
    assert "hard and with random negatives" in outcome["not_run"]["figure6"]
    assert "train turns" in outcome["not_run"]["figure8"]
    assert any("query-expert" in reason for reason in outcome["done"]["figure5"]["left_out"].values())
    assert all(row["paper"] is None for row in outcome["done"]["figure5"]["rows"])
    without = Lab(bare, catalog, tmp_path / "b", None, EvaluationSettings(resamples=200))
    outcome = run_experiments(without, ["figure5", "table4"])
    assert "needs a model" in outcome["not_run"]["table4"]
    assert {row["system"] for row in outcome["done"]["figure5"]["rows"]} == {
        "last 4 messages, no model",
        "Original (raw dialogue)",
        "Original (raw dialogue) + last 4 messages",
    }
    with pytest.raises(ConfigError, match="unknown experiment 'table9'"):
        choose(["table9"])


def test_table4_needs_as_many_items_as_candidates(lm, tmp_path):
    catalog = ItemCatalog.from_items(ITEMS[:40], embed_model=HashingEmbedding(), name="few")
    few = EvaluationData(tuple(turn(n) for n in range(2)), ITEMS[:40])
    done = run_experiments(make_lab(few, catalog, lm, tmp_path), ["table4"])["done"]["table4"]
    assert {row["setting"] for row in done["rows"]} == {"10 candidates"}
    assert done["left_out"] == {"50 candidates": "the catalog has 40 items"}


def test_a_catalog_without_the_items_is_refused(data, tmp_path):
    other = ItemCatalog.from_items(ITEMS[:50], embed_model=HashingEmbedding(), name="too-small")
    with pytest.raises(ConfigError, match="10 items are not in catalog"):
        Lab(data, other, tmp_path)


def test_the_true_item_is_forced_into_the_list(data):
    forced, outside = forced_data(data)
    assert outside == 0
    assert [t.id for t in forced.turns][:2] == [f"t0#{target}" for target in data.turns[0].targets]
    retrieved = {t.id: [item.id for item in ITEMS[:20]] for t in data.turns}
    shown = forced_candidates(forced, retrieved, 10, seed=0)
    places = []
    for one in forced.turns:
        listed, target = shown[one.id], one.targets[0]
        assert len(set(listed)) == 10
        assert target in listed
        rest = [item for item in listed if item != target]
        base = retrieved[one.id.split("#")[0]][:10]
        assert rest == [item for item in base if item != target][: len(rest)]
        if target not in base:
            places.append(listed.index(target))
    assert len(set(places)) > 1
    assert shown == forced_candidates(forced, retrieved, 10, seed=0)


def test_bleu_and_rouge():
    perfect = text_scores(["a funny film about dogs"], ["A funny film about dogs"])
    assert all(value == pytest.approx(1) for value in perfect.values())
    half = text_scores(["funny dogs"], ["funny cats"])
    assert half["BLEU-1"] == pytest.approx(0.5)
    assert half["BLEU-2"] == 0
    assert half["ROUGE-1"] == pytest.approx(0.5)


def test_reports_leave_out_nobody(finished):
    text = (finished[0].folder / "table1.md").read_text()
    assert re.search(r"- KBRD: made elsewhere", text)
    assert "## Not run" in text


def test_figure6_names_item_experts_by_the_negatives_of_their_manifests(data, catalog, tmp_path):
    def figure6(name, **kinds):
        model = tiny_lm()
        for adapter, kind in kinds.items():
            load_item_expert(model, tmp_path / name, adapter, len(adapter), negatives={"kind": kind})
        return run_experiments(make_lab(data, catalog, model, tmp_path / name / "out"), ["figure6"])

    hard, rand, bare = "R-augmented G (hard negatives)", "fine-tune (random negatives)", "untrained"
    done = figure6("both", **{"item-expert": "random", "item-expert-random": "hard"})["done"]["figure6"]
    assert list(dict.fromkeys(row["system"] for row in done["rows"])) == [hard, rand, bare]
    assert done["left_out"] == {}
    done = figure6("one", **{"item-expert": "random"})["done"]["figure6"]
    assert list(dict.fromkeys(row["system"] for row in done["rows"])) == [rand, bare]
    assert list(done["left_out"]) == [hard]
    outcome = figure6("same", **{"item-expert": "random", "item-expert-random": "random"})
    assert "both item experts were trained with random negatives" in outcome["not_run"]["figure6"]
