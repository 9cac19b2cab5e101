"""Both halves in LlamaIndex engines (section 2.1)."""
