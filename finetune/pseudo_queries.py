r"""Pseudo-queries from a teacher (section 2.3).

    python finetune/pseudo_queries.py --conversations ../shared/data/inspired/train.jsonl \
        --catalog ../shared/data/inspired/catalog.jsonl \
        --teacher openai-like:llama3.1@http://localhost:11434/v1 --out runs/pseudo_queries.jsonl

The same as `reges finetune pseudo-queries`; `--help` lists all options.
"""

import sys

from reges_index.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["finetune", "pseudo-queries"]
    main()
