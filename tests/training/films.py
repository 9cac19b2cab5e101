"""A few invented films and dialogues for the tests of training."""

from __future__ import annotations

from reges_index.catalog import Item
from reges_index.dialogue import Message, Turn

FILMS = [
    ("f0", "Dust over Carmel", 1994, ["Western"], "A sheriff looks for water and finds an old friend."),
    ("f1", "Up", 2009, ["Animated"], "An old man ties balloons to his house; he looks down and goes up."),
    ("f2", "The Glass Orchard", 2003, ["Drama"], "Two sisters inherit a house; they set up an orchard."),
    ("f3", "Star Harbour: The Long Night", 1999, ["Science fiction"], "A crew repairs a light in space."),
    ("f4", "Star Harbour", 1977, ["Science fiction"], "A smuggler finds a harbour among the stars."),
    ("f5", "300", 2006, ["War"], "Spartans hold a pass."),
    ("f6", "Nachtzug nach Köln", 2012, ["Thriller"], "A conductor hears a murder planned in a sleeping car."),
    ("f7", "The Glass Orchard", 2003, ["Horror"], "The same orchard, but it looks at people."),
    ("f8", "Heat Wave Hotel", 2015, ["Comedy"], "Guests of a hotel wait for the air conditioning."),
    ("f9", "Lilo & the Whale", 2001, ["Animated", "Family"], "A girl teaches a whale to sing."),
]


def items() -> dict[str, Item]:
    return {
        key: Item(id=key, title=title, year=year, genres=genres, abstract=abstract)
        for key, title, year, genres, abstract in FILMS
    }


def turn(
    key: str,
    *said: str,
    targets: tuple[str, ...] = ("f0",),
    mentioned: tuple[str, ...] | None = None,
) -> Turn:
    """Messages take turns, the seeker first."""
    messages = tuple(
        Message(role="assistant" if number % 2 else "user", content=text) for number, text in enumerate(said)
    )
    return Turn(id=key, dialog_id=key, messages=messages, targets=targets, mentioned=mentioned)


def turns(count: int = 6) -> list[Turn]:
    keys = [film[0] for film in FILMS]
    return [
        turn(
            f"t{n}", f"I want a film of kind {n} tonight.", "With stars?", "No stars.", targets=(keys[n % 9],)
        )
        for n in range(count)
    ]
