"""Changes on a disk that is full: nothing half-done, and all goes on when there is space again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from command import place

# In a mount namespace of its own: nobody else sees the small disk, and it is gone with the process.
_MOUNTED = 'mount -t tmpfs -o size=256m tmpfs "$1" && chmod 755 "$1" && shift && exec "$@"'
_SCRIPT = """
import asyncio, dataclasses, json, os, sys
from pathlib import Path

import breaking
from command import Command
from ragline.ops import embedded

folder = Path(sys.argv[1])
ground = breaking.ground(Command(folder=folder))
ragline = ground.command.with_(**ground.environment)
try:
    before = asyncio.run(breaking.fingerprint(ground))
    told = {}
    planned = {
        name: ragline.json("change", "plan", *words.split(), "--no-measure")["id"]
        for name, words in {
            "setting": "setting log_lock_waits=on",
            "role": "role eval_app work_mem=48MB",
        }.items()
    }
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(1 << 12))
            except OSError:
                break
    done = ragline.run("change", "plan", "index", "kb", "m=24")
    told["index"] = [done.returncode, done.stderr]
    for name, number in planned.items():
        done = ragline.run("change", "apply", str(number))
        told[name] = [done.returncode, done.stderr]
    ballast.unlink()
    resumed = ragline.run("change", "resume")
    told["resume"] = [resumed.returncode, resumed.stderr]
    states = {one["id"]: one["state"] for one in ragline.json("change", "list")["changes"]}
    told["states"] = {name: states[number] for name, number in planned.items()}
    for name, number in planned.items():
        if told["states"][name] == "kept":
            ragline.json("change", "undo", str(number))
    told["is_as_before"] = asyncio.run(breaking.fingerprint(ground)) == before
    told["leftovers"] = asyncio.run(breaking.leftovers(ground))
    print(json.dumps(told))
finally:
    embedded.stop(folder / "data")
"""


def test_on_a_full_disk_nothing_is_half_done() -> None:
    probe = subprocess.run(
        ["unshare", "-m", "sh", "-c", _MOUNTED, "sh", "/tmp", "true"], capture_output=True
    )
    if probe.returncode:
        pytest.skip("not run: a small disk takes the right to mount one")
    with place() as command:
        small = command.folder / "small"
        small.mkdir()
        done = subprocess.run(
            [
                "unshare",
                "-m",
                "sh",
                "-c",
                _MOUNTED,
                "sh",
                small,
                sys.executable,
                "-c",
                _SCRIPT,
                small,
            ],
            env={**command.environment, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    code, said = told["index"]
    assert code == 3, said
    assert "free" in said
    for name in ("setting", "role"):
        code, said = told[name]
        assert "Traceback" not in said
        # With what is written into pages that are there already it may well go through.
        assert code == 0 or (code in (3, 7) and "ree some space" in said), said
        assert told["states"][name] == ("kept" if code == 0 else told["states"][name])
        assert told["states"][name] in ("kept", "undone", "planned")
    assert told["resume"][0] == 0, told
    assert told["is_as_before"]
    assert told["leftovers"] == []
