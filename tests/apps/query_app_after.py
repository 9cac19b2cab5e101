"""Our film shelf: ask a question, read an answer."""

import chromadb
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.vector_stores.chroma import ChromaVectorStore

from reges_index import ReGeSQueryEngine

SHELF = [
    ("Harbour of Glass", 1987, "thriller", "A customs officer finds a ship that nobody has loaded."),
    ("The Long Orbit", 1979, "science fiction", "Two pilots circle a planet that answers their radio."),
    ("Bread and Thunder", 1994, "comedy", "A baker enters his village in a weather competition."),
    ("Night Shift at the Museum of Sand", 2006, "fantasy", "A guard hears the desert rooms talk."),
    ("A Quiet Heist", 2011, "crime", "Four librarians rob the bank across the street, in whispers."),
    ("Winter Line", 1965, "war", "A railway crew keeps one track open through a frozen front."),
    ("Mother of Pearl", 1999, "romance", "A diver and a jeweller write letters about one oyster."),
    ("Signal Lost", 2019, "science fiction", "The last lighthouse on Mars goes dark for eleven minutes."),
]


def build_index(folder, embed_model):
    collection = chromadb.PersistentClient(folder).get_or_create_collection("films")
    documents = [
        Document(text=f"{title} ({year}). {plot}", metadata={"title": title, "year": year, "genre": genre})
        for title, year, genre, plot in SHELF
    ]
    return VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(
            vector_store=ChromaVectorStore(chroma_collection=collection)
        ),
        embed_model=embed_model,
    )


def build_engine(index, llm):
    return ReGeSQueryEngine.from_defaults(
        index.as_retriever(similarity_top_k=6),
        llm=llm,
    )


def answer(engine, question):
    response = engine.query(question)
    sources = [node.metadata["title"] for node in response.source_nodes]
    return str(response), sources
