"""Shared by all tests. That this file is here also puts the repository on the path, for ``tests.tiny``."""

import os

# No test may depend on a hub, and none may ask one. Read when huggingface_hub is imported, so set first.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
