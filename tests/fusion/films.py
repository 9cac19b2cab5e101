"""A small film catalog and train dialogues over it, written for these tests."""

from reges_index.catalog import Item
from reges_index.dialogue import Message, Turn

FILMS = [
    Item(
        id="f1", title="Harbour Lights", year=1994, genres=["Drama"], directors=["Ana Vell"],
        abstract="A lighthouse keeper and a sailor meet again when the harbour is closed.",
    ),
    Item(
        id="f2", title="Harbour Lights II", year=1998, genres=["Drama"], directors=["Ana Vell"],
        abstract="The sailor comes back to the harbour with a son.",
    ),
    Item(
        id="f3", title="Heat", year=1995, genres=["Crime"], directors=["Bo Sand"], cast=["Cy Moor"],
        abstract="A thief and a policeman drink coffee. There is more heat outside than in.",
    ),
    Item(
        id="f4", title="The Winter Door", year=2012, genres=["Horror"], directors=["Dee Rook"],
        abstract="A family moves into a house where one door stays cold.",
    ),
    Item(
        id="f5", title="The Winter Door", year=1971, genres=["Horror"], directors=["Eve Tarn"],
        abstract="The first film of the cold door, told by the housekeeper.",
    ),
    Item(
        id="f6", title="Laugh Factory", year=2016, genres=["Comedy"], cast=["Cy Moor", "Fay Lind"],
        abstract="Two comedians run a theatre and make each other laugh.",
    ),
    Item(
        id="f7", title="Amélie's Garden", year=2001, genres=["Romance", "Comedy"], cast=["Fay Lind"],
        abstract="A gardener writes letters to a stranger in Paris.",
    ),
    Item(
        id="f8", title="Star Convoy: Last Orbit", year=2019, genres=["Science Fiction"],
        abstract="A convoy of freighters carries the last seeds out of the solar system.",
    ),
]  # fmt: skip


def _turn(number, dialog, said, targets, mentioned=()):
    messages = [Message(role="user" if n % 2 == 0 else "assistant", content=m) for n, m in enumerate(said)]
    return Turn(
        id=f"t{number}",
        dialog_id=f"d{dialog}",
        messages=tuple(messages),
        targets=targets,
        mentioned=mentioned,
    )


def train_turns(repeats=6):
    """Turns of three kinds, each from several dialogues: what is asked for tells the target."""
    turns = []
    for n in range(repeats):
        turns += [
            _turn(4 * n, 4 * n, [f"I want a scary horror film, number {n}"], ("f4",)),
            _turn(4 * n + 1, 4 * n + 1, ["A comedy that makes me laugh please"], ("f6",)),
            _turn(
                4 * n + 2,
                4 * n + 2,
                ["I loved Harbour Lights (1994)", "Good one!", "More?"],
                ("f2",),
                ("f1",),
            ),
            _turn(4 * n + 3, 4 * n + 3, ["Something in space with freighters"], ("f8",)),
        ]
    return turns
