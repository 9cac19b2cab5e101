"""Servers that are asked for something, behind LLMs and encoders: their faults, and retries with back-off."""
