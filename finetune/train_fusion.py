"""Train the fusion: statistics, query adapter, feature weights, and the final choice.

    python finetune/train_fusion.py fit finetune/recipes/fusion.yaml
    python finetune/train_fusion.py negatives finetune/recipes/fusion.yaml --top-k 50 --out runs/second-round
    python finetune/train_fusion.py choice runs/fusion choices.jsonl --out runs/fusion-with-llm

The same as `reges --verbose finetune fusion`, `fusion-negatives` and `fusion-choice`, the first and the last
with `--json`; `--help` lists all options.
"""

import sys

from reges_index.cli import main

COMMANDS = {
    "fit": ["fusion", "--json"],
    "negatives": ["fusion-negatives"],
    "choice": ["fusion-choice", "--json"],
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        sys.exit(0 if sys.argv[1:2] in (["-h"], ["--help"]) else 2)
    sys.argv[1:2] = ["--verbose", "finetune", *COMMANDS[sys.argv[1]]]
    main()
