"""Recipes as files: what is accepted, what is refused and how it is named."""

from pathlib import Path

import pytest

from reges_index.errors import ConfigError, InputError
from reges_index.training.recipe import load_recipe

FOLDER = Path(__file__).parents[2] / "finetune" / "recipes"
# Others in that folder are read by other commands.
NAMES = ("embedded", "item-expert", "gemma-2b", "gemma-27b", "llama-3.1-8b", "tiny")

GOOD = """
name: test
out: run
data:
  - {name: one, conversations: turns.jsonl, catalog: items.jsonl, pseudo_queries: pq.jsonl}
query_expert: {learning_rate: 1e-3, epochs: 2}
item_expert: {num_candidates: 9}
"""


def write(folder, text):
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


def test_paths_are_relative_to_the_recipe_and_numbers_may_lack_a_point(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.out == tmp_path / "run"
    assert recipe.data[0].conversations == (tmp_path / "turns.jsonl",)
    assert recipe.query_expert.learning_rate == 1e-3  # YAML reads 1e-3 as text
    assert recipe.item_expert is not None
    assert recipe.item_expert.learning_rate == 1e-4
    assert load_recipe(tmp_path / "recipe.yaml", out="elsewhere").out == Path("elsewhere")


def test_folders_of_models_are_relative_to_the_recipe_and_names_stay_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    text = (
        GOOD.replace("epochs: 2}", "epochs: 2, start_from: first/query-expert}")
        + "base: ~/model\nencoder: ./encoder\nteacher: {llm: ../teacher}\n"
    )
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.base == "/home/somebody/model"
    assert recipe.encoder == str(tmp_path / "encoder")
    assert recipe.teacher.llm == f"{tmp_path}/../teacher"
    assert recipe.query_expert.start_from == tmp_path / "first" / "query-expert"
    assert recipe.item_expert.start_from is None
    text = GOOD.replace("num_candidates: 9", "num_candidates: 9, start_from: ~/first")
    recipe = load_recipe(write(tmp_path, text + "base: org/model\nencoder: org/encoder\n"))
    assert (recipe.base, recipe.encoder) == ("org/model", "org/encoder")
    text = GOOD + "encoder: reges:./mine\n"
    assert load_recipe(write(tmp_path, text)).encoder == f"reges:{tmp_path / 'mine'}"
    assert recipe.item_expert.start_from == Path("/home/somebody/first")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("query_expert:", "query_experts:"), "query_experts"),
        (("epochs: 2", "epochs: 0"), "query_expert.epochs"),
        (("epochs: 2", "epoch: 2"), "query_expert.epoch"),
        (("name: test", "name: a/b"), "name"),
        ((GOOD[GOOD.index("query_expert:") :], "query_expert: null\nitem_expert: null"), "nothing to train"),
        ((", pseudo_queries: pq.jsonl", ""), "one brings no pseudo_queries and there is no teacher"),
        (("name: test", "name: test\ncot: true"), "one brings no reasoning"),
        (("num_candidates: 9", "num_candidates: 60"), "num_candidates=60 is more than negatives.top_k=50"),
        (("name: test", "name: test\ndecoding: {temprature: 1}"), "temprature"),
        (("name: test", "name: test\ndecoding: {num_queries: many}"), "num_queries"),
        (("name: test", "name: test\nteacher: {llm: embedded, options: {speed: 1}}"), "speed"),
        (("data:", "data: []\nnot_data:"), "data"),
        ((GOOD, "- a list"), "expected keys and values"),
        ((GOOD, "a: [1"), "not valid YAML"),
        (
            (
                "query_expert:",
                "  - {name: one, conversations: t, catalog: i, pseudo_queries: q}\nquery_expert:",
            ),
            "two data sets have the same name",
        ),
    ],
)
def test_a_recipe_that_cannot_be_used_names_its_key(tmp_path, change, problem):
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, GOOD.replace(*change)))
    assert "recipe.yaml: " in str(caught.value)
    assert problem in str(caught.value)


def test_a_missing_recipe():
    with pytest.raises(InputError, match="no such file"):
        load_recipe("nowhere.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_shipped_recipes_are_valid_and_open_with_their_command(name):
    path = FOLDER / f"{name}.yaml"
    assert load_recipe(path).name == name
    assert path.read_text().splitlines()[0] == f"# reges finetune run finetune/recipes/{name}.yaml"


@pytest.mark.parametrize(
    ("name", "rates", "batch"),
    [("gemma-2b", (1e-4, 1e-4), 2), ("llama-3.1-8b", (1e-4, 1e-4), 2), ("gemma-27b", (2e-5, 5e-5), 1)],
)
def test_the_papers_budgets(name, rates, batch):
    """Section 3.3, number by number."""
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    experts = recipe.query_expert, recipe.item_expert
    assert tuple(expert.learning_rate for expert in experts) == rates
    for expert in experts:
        assert (expert.batch_size, expert.gradient_accumulation, expert.epochs) == (batch, 1, 1)
        assert (expert.lora_r, expert.lora_alpha, expert.lora_targets) == (8, 32, ("q_proj", "v_proj"))
        assert (expert.warmup, expert.max_tokens) == (0.1, 4096)
    assert recipe.negatives.top_k == 50
    assert recipe.item_expert.negatives == "hard"
