"""How many files of this package a dialogue walks through before it is an answer."""

import sys
import threading
from pathlib import Path

import reges_index
from reges_index import ItemCatalog, ReGeSQueryEngine, demo_catalog

PACKAGE = Path(reges_index.__file__).parent
MOST = 18


def files_entered(work):
    """Return the files of the package whose functions are called."""
    seen = set()

    def note(frame, event, _argument):
        if event == "call":
            seen.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return sorted(str(Path(name).relative_to(PACKAGE)) for name in seen if name.startswith(str(PACKAGE)))


def test_a_query_of_the_embedded_default_walks_through_few_files():
    engine = ReGeSQueryEngine.from_defaults(ItemCatalog.from_items(demo_catalog("films")[:30], name="walk"))
    said = "Something tense like Heat (1995), but in space?"
    engine.query(said)  # what is prepared once for a catalog is no part of a turn
    engine.retriever.check_every = 3600  # nor is the look, once a second, whether others have changed it
    entered = files_entered(lambda: engine.query(said))
    assert len(entered) <= MOST, "\n".join(entered)
