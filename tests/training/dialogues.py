"""Dialogues of several turns over eight films, for the tests of both experts' training."""

from __future__ import annotations

from reges_index.catalog.item import Item
from reges_index.dialogue.messages import Message, Turn
from reges_index.training.config import ExpertTraining
from reges_index.training.data import TrainingData

TITLES = ("Alien", "Aliens", "Heat", "Up", "Titanic", "Inception", "Interstellar", "Toy Story")
ITEMS = {
    f"i{n}": Item(id=f"i{n}", title=title, year=1980 + n, genres=["drama"], abstract=f"A film about {title}.")
    for n, title in enumerate(TITLES)
}


def dialogue(number, turns=2):
    """Turns of one dialogue; the messages of each begin with those of the one before it."""
    words = ("funny", "scary", "old", "romantic", "epic")
    said = [Message(role="user", content=f"I want something {words[number % 5]}, please.")]
    made = []
    for turn in range(turns):
        target = f"i{(number + 3 * turn) % len(TITLES)}"
        made.append(
            Turn(id=f"d{number}-{turn}", dialog_id=f"d{number}", messages=tuple(said), targets=(target,))
        )
        said = [
            *said,
            Message(role="assistant", content=f"Have you seen {TITLES[turn]}?"),
            Message(role="user", content="Yes, I liked it. Another one?"),
        ]
    return made


TURNS = [turn for number in range(6) for turn in dialogue(number)]
QUERIES = {turn.id: f"a {turn.messages[0].content.split()[3]} film" for turn in TURNS}
HARD = {turn.id: [name for name in ITEMS if name not in turn.targets] for turn in TURNS}


def settings(**changes):
    fast = {"learning_rate": 1e-2, "lora_r": 4, "epochs": 3, "batch_size": 2}
    return ExpertTraining(**(fast | changes))


def data(turns=TURNS, items=ITEMS, **known):
    """Everything that both experts learn from; of what is retrieved, only wrong items."""
    return [TrainingData(turns, items, **{"queries": QUERIES, "retrieved": HARD, **known})]
