r"""Train LLM_QR, the query expert (section 2.3).

    python finetune/query_expert.py --conversations ../shared/data/inspired/train.jsonl \
        --pseudo-queries ../shared/data/inspired/pseudo_queries.jsonl --out runs/query-expert
    accelerate launch --multi_gpu --num_processes 2 finetune/query_expert.py ...   # several processes

The same as `reges finetune query-expert`; `--help` lists all options.
"""

import sys

from reges_index.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["finetune", "query-expert"]
    main()
