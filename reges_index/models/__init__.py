"""One base LLM with LoRA adapters, and its LlamaIndex face (section 3.3)."""
