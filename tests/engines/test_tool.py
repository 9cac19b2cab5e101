"""The engine as an agent's tool: called by hand, and by a real agent whose LLM is a scripted server."""

import re

import pytest
from llama_index.core.agent.workflow import ReActAgent, ToolCallResult
from llama_index.core.tools import QueryEngineTool
from llama_index.llms.openai_like import OpenAILike

from reges_index import DialogueQueryBundle, Domain
from reges_index.engines.tool import as_query_engine_tool
from reges_index.errors import InputError
from tests.builders import bundle, chat
from tests.engines.test_workflow import make
from tests.training.openai_server import Reply, chat_server


@pytest.fixture(scope="module")
def engine(few_films, tiny):
    return make(few_films, tiny)


@pytest.fixture(scope="module")
def tool(engine):
    return as_query_engine_tool(engine)


DIALOGUE = chat("hello", "hi, what do you like?", "a space film")
FORMS = {
    "text": "a space film",
    "messages": list(DIALOGUE),
    "mappings": [{"role": m.role.value, "content": m.content} for m in DIALOGUE],
    "bundle": bundle("hello", "hi, what do you like?", "a space film"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("named", [False, True])
async def test_it_answers_as_the_engine_does(tool, engine, form, named):
    given = FORMS[form]
    wanted = engine.recommend(given)
    outputs = [
        tool.call(input=given) if named else tool.call(given),
        await tool.acall(input=given) if named else await tool.acall(given),
    ]
    for output in outputs:
        assert output.content == wanted.item.title
        assert output.raw_output.metadata["item_id"] == wanted.item.id
        assert output.raw_output.metadata["query"] == wanted.query
        assert output.tool_name == "recommend_movie"
        assert "a space film" in output.raw_input["input"]


def test_what_the_llm_reads_of_it(tool, few_films, tiny):
    assert isinstance(tool, QueryEngineTool)
    assert "one movie" in tool.metadata.description
    assert tool.metadata.get_parameters_dict()["required"] == ["input"]
    games = make(few_films, tiny, domain=Domain("video game", "video games"))
    assert as_query_engine_tool(games).metadata.name == "recommend_video_game"
    mine = as_query_engine_tool(games, name="pick", description="Picks.", return_direct=True).metadata
    assert (mine.name, mine.description, mine.return_direct) == ("pick", "Picks.", True)


def test_nothing_asked_is_an_error(tool):
    with pytest.raises(InputError, match="empty"):
        tool.call(input=" ")
    with pytest.raises(InputError, match="empty"):
        tool.call(DialogueQueryBundle(query_str=""))


def script(prompt, number):
    """First the call of the tool, then an answer with what the tool returned."""
    seen = re.search(r"Observation: (.+)", prompt)
    if seen is None:
        return Reply(
            'Thought: I need the tool.\nAction: recommend_movie\nAction Input: {"input": "a space film"}'
        )
    return Reply(f"Thought: I can answer without using any more tools.\nAnswer: Watch {seen[1].strip()}!")


async def test_a_real_agent_recommends_what_the_engine_chose(tool, engine):
    with chat_server(script) as server:
        llm = OpenAILike(
            model="scripted", api_base=server.url, api_key="none", is_chat_model=True, max_retries=0
        )
        agent = ReActAgent(tools=[tool], llm=llm, streaming=False)
        handler = agent.run("Could you recommend me something with spaceships?")
        calls = [event async for event in handler.stream_events() if isinstance(event, ToolCallResult)]
        answer = str(await handler)
    wanted = engine.recommend("a space film").item
    assert answer == f"Watch {wanted.title}!"
    (call,) = calls
    assert call.tool_output.raw_output.metadata["item_id"] == wanted.id
    assert len(server.prompts) == 2
