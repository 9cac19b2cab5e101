"""Two processes under ``accelerate launch`` train as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed
from torch.optim import AdamW

from reges_index.training.batches import plan_epoch
from reges_index.training.checkpoints import RunState
from reges_index.training.loop import Team, train_loop
from reges_index.training.lora import fresh_lora
from tests.tiny import tiny_lm

from .dialogues import settings
from .test_sft import examples

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, os, sys
from pathlib import Path
from tests.training.dialogues import dialogue, settings
from tests.tiny import tiny_lm
from reges_index.training.data import TrainingData
from reges_index.training.experts import train_query_expert

out, share = sys.argv[1:]
options = settings(share_prefixes=share == "True", gradient_accumulation=2, epochs=4)
turns = [turn for number in range(24) for turn in dialogue(number)][:45]  # the last step of an epoch has one
queries = {turn.id: f"a {turn.messages[0].content.split()[3]} film" for turn in turns}
result = train_query_expert([TrainingData(turns, queries=queries)], tiny_lm(), options, out)
Path(f"{out}.losses-{os.environ.get('RANK', '0')}").write_text(json.dumps(result.losses))
"""


def losses(tmp_path, processes, share):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    launch = [sys.executable]
    if processes > 1:
        # --multi_gpu is the launcher that starts processes through torchrun; without a GPU they take gloo
        # (accelerate's own --cpu starts one process only, unless MPI starts the others).
        launch += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
        launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        launch += ["--num_cpu_threads_per_process", "1", "--main_process_port", "0"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    out = tmp_path / f"out{processes}"
    arguments = [str(script), str(out), str(share)]
    done = subprocess.run([*launch, *arguments], env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    # In files, one of each process: what a launcher does with the output of its children is its own affair.
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob(f"{out.name}.losses-*"))]
    assert len(found) == processes, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert all(curve == found[0] for curve in found)
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("share", [True, False])
def test_two_processes_have_the_loss_curve_of_one(tmp_path, share):
    one = losses(tmp_path, 1, share)
    two = losses(tmp_path, 2, share)
    # The same micro-batches, each divided by the step's answer tokens; only the order in which fp32
    # gradients are added up differs, and Adam, which divides by their size, carries that on.
    assert two == pytest.approx(one, rel=2e-3)
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    assert two[-1] < two[0]


@pytest.fixture
def a_group_of_one():
    """What `add_up` talks to; the other processes, which have nothing to do, need not be there."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize(("accumulation", "idle"), [(1, True), (2, False)])
def test_processes_without_work_are_warned_of(tmp_path, a_group_of_one, caplog, accumulation, idle):
    lm, options = tiny_lm(), settings(gradient_accumulation=accumulation)
    plan = plan_epoch(
        examples(lm), batch_size=2, accumulation=accumulation, share_prefixes=False, seed=0, epoch=0
    )[:1]
    with fresh_lora(lm, options) as model:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        state = RunState(trained, AdamW(trained.values()), tmp_path / "run", "x")
        train_loop(model, plan, options, state, pad_id=0, team=Team(0, 2))
    assert ("1 of 2 processes have nothing to do" in caplog.text) == idle
    assert state.step == 1
