"""`.ci/run` where no Chromium can be installed: in CI the browser tests must then fail, not be skipped."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / ".ci" / "run"
DEBIAN = Path("/etc/debian_version")


@pytest.mark.skipif(not RUN.exists() or not DEBIAN.exists(), reason="runs in a checkout, on Debian")
@pytest.mark.parametrize(
    ("ci", "user", "tries", "failing", "required"),
    [
        ("true", 0, 2, 2, "1"),
        ("true", 0, 2, 1, "1"),
        ("true", 0, 1, 0, "1"),
        ("", 0, 2, 2, ""),
        ("true", 1000, 0, 0, ""),
    ],
)
def test_a_browser_is_required_where_ci_could_have_installed_it(tmp_path, ci, user, tries, failing, required):
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    log.touch()
    # Nothing else is found: no Chromium of this machine, and no package manager.
    for name in ("dirname", "grep", "touch", "chmod", "bash"):
        (tools / name).symlink_to(shutil.which(name))
    scripts = {
        "id": f"echo {user}",
        "sleep": "exit 0",
        "make": f'echo "make $1 browser=${{REGES_REQUIRE_BROWSER:-}}" >> {log}',
        "apt-get": f"""[ "$1" = update ] || exit 0
echo apt-get >> {log}
[ "$(grep -c apt-get {log})" -gt {failing} ] || exit 100
touch {tools}/chromium && chmod +x {tools}/chromium""",
    }
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name != "REGES_REQUIRE_BROWSER"}
    done = subprocess.run(
        [shutil.which("bash"), str(RUN)], env={**env, "PATH": str(tools), "CI": ci}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    told = [f"make {target} browser={required}" for target in ("lint", "test")]
    assert log.read_text().splitlines() == ["apt-get"] * tries + told
    assert (b"no Chromium could be installed" in done.stderr) == (tries == failing == 2)
