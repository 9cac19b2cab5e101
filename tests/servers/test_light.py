"""With LLM and encoder behind an API neither torch nor transformers nor peft is loaded, whatever runs."""

import os
import subprocess
import sys

from tests.servers.embeddings import EmbeddingsServer
from tests.servers.scripted import asked_for, scripted_server, sensible

# In a process of its own: what other tests have loaded stays loaded. A star import would load LocalLM,
# ReGeSLLM and ReGeSEmbedding too, which are models of this process.
WHOLE_TURNS = """
import asyncio, sys
from reges_index import ItemCatalog, LiveCatalog, ReGeSChatEngine, ReGeSQueryEngine, ReGeSWorkflow
from reges_index import as_query_engine_tool, demo_catalog, load_pipeline, save_pipeline
llm, encoder, store = sys.argv[1:]
films = demo_catalog("films")[:12]
catalog = ItemCatalog.from_items(films, embed_model=encoder, persist_dir=store, name="few")
wish = [{"role": "user", "content": "Something tense with a crew, please, and not too long for one evening."}]
for options in ({"mode": "rank"}, {"mode": "reason", "write_query": "always"}):
    engine = ReGeSQueryEngine.from_defaults(catalog, llm=llm, similarity_top_k=5, **options)
    print(engine.query(wish))
chat = ReGeSChatEngine.from_defaults(query_engine=engine)
for said in ("Hello!", wish[0]["content"]):
    print("".join(chat.stream_chat(said).response_gen))
async def asynchronous():
    print(await chat.achat("Another one, please?"), (await ReGeSWorkflow(engine).run(dialogue=wish)).response)
asyncio.run(asynchronous())
print(as_query_engine_tool(engine).call(input="a heist"))
save_pipeline(engine, store + "/pipeline.yaml")
print(load_pipeline(store + "/pipeline.yaml").query(wish))
print("loaded:", *sorted({"torch", "transformers", "peft", "sentence_transformers"} & set(sys.modules)))
"""


def test_whole_turns_load_no_model_library(tmp_path):
    with scripted_server() as chat, EmbeddingsServer("none") as embeddings:
        chat.answer = sensible
        names = [f"openai-like:{name}@{server.url}" for name, server in (("m", chat), ("e", embeddings))]
        done = subprocess.run(
            [sys.executable, "-c", WHOLE_TURNS, *names, str(tmp_path)],
            env={**os.environ, "OPENAI_LIKE_API_KEY": "none"},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:", done.stdout
    assert {"query", "ranking", "reasoning", "letters"} <= {asked_for(body) for body in chat.requests}
