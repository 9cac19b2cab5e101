"""Retrieval-augmented generation (section 2.4): the item expert LLM_G."""
