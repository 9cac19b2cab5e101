r"""Train LLM_G, the item expert (section 2.4).

    python finetune/item_expert.py --conversations ../shared/data/inspired/train.jsonl \
        --catalog ../shared/data/inspired/catalog.jsonl --hard-negatives runs/negatives.jsonl \
        --out runs/item-expert
    accelerate launch --multi_gpu --num_processes 2 finetune/item_expert.py ...   # several processes

The same as `reges finetune item-expert`; `--help` lists all options.
"""

import sys

from reges_index.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["finetune", "item-expert"]
    main()
