"""Train R, the encoder of dialogues and items, by a recipe.

python finetune/encoder.py finetune/recipes/encoder.yaml
python finetune/encoder.py finetune/recipes/query-tower.yaml
"""

import json
import logging
import sys
from pathlib import Path

from reges_index.training.encoder import train_encoder
from reges_index.training.encoder_data import read_encoder_recipe

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    print(json.dumps(train_encoder(read_encoder_recipe(Path(sys.argv[1])))))
