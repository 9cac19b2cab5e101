"""Packages load their names on first use, and type checkers see the same names from the same modules."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from reges_index.errors import ConfigError

ROOT = Path(__file__).parents[1]
PACKAGES = [
    "reges_index",
    *(f"reges_index.{name}" for name in ("catalog", "dialogue", "models", "ui")),
]


@pytest.mark.parametrize("package", PACKAGES)
def test_names_are_those_that_type_checkers_see(package):
    module = importlib.import_module(package)
    [block] = [
        node for node in ast.parse(Path(module.__file__).read_text("utf-8")).body if isinstance(node, ast.If)
    ]
    shown = {alias.name: node.module for node in block.body for alias in node.names}
    assert set(shown) - {"build_ui"} <= set(module.__all__) <= set(shown) <= set(dir(module))
    for name, home in shown.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Nonsense'"):
        importlib.import_module(package).Nonsense  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Nonsense'"):
        exec(f"from {package} import Nonsense", {})


def test_what_replaces_a_name_in_its_module_is_seen(monkeypatch):
    import reges_index.errors

    assert reges_index.LLMServerError is reges_index.errors.LLMServerError
    monkeypatch.setattr("reges_index.errors.LLMServerError", str)
    assert reges_index.LLMServerError is str


# What is loaded stays loaded, so these run in processes of their own.
WITHOUT_GRADIO = """
import sys
sys.modules["gradio"] = None
from reges_index import *
assert ReGeSError.__module__ == "reges_index.errors" and "build_ui" not in globals()
import reges_index
assert "build_ui" in dir(reges_index)
try:
    reges_index.build_ui
except reges_index.ReGeSError as error:
    print(type(error).__name__, error.hint)
"""
ENGINE_NAMES = """
import sys
from reges_index import {names}
from reges_index.fusion import FusionRetriever
heavy = {{"torch", "transformers", "peft", "huggingface_hub", "sentence_transformers", "chromadb"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
LAZY = """
import sys, {package} as package
heavy = {{"torch", "transformers", "llama_index", "chromadb", "gradio"}} & set(sys.modules)
assert not heavy, heavy
assert set(package.__all__) <= set(dir(package)), "dir() knows what is not loaded yet"
assert not set(package.__all__) & set(vars(package))
"""


def _run(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_none_of_its_names(package):
    _run(LAZY.format(package=package))


def test_without_the_extra_a_star_import_works_and_the_web_chat_says_what_to_install():
    assert _run(WITHOUT_GRADIO).strip() == f"{ConfigError.__name__} pip install 'reges-index[ui]'"


def test_engines_and_catalogs_load_no_model_library_and_no_store():
    names = set(importlib.import_module("reges_index").__all__)
    local_models = {"LocalLM", "ReGeSEmbedding", "ReGeSLLM"}  # what these do is a model library's work
    _run(ENGINE_NAMES.format(names=", ".join(sorted(names - local_models))))
