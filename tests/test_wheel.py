"""A wheel that is built from this checkout holds all that the demo needs, and runs away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*words, cwd, **env):
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling, from the extra test")
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT, cwd=folder)
    [path] = folder.glob("*.whl")
    return path


def test_it_ships_every_file_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "reges_index").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == here


@pytest.mark.slow
def test_the_demo_runs_from_it(wheel, tmp_path):
    target = tmp_path / "installed"
    run("-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel, cwd=tmp_path)
    cli = ("-m", "reges_index.cli")
    where = run("-c", "import reges_index; print(reges_index.__file__)", cwd=tmp_path, PYTHONPATH=str(target))
    assert Path(where.strip()).is_relative_to(target)
    run(*cli, "index", "demo:books", "--store", "store", cwd=tmp_path, PYTHONPATH=str(target))
    said = run(
        *cli, "recommend", "--store", "store", "--conversation", "demo:books-fantasy",
        cwd=tmp_path, PYTHONPATH=str(target),
    )  # fmt: skip
    assert said.strip()
