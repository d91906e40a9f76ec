"""Parsers that crash, hang or eat memory end alone, by name, and the rest goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ragline.rag import files, parsing
from ragline.rag.formats import PARSERS, Rejected
from ragline.rag.parsing import ParserLimits, ParserPool

# What a parser can do that was taken over: say what it likes on the socket of its process.
WRITES = """
import os, pickle, struct, time
from pathlib import Path
from ragline.rag.formats import Parsed

def there():
    links = ((int(one.name), os.readlink(one)) for one in Path("/proc/self/fd").iterdir()
             if one.is_symlink())
    return next(number for number, to in links if to.startswith("socket:"))

def say(answer):
    os.write(there(), struct.pack("!i", len(answer)) + answer)
    time.sleep(600)

"""
HOSTILE = {
    "sleep": "import time\ndef parse(data): time.sleep(600)",
    "spin": "def parse(data):\n    while True: pass",
    "die": "import os\ndef parse(data): os.abort()",
    "leave": "import sys\ndef parse(data): sys.exit(3)",
    "eat": "def parse(data): return [bytearray(1 << 20) for _ in range(1 << 20)]",
    "fail": "def parse(data): raise KeyError('missing')",
    "forge": (
        "import os\nfrom ragline.rag.formats import Parsed\n"
        "class Forged(Parsed):\n"
        "    def __reduce__(self): return os.mkdir, ('forged',)\n"
        "def parse(data): return Forged('text', ())"
    ),
    "number": WRITES + "def parse(data): say(b'I5\\n.')",
    "garbage": WRITES + "def parse(data): say(b'\\x80\\x05\\x8c\\x01\\xff.')",
    "pair": WRITES + "def parse(data): say(pickle.dumps((1, 2, 3)))",
    "wrong": WRITES + "def parse(data): say(pickle.dumps(Parsed(5, 6)))",
    "blockless": WRITES + "def parse(data): say(pickle.dumps(Parsed('a', (1,))))",
    "circle": (
        WRITES + "def parse(data):\n    about = {}\n    about['a'] = about\n"
        "    say(pickle.dumps(Parsed('a', (), None, about)))"
    ),
    # Its own alarm would end it a moment after us.
    "half": (
        WRITES + "import signal\n"
        "def parse(data):\n    signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "    os.write(there(), b'\\0\\0\\1\\0abc'); time.sleep(600)"
    ),
    "closed": WRITES + "def parse(data): os.close(there()); time.sleep(600)",
    "deep": (
        "from ragline.rag.formats import Parsed\n"
        "def parse(data):\n"
        "    title = None\n"
        "    for _ in range(5000): title = [title]\n"
        "    return Parsed('text', (), title)"
    ),
    "write": (
        "from ragline.rag.formats.text import parse as real\n"
        "def parse(data):\n    open('written', 'wb', buffering=0).write(b'x'); return real(data)"
    ),
    "shout": (
        "import os\nfrom ragline.rag.formats.text import parse as real\n"
        "def parse(data):\n    os.write(1, b'noise'); os.write(2, b'noise'); return real(data)"
    ),
}


@pytest.fixture
def parsers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The real parsers, and one of each hostile kind under its own media type."""
    for name, source in HOSTILE.items():
        (tmp_path / f"hostile_{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return PARSERS | {name: f"hostile_{name}" for name in HOSTILE}


async def reason(pool: ParserPool, source: Path | bytes, media_type: str) -> str:
    with pytest.raises(Rejected) as rejected:
        await pool.parse(source, media_type)
    return rejected.value.reason


async def still_works(pool: ParserPool) -> bool:
    return (await pool.parse(b"# Hello", "text/markdown")).title == "Hello"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("sleep", "TIMEOUT"),
        ("spin", "TIMEOUT"),
        ("die", "CRASHED"),
        ("leave", "CRASHED"),
        ("eat", "TOO_LARGE"),
        ("fail", "CRASHED"),
    ],
)
async def test_a_hostile_parser_is_answered_by_name_and_the_pool_goes_on(
    kind: str, expected: str, parsers: dict[str, str]
) -> None:
    limits = ParserLimits(deadline_s=100, memory_bytes=256 << 20)
    async with ParserPool(1, limits, parsers) as pool:
        for _ in range(2):
            pool._limits = replace(limits, deadline_s=1 if expected == "TIMEOUT" else 100)
            assert await reason(pool, b"x", kind) == expected
            pool._limits = limits
            assert await still_works(pool)


async def test_one_hanging_file_does_not_hold_up_the_others(parsers: dict[str, str]) -> None:
    async with ParserPool(2, ParserLimits(deadline_s=100), parsers) as pool:
        hanging = asyncio.create_task(reason(pool, b"x", "sleep"))
        for _ in range(50):
            assert await still_works(pool)
        assert not hanging.done()
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging


async def test_a_worker_killed_from_outside_is_replaced(parsers: dict[str, str]) -> None:
    async with ParserPool(1, parsers=parsers) as pool:
        assert await still_works(pool)
        (worker,) = pool._workers
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        assert await still_works(pool)  # killed while idle: nobody's file is blamed

        busy = asyncio.create_task(reason(pool, b"x", "sleep"))
        await asyncio.sleep(0)  # now it has its worker
        assert pool._idle.empty()
        (worker,) = pool._workers
        os.kill(worker.process.pid, signal.SIGKILL)
        assert await busy == "CRASHED"
        assert await still_works(pool)


async def test_a_cancelled_parse_ends_its_worker(parsers: dict[str, str]) -> None:
    async with ParserPool(1, parsers=parsers) as pool:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.parse(b"x", "sleep"), 0.5)
        assert await still_works(pool)


