r"""Hard negatives with the trained query expert (section 2.4).

    python finetune/negatives.py --conversations ../shared/data/inspired/train.jsonl \
        --catalog ../shared/data/inspired/catalog.jsonl --query-expert runs/query-expert \
        --out runs/negatives.jsonl

The same as `reges finetune negatives`; `--help` lists all options.
"""

import sys

from reges_index.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["finetune", "negatives"]
    main()
