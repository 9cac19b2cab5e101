"""Small made-up data, and the shared data where it is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reges_index.catalog.item import Item
from reges_index.dialogue import Message, Turn
from reges_index.evaluation.data import EvaluationData

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def make_turn(
    number: int, dialogue: str, targets: list[str], mentioned: list[str] | None, said: str = "hello"
) -> Turn:
    return Turn(
        id=f"t{number}",
        dialog_id=dialogue,
        messages=(Message(role="user", content=said),),
        targets=tuple(targets),
        mentioned=None if mentioned is None else tuple(mentioned),
    )


def make_items(count: int = 30) -> tuple[Item, ...]:
    return tuple(Item(id=f"i{n}", title=f"Title {n}", year=1990 + n) for n in range(count))


@pytest.fixture
def items() -> tuple[Item, ...]:
    return make_items()


@pytest.fixture
def turns() -> tuple[Turn, ...]:
    return (
        make_turn(0, "a", ["i0"], [], "a film about robots"),
        make_turn(1, "a", ["i1", "i0"], ["i0"], "another one"),
        make_turn(2, "b", ["i2"], ["i3", "i2"], "what about this"),
        make_turn(3, "b", ["i9", "gone"], ["i2"], "something new"),
        make_turn(4, "c", [], [], "no target here"),
    )


@pytest.fixture
def data(turns: tuple[Turn, ...], items: tuple[Item, ...]) -> EvaluationData:
    train = (make_turn(100, "x", ["i5", "i6"], []), make_turn(101, "x", ["i5"], []))
    return EvaluationData(turns, items, train)


@pytest.fixture
def write_data(tmp_path: Path, data: EvaluationData):
    """Write the small data as files and return their paths."""

    def write() -> dict[str, Path]:
        paths = {name: tmp_path / f"{name}.jsonl" for name in ("turns", "catalog", "train")}
        for name, rows in (("turns", data.turns), ("catalog", data.items), ("train", data.train)):
            paths[name].write_text("".join(json.dumps(r.model_dump(mode="json")) + "\n" for r in rows))
        return paths

    return write


@pytest.fixture(scope="session")
def inspired() -> Path:
    folder = SHARED / "inspired"
    if not (folder / "dev.jsonl").is_file():
        pytest.skip(f"{folder} is not there")
    return folder
