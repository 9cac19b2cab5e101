"""LLMs behind an API: a server on this machine that speaks OpenAI's protocol and answers what it is told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from llama_index.llms.openai_like import OpenAILike

from reges_index import ReGeSRerank
from reges_index.errors import ConfigError
from tests.builders import bundle, item, nodes_of

FILMS = [item("1", "Alien", 1979, "A crew."), item("2", "Heat {x}", 1995), item("3", "Heat {x}", 1986)]
WISH = bundle("something tense")


def calls(**arguments):
    return {"tool": json.dumps(arguments)}


@pytest.fixture
def server():
    """Yields a list to put replies into, and the requests that came."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            Handler.requests.append(body)
            reply = Handler.script.pop(0)
            message = {"role": "assistant", "content": reply if isinstance(reply, str) else None}
            if isinstance(reply, dict):
                function = {"name": "Choice", "arguments": reply["tool"]}
                message["tool_calls"] = [{"id": "c1", "type": "function", "function": function}]
            answer = {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            }
            status = reply if isinstance(reply, int) else 200
            data = json.dumps(answer if status == 200 else {"error": {"message": "broken"}}).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            """Keep the test output clean."""

    Handler.requests, Handler.script = [], []
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    Handler.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    yield Handler
    http.shutdown()
    http.server_close()


def expert(server, *, tools, **options):
    llm = OpenAILike(
        model="m",
        api_base=server.url,
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=tools,
        max_retries=0,
        timeout=20,
        context_window=8192,
    )
    return ReGeSRerank(llm, **options)


async def ranked(rerank, asynchronous):
    nodes = nodes_of(FILMS)
    ranking = await rerank.arank(nodes, WISH) if asynchronous else rerank.rank(nodes, WISH)
    assert sorted(c.item.id for c in ranking.candidates) == ["1", "2", "3"]
    assert all(c.probability is None for c in ranking.candidates)
    assert all(c.node.score == c.retrieval_score for c in ranking.candidates)
    return ranking.candidates[0].item.id, ranking.report["rerank"]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("script", "best", "outcome", "fallbacks"),
    [
        ([calls(candidate="3")], "3", "structured", 0),
        ([calls(candidate="4"), "Heat {x} (1986)"], "3", "matched", 1),
        ([calls(candidate="0"), "Alien"], "1", "matched", 1),
        ([calls(title="Alien"), "Titanic"], "1", "hallucinated", 1),
        ([{"tool": "{broken"}, "Heat {x} (1995)"], "2", "matched", 1),
        (["Alien", "Heat {x} (1986)"], "3", "matched", 1),
    ],
)
async def test_function_calling(server, script, best, outcome, fallbacks, asynchronous):
    server.script += script
    found, report = await ranked(expert(server, tools=True), asynchronous)
    assert (found, report["outcome"], report["fallbacks"]) == (best, outcome, fallbacks)
    assert len(server.requests) == len(script)
    asked = server.requests[0]
    schema = asked["tools"][0]["function"]["parameters"]["properties"]["candidate"]
    assert schema["enum"] == ["1", "2", "3"]
    assert "3. Heat {x} (1986)" in asked["messages"][-1]["content"]
    assert report["mode"] == "api"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("answer", "best", "outcome"),
    [("Heat {x} (1986)", "3", "matched"), ("\x00?!", "1", "hallucinated"), ("", "1", "hallucinated")],
)
async def test_plain_text(server, answer, best, outcome, asynchronous):
    server.script.append(answer)
    found, report = await ranked(expert(server, tools=False), asynchronous)
    assert (found, report["outcome"], report["fallbacks"]) == (best, outcome, 0)
    assert "tools" not in server.requests[0]


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_broken_server(server, tools, asynchronous):
    server.script += [500, 500]
    with pytest.raises(openai.InternalServerError):
        await ranked(expert(server, tools=tools), asynchronous)
    found, report = await ranked(expert(server, tools=tools, on_error="retrieval_order"), asynchronous)
    assert (found, report["outcome"], report["error"]) == ("1", "failed", "InternalServerError")
    assert report["fallbacks"] == 1


def test_adapters_and_unknown_modes_are_refused(server):
    with pytest.raises(ConfigError, match="LocalLM"):
        expert(server, tools=False, adapter="item-expert")
    with pytest.raises(ConfigError, match="mode"):
        expert(server, tools=False, mode="best")