async def test_nothing_is_started_before_the_first_file_nor_left_after_the_last() -> None:
    async with ParserPool() as pool:
        assert not pool._workers
        assert await still_works(pool)
        (worker,) = pool._workers
    assert worker.process.returncode == -signal.SIGKILL


async def test_a_parser_cannot_write_to_our_output(
    parsers: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    async with ParserPool(1, parsers=parsers) as pool:
        assert (await pool.parse(b"Words.", "shout")).text == "Words."
    assert capfd.readouterr() == ("", "")


async def test_files_are_read_by_the_worker_within_limits(tmp_path: Path) -> None:
    (tmp_path / "fits.txt").write_text("x" * 100)
    (tmp_path / "large.txt").write_text("x" * 101)
    async with ParserPool(1, ParserLimits(size_bytes=100)) as pool:
        assert len((await pool.parse(tmp_path / "fits.txt", "text/plain")).text) == 100
        assert await reason(pool, tmp_path / "large.txt", "text/plain") == "TOO_LARGE"
        assert await reason(pool, b"x" * 101, "text/plain") == "TOO_LARGE"
        assert await reason(pool, tmp_path / "gone.txt", "text/plain") == "UNREADABLE"
        assert await reason(pool, tmp_path, "text/plain") == "UNREADABLE"
        assert await reason(pool, b"", "text/plain") == "EMPTY"
        assert await reason(pool, b"x", "image/png") == "UNSUPPORTED"


async def test_a_parser_that_was_taken_over_runs_nothing_in_our_process(
    parsers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with ParserPool(1, parsers=parsers) as pool:
        with pytest.raises(Rejected, match="mkdir is no part of an answer") as rejected:
            await pool.parse(b"x", "forge")
        assert rejected.value.reason == "CRASHED"
        assert not (tmp_path / "forged").exists()
        assert await still_works(pool)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("number", "CRASHED"),
        ("garbage", "CRASHED"),
        ("pair", "CRASHED"),
        ("wrong", "CRASHED"),
        ("blockless", "CRASHED"),
        ("circle", "CRASHED"),
        ("half", "TIMEOUT"),
        ("closed", "CRASHED"),
        ("deep", "TOO_DEEP"),
    ],
)
async def test_whatever_a_parser_that_was_taken_over_says_is_a_rejection_in_time(
    parsers: dict[str, str], monkeypatch: pytest.MonkeyPatch, kind: str, expected: str
) -> None:
    monkeypatch.setattr(parsing, "_SHORT_S", 0.2)
    # Waiting for more than half an answer takes all of the deadline, and nothing else does.
    patient = ParserLimits(deadline_s=100)
    async with ParserPool(1, patient, parsers) as pool:
        pool._limits = replace(patient, deadline_s=2 if expected == "TIMEOUT" else 100)
        assert await asyncio.wait_for(reason(pool, b"x", kind), 60) == expected
        pool._limits = patient
        assert await still_works(pool)


async def test_a_parser_writes_no_files(
    parsers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with ParserPool(1, parsers=parsers) as pool:
        assert await reason(pool, b"x", "write") == "CRASHED"
    assert (tmp_path / "written").read_bytes() == b""


async def test_a_text_longer_than_allowed_is_rejected() -> None:
    async with ParserPool(1, ParserLimits(text_characters=10)) as pool:
        assert (await pool.parse(b"x" * 10, "text/plain")).text == "x" * 10
        assert await reason(pool, b"x" * 11, "text/plain") == "TOO_LARGE"


async def test_a_pipe_or_a_link_in_the_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "link.txt").symlink_to("/etc/hostname")
    async with ParserPool(1) as pool:
        assert await reason(pool, tmp_path / "pipe.txt", "text/plain") == "UNREADABLE"
        assert await reason(pool, tmp_path / "link.txt", "text/plain") == "UNREADABLE"


async def test_a_folder_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    for folder in ("root/sub", "out"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text(folder)
    (found,) = files.find([tmp_path / "root"])
    (tmp_path / "root/sub").rename(tmp_path / "gone")
    (tmp_path / "root/sub").symlink_to(tmp_path / "out")

    async with ParserPool(1) as pool:
        assert isinstance(found, files.Found)
        assert await reason(pool, found.path, "text/plain") == "UNREADABLE"


async def test_large_text_comes_back_whole() -> None:
    async with ParserPool(1) as pool:
        parsed = await pool.parse("thầu ".encode() * 1_000_000, "text/plain")
    assert parsed.text == "thầu " * 1_000_000


ABANDON = """
import asyncio, os, signal, sys
from ragline.rag.formats import PARSERS
from ragline.rag.parsing import ParserLimits, ParserPool
async def main():
    pool = ParserPool(2, parsers=PARSERS | {"sleep": "hostile_sleep"})
    await pool.parse(b"x", "text/plain")
    pool._limits = ParserLimits(deadline_s=1)
    busy = asyncio.create_task(pool.parse(b"x", sys.argv[1]))
    await asyncio.sleep(0.3)
    print(*(one.process.pid for one in pool._workers), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("at_work_on", ["text/plain", "sleep"])
@pytest.mark.usefixtures("parsers")
def test_workers_end_when_their_parent_is_killed(at_work_on: str) -> None:
    command = [sys.executable, "-c", ABANDON, at_work_on]
    done = subprocess.run(command, capture_output=True, text=True)
    pids = [int(pid) for pid in done.stdout.split()]

    assert pids, done.stderr
    until = time.monotonic() + 100
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(is_running, pids))
