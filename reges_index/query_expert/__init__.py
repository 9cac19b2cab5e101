"""Generation-augmented retrieval (section 2.3): the query expert LLM_QR."""
