"""Train R, the encoder of dialogues and items, or its query side alone, by a recipe.

    python finetune/encoder.py finetune/recipes/encoder.yaml
    python finetune/encoder.py finetune/recipes/query-tower.yaml

The same as `reges --verbose finetune encoder --json`.
"""

import sys

from reges_index.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["--verbose", "finetune", "encoder", "--json"]
    main()
