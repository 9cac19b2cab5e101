"""Adapters where they run: behind a server, in a folder, in a model given with one; and what loads torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.huggingface import HuggingFaceLLM
from peft import PeftModel

from reges_index import ReGeSQueryEngine, ReGeSQueryTransform, ReGeSRerank, load_pipeline, save_pipeline
from reges_index.errors import AdapterError, ConfigError
from reges_index.item_expert.prompt import DEFAULT_SELECT_TMPL, selection_prompt_hash
from reges_index.models.adapters import AdapterManifest, save_manifest
from reges_index.models.llm import ReGeSLLM
from reges_index.query_expert.prompt import query_prompt_hash
from tests.builders import bundle, item, nodes_of
from tests.servers.scripted import client
from tests.tiny import save_tiny_adapter, tiny_lm, tiny_model, tiny_tokenizer

FILMS = [item(str(n), f"Film {n}", None, "A long story of many words. " * 30) for n in range(1, 6)]
WISH = bundle("hello", "hi", "something with a spaceship")


def manifest_in(folder, role, prompt_hash, template, **inference):
    save_manifest(
        AdapterManifest(
            name="ours", role=role, base_model="tiny", base_fingerprint="0" * 64,
            prompt_hash=prompt_hash, prompt_template=template, inference=inference,
        ),
        folder,
    )  # fmt: skip
    return folder


def test_an_item_expert_behind_a_server_is_asked_as_it_was_trained(server, tmp_path):
    mine = PromptTemplate("Mine. {candidates} {conversation_history}")
    folder = manifest_in(
        tmp_path, "item-expert", selection_prompt_hash(mine), mine.template,
        max_candidate_tokens=4, max_input_tokens=500, prior_weight=0.7,
    )  # fmt: skip
    server.script += ["Film 3"]
    rerank = ReGeSRerank(client(server), manifest=folder)
    ranking = rerank.rank(nodes_of(FILMS), WISH, scores_are_probabilities=True)
    report = ranking.report["rerank"]
    assert (report["adapter"], report["outcome"], report["prior_weight"]) == ("ours", "matched", 0.7)
    assert (report["candidates_shortened"], report["shortened_by"]) == (5, "details")
    [asked] = server.requests
    assert asked["messages"][-1]["content"].startswith("Mine. ")
    assert asked["temperature"] == 0.1
    assert asked["max_tokens"] < 20
    with pytest.raises(AdapterError, match="trained with prompt"):
        ReGeSRerank(client(server), manifest=folder, select_prompt=DEFAULT_SELECT_TMPL)
    with pytest.raises(AdapterError, match="item-expert"):
        ReGeSQueryTransform(client(server), manifest=folder, query_prompt="{conversation_history}")


def test_a_query_expert_behind_a_server_likewise(server, tmp_path):
    mine = PromptTemplate("Mine. {conversation_history}")
    folder = manifest_in(
        tmp_path, "query-expert", query_prompt_hash(mine), mine.template,
        max_history_tokens=8, decoding={"max_new_tokens": 17, "context_messages": 2},
    )  # fmt: skip
    server.script += ["space films"]
    done = ReGeSQueryTransform(client(server), manifest=folder).run(WISH)
    [asked] = server.requests
    assert (asked["max_tokens"], asked["temperature"]) == (17, 0.0)
    assert asked["messages"][-1]["content"].startswith("Mine. ")
    assert done.report["query"]["adapter"] == "ours"
    assert len(done.custom_embedding_strs) == 2  # with the context messages that it was trained with


def test_an_engine_takes_the_folders_too_and_saves_them(server, few_films, tmp_path):
    mine = PromptTemplate("Mine. {candidates} {conversation_history}")
    folder = manifest_in(tmp_path, "item-expert", selection_prompt_hash(mine), mine.template)
    engine = ReGeSQueryEngine.from_defaults(
        few_films, llm=client(server), item_adapter=str(folder), write_query="never"
    )
    assert engine.rerank.backend.adapter == "ours"
    file = save_pipeline(engine, tmp_path / "pipeline.yaml")
    again = load_pipeline(file, catalog=few_films, llm=client(server))
    server.script += ["Alien", "Alien"]
    for built in (engine, again):
        assert built.query("Something in space?").metadata["report"]["rerank"]["adapter"] == "ours"
    assert {body["messages"][-1]["content"][:5] for body in server.requests} == {"Mine."}
    with pytest.raises(AdapterError, match="reges_adapter"):
        ReGeSQueryEngine.from_defaults(few_films, llm=client(server), item_adapter=str(tmp_path.parent))


def test_a_folder_without_a_manifest_is_refused(server, tmp_path):
    with pytest.raises(AdapterError, match="reges_adapter"):
        ReGeSRerank(client(server), manifest=tmp_path)
    with pytest.raises(ConfigError, match="manifest=FOLDER"):
        ReGeSRerank(client(server), adapter=str(tmp_path))


def hf(model, tokenizer):
    return HuggingFaceLLM(model=model, tokenizer=tokenizer, context_window=4096, max_new_tokens=8)


@pytest.mark.parametrize("kind", ["ours", "HuggingFaceLLM", "ReGeSLLM"])
def test_an_adapter_folder_with_any_local_model(tmp_path, kind):
    folder = save_tiny_adapter(tmp_path / "my adapter", seed=3)
    lm = tiny_lm()
    llm = {"ours": lm, "ReGeSLLM": ReGeSLLM(lm), "HuggingFaceLLM": hf(lm.model, lm.tokenizer)}[kind]
    bare = ReGeSRerank(llm, adapter=None).rank(nodes_of(FILMS), WISH)
    for path in (folder, str(folder)):  # loaded once
        rerank = ReGeSRerank(llm, adapter=path)
        ranking = rerank.rank(nodes_of(FILMS), WISH)
        assert rerank.backend.lm.adapters == ("my-adapter",)
        assert ranking.report["rerank"]["adapter"] == "my-adapter"
        assert ranking.candidates[0].logprob != pytest.approx(bare.candidates[0].logprob)
    with pytest.raises(AdapterError, match="no adapter folder"):
        ReGeSRerank(llm, adapter=tmp_path / "nowhere")


def test_a_peft_model_inside_a_huggingface_llm_is_recognised(tmp_path):
    folder = save_tiny_adapter(tmp_path / "one", seed=3)
    tokenizer = tiny_tokenizer()
    given = PeftModel.from_pretrained(tiny_model(vocab_size=len(tokenizer)), str(folder))
    rerank = ReGeSRerank(hf(given, tokenizer))
    found = rerank.rank(nodes_of(FILMS), WISH)
    assert found.report["rerank"]["adapter"] == "default"
    wanted = ReGeSRerank(tiny_lm(), adapter=folder).rank(nodes_of(FILMS), WISH)
    assert [c.logprob for c in found.candidates] == pytest.approx([c.logprob for c in wanted.candidates])
    bare = ReGeSRerank(hf(given, tokenizer), adapter=None).rank(nodes_of(FILMS), WISH)
    plain = ReGeSRerank(tiny_lm()).rank(nodes_of(FILMS), WISH)
    assert [c.logprob for c in bare.candidates] == pytest.approx([c.logprob for c in plain.candidates])
    again = rerank.rank(nodes_of(FILMS), WISH)  # and it is left on
    assert [c.logprob for c in again.candidates] == pytest.approx([c.logprob for c in found.candidates])


@pytest.mark.parametrize("name", ["a-mirror/of-the-same", "another/name"])
def test_shapes_decide_and_not_names(tmp_path, name, caplog):
    folder = save_tiny_adapter(tmp_path / "plain", seed=1)
    lm = tiny_lm()
    lm.name = name
    assert lm.load_adapter("item-expert", folder) is None
    assert "only that its tensors fit" in caplog.text
    wide = tiny_model(hidden_size=64, vocab_size=len(lm.tokenizer))
    from reges_index.models.local_lm import LocalLM

    with pytest.raises(AdapterError, match="does not fit"):
        LocalLM(wide, lm.tokenizer, name="tiny-llama-0").load_adapter("item-expert", folder)


def test_an_expert_without_its_adapter_says_so_once(caplog):
    lm = tiny_lm(seed=9)
    lm.name = "nobody/tiny-nine"
    for _ in range(3):
        ReGeSRerank(lm)
    assert caplog.text.count("has no adapter for the role item-expert") == 1
    ReGeSRerank(lm, adapter=None)  # asked for
    assert caplog.text.count("has no adapter") == 1


@pytest.mark.parametrize("mode", ["score", "generate", "rank", "reason"])
def test_token_counters_hear_of_a_local_llm(mode):
    counter = TokenCountingHandler()
    llm = ReGeSLLM(tiny_lm(), callback_manager=CallbackManager([counter]))
    ReGeSRerank(llm, mode=mode).rank(nodes_of(FILMS), WISH)
    assert counter.total_llm_token_count > 50
    before = counter.total_llm_token_count
    ReGeSQueryTransform(llm).run(WISH)
    assert counter.total_llm_token_count > before


PROGRAM = """
import sys
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.llms.openai_like import OpenAILike
from reges_index import DialogueQueryBundle, ReGeSQueryTransform, ReGeSRerank, ReGeSSynthesizer
llm = OpenAILike(model="m", api_base=sys.argv[1], api_key="none", is_chat_model=True, max_retries=0)
wish = DialogueQueryBundle.from_dialogue("something tense")
nodes = [NodeWithScore(node=TextNode(text=f"Film {n}", metadata={"title": f"Film {n}"})) for n in range(3)]
refined = ReGeSQueryTransform(llm).run(wish)
ranked = ReGeSRerank(llm, mode="rank").postprocess_nodes(nodes, refined)
answer = ReGeSSynthesizer(llm, style="sentence").synthesize(refined, ranked)
print([m for m in ("torch", "transformers", "peft", "sentence_transformers") if m in sys.modules], answer)
"""


def test_a_whole_turn_behind_an_api_loads_no_torch(server):
    server.script += ["tense films", "2", "It is tense."]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, server.url],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert run.stdout.strip() == "[] Film 1. It is tense."
