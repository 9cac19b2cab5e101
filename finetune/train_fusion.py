"""Fit the fusion: statistics of the train dialogues, and what each feature weighs.

    python finetune/train_fusion.py finetune/recipes/fusion.yaml

The same as `reges --verbose finetune fusion --json`; `--help` lists all options.
"""

import sys

from reges_index.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["--verbose", "finetune", "fusion", "--json"]
    main()
