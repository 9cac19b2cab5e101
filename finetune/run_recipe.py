"""All four steps from one recipe.

    python finetune/run_recipe.py finetune/recipes/embedded.yaml
    accelerate launch --multi_gpu --num_processes 2 finetune/run_recipe.py finetune/recipes/embedded.yaml

The same as `reges finetune run`; `--help` lists all options.
"""

import sys

from reges_index.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["finetune", "run"]
    main()
