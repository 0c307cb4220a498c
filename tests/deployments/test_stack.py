"""The parts of `flywheel up` one by one: project files, ports, child processes, the lock, what others read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deployments.environment import running_api
from deployments.stack.parts import MLFLOW_UI, Addresses, claim, environment_of
from deployments.stack.processes import FIRST_PAUSE_SECONDS, Part, StackError, Supervised, answers_ok, stop
from deployments.stack.projects import find_projects, fingerprint
from deployments.stack.register import JOBS, SCHEDULED, cron_of
from deployments.stack.state import end_leftovers, forget_state, only_one, read_state, write_state
from tasks.errors import ConfigError
from tasks.project import load_project

SLEEPS = "import time; print('up', flush=True); time.sleep(600)"
HAS_A_CHILD = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "time.sleep(600)"
)
IS_STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('up', flush=True); time.sleep(600)"
)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[str], Supervised]]:
    """`child(program)` is a started part that runs the Python program; none outlives the test."""
    started: list[Supervised] = []

    def start(program: str) -> Supervised:
        command = [sys.executable, "-c", program]
        part = Part(
            "thing", command, dict(os.environ), tmp_path, tmp_path / "logs" / f"thing-{len(started)}.log"
        )
        started.append(Supervised(part))
        started[-1].start()
        return started[-1]

    yield start
    stop(started, 0)


def eventually(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- project files -------------------------------------------------------------------------------------------------


def test_project_files_are_told_from_what_lies_beside_them(tiny_project: Callable[..., Path]) -> None:
    """Taxonomies, the template and the examples are passed over without a word."""
    file = tiny_project()
    shutil.copy(file, file.with_name("template.yaml"))
    shutil.copy(file, file.with_name("openrouter-example.yaml"))
    file.with_name("tiny.taxonomy.yaml").write_text("task: {}\nsource: {}\n")
    file.with_name("notes.yaml").write_text("- a list\n")
    found = find_projects(file.parent)
    assert [project.file for project in found.projects] == [file]
    assert not found.broken


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("no.yaml", "project: x\n  task: [", "is not YAML"),
        ("key.yaml", "projekt: x\ntask: {}\nsource: {}\nteacher: {}\n", "Did you mean 'project'"),
        ("latin.yaml", "project: caf\u00e9", "is not UTF-8"),
    ],
)
def test_a_broken_file_is_named_and_the_others_go_on(
    tiny_project: Callable[..., Path], name: str, text: str, said: str
) -> None:
    """One sentence with the file's name; the good project loads all the same."""
    file = tiny_project()
    file.with_name(name).write_bytes(text.encode("latin-1"))
    found = find_projects(file.parent)
    assert [project.project for project in found.projects] == ["tiny"]
    (sentence,) = found.broken
    assert name in sentence
    assert said in sentence


def test_two_files_with_one_name_are_not_both_registered(tiny_project: Callable[..., Path]) -> None:
    """The first by file name stands; the second is named."""
    file = tiny_project()
    shutil.copy(file, file.with_name("zwilling.yaml"))
    found = find_projects(file.parent)
    assert [project.file for project in found.projects] == [file]
    assert "zwilling.yaml" in found.broken[0]


def test_a_changed_a_new_and_a_deleted_file_are_noticed(tiny_project: Callable[..., Path]) -> None:
    """The fingerprint of a folder is equal exactly while nothing in it is written."""
    file = tiny_project()
    first = fingerprint(file.parent)
    assert fingerprint(file.parent) == first
    file.write_text(file.read_text() + "# a word\n")
    second = fingerprint(file.parent)
    file.with_name("new.yaml").write_text("")
    third = fingerprint(file.parent)
    file.unlink()
    assert len({first, second, third, fingerprint(file.parent)}) == 4


@pytest.mark.parametrize(
    ("schedule", "place"),
    [
        ({"nightly": "99 * * * *"}, "schedule.nightly"),
        ({"nightly": "0 2 * * *", "timezone": "Mars/Base"}, "schedule.timezone"),
        ({"monitor": "now and then"}, "schedule.monitor"),
    ],
)
def test_a_schedule_that_is_none_is_refused_with_its_place(
    tiny_project: Callable[..., Path], schedule: dict[str, str], place: str
) -> None:
    """A bad cron line or time zone is the project file's mistake, and said as one."""
    project = load_project(tiny_project(schedule=schedule))
    with pytest.raises(ConfigError) as refused:
        [cron_of(project, job) for job in SCHEDULED]
    assert refused.value.path == place


def test_no_schedule_is_a_schedule_too(tiny_project: Callable[..., Path]) -> None:
    """`nightly: null` switches the clock off; the default is two in the morning."""
    assert cron_of(load_project(tiny_project(schedule={"nightly": None}))) is None
    usual = cron_of(load_project(tiny_project()))
    assert usual is not None
    assert (usual.cron, usual.timezone) == ("0 2 * * *", "UTC")


def test_every_job_is_a_flow_of_its_name() -> None:
    """What the worker imports by its path is there, and is called as the deployment is."""
    import importlib

    for job, module in JOBS.items():
        assert getattr(importlib.import_module(module), job).name == job


def test_every_form_explains_every_field() -> None:
    """A newcomer who opens a job in the UI reads what each field is for, out of the flow's docstring."""
    import importlib

    from prefect.utilities.callables import parameter_schema

    for job, module in JOBS.items():
        fields = parameter_schema(getattr(importlib.import_module(module), job)).properties
        assert all(field.get("description") for field in fields.values()), (job, fields)


# --- addresses -----------------------------------------------------------------------------------------------------


def test_port_zero_takes_free_ports() -> None:
    """Two different ones, and what is printed can be called."""
    addresses = claim("127.0.0.1", 0, 0)
    assert addresses.prefect_port != addresses.mlflow_port
    assert addresses.prefect_api == f"http://127.0.0.1:{addresses.prefect_port}/api"


def test_a_port_in_use_is_a_clear_error() -> None:
    """It names the port and the option that helps, and is the command line's mistake (exit code 2)."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} .* another with --mlflow-port"):
            claim("127.0.0.1", 0, port)
    with pytest.raises(ConfigError, match="both servers"):
        claim("127.0.0.1", 4711, 4711)
    with pytest.raises(ConfigError, match="no address"):
        claim("no such host", 0, 0)


@pytest.mark.parametrize(
    ("host", "called", "loopback"),
    [("0.0.0.0", "127.0.0.1", False), ("::1", "[::1]", True), ("localhost", "localhost", True)],
)
def test_addresses_can_be_called_from_this_machine(host: str, called: str, loopback: bool) -> None:
    """Listening everywhere is not an address; a browser gets one."""
    addresses = Addresses(host, 1, 2)
    assert addresses.mlflow == f"http://{called}:2"
    assert addresses.is_loopback == loopback


def test_links_begin_with_the_address_that_browsers_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server's own, unless the environment names another, as where it listens for other machines."""
    addresses = Addresses("0.0.0.0", 1, 2)
    monkeypatch.delenv(MLFLOW_UI, raising=False)
    assert environment_of(addresses, tmp_path)[MLFLOW_UI] == "http://127.0.0.1:2"
    monkeypatch.setenv(MLFLOW_UI, "http://models.example:5000")
    assert environment_of(addresses, tmp_path)[MLFLOW_UI] == "http://models.example:5000"


# --- processes -----------------------------------------------------------------------------------------------------


def test_stopping_ends_what_a_child_started_too(child: Callable[[str], Supervised]) -> None:
    """A server's own children, a worker's jobs: nothing is left."""
    thing = child(HAS_A_CHILD)
    assert thing.process is not None
    family = [psutil.Process(thing.process.pid)]
    eventually(lambda: family[0].children())
    family += family[0].children()
    stop([thing], 10)
    assert not [process for process in family if process.is_running() and process.status() != "zombie"]


def test_who_does_not_end_when_asked_is_killed(child: Callable[[str], Supervised]) -> None:
    """After the grace, not before."""
    thing = child(IS_STUBBORN)
    eventually(lambda: thing.part.log.read_text())
    stop([thing], 0.3)
    assert thing.exit_code() == -signal.SIGKILL


def test_a_server_that_hangs_is_ended_and_started_again(child: Callable[[str], Supervised]) -> None:
    """It runs and answers nothing: after the time it is given, and not before, it is killed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    thing = child(
        f"import http.server as h; h.test(h.SimpleHTTPRequestHandler, port={port}, bind='127.0.0.1')"
    )
    thing.part = replace(thing.part, health_url=f"http://127.0.0.1:{port}/")
    eventually(thing.answers)
    assert thing.process is not None
    assert thing.end_if_hung(0.0) is None
    os.kill(thing.process.pid, signal.SIGSTOP)
    assert thing.end_if_hung(60.0) is None
    said = thing.end_if_hung(1.0)
    assert said is not None
    assert "thing has not answered for" in said
    assert thing.exit_code() == -signal.SIGKILL
    again = thing.revive()
    assert again is not None
    assert "starting it again" in again


def test_a_fallen_process_is_started_again_after_a_pause(child: Callable[[str], Supervised]) -> None:
    """The fall is said once, with how it ended and the log; then another process runs."""
    thing = child(SLEEPS)
    assert thing.process is not None
    assert thing.revive() is None
    first = thing.process.pid
    os.kill(first, signal.SIGKILL)
    eventually(lambda: thing.exit_code() is not None)
    fell = time.monotonic()
    said = thing.revive()
    assert said is not None
    assert "SIGKILL" in said
    assert str(thing.part.log) in said
    assert thing.revive() is None
    eventually(thing.revive)
    assert time.monotonic() - fell >= FIRST_PAUSE_SECONDS
    assert thing.process.pid != first
    assert thing.exit_code() is None


def test_who_falls_again_and_again_waits_longer(child: Callable[[str], Supervised]) -> None:
    """A part that cannot start does not keep the machine busy."""
    thing = child("raise SystemExit(3)")
    pauses = []
    for _ in range(3):
        eventually(lambda: thing.exit_code() is not None)
        said = thing.revive()
        assert said is not None
        assert "exit code 3" in said
        assert thing.again_at is not None
        pauses.append(thing.again_at - time.monotonic())
        thing.start()
    assert [round(pause) for pause in pauses] == [1, 2, 4]


def test_a_long_log_is_cut_and_goes_on(child: Callable[[str], Supervised]) -> None:
    """What was there lies beside; the process writes on at the beginning."""
    thing = child("import time\nwhile True:\n    print('x' * 50, flush=True)\n    time.sleep(0.01)")
    eventually(lambda: thing.part.log.stat().st_size > 500)
    thing.trim_log(500)
    assert thing.part.log.with_suffix(".log.1").stat().st_size > 500
    eventually(lambda: thing.part.log.stat().st_size > 60)
    assert thing.part.log.read_bytes().startswith(b"x")


def test_a_part_that_did_not_start_shows_its_last_words(tmp_path: Path) -> None:
    """The error holds the end of the log, so nobody has to look for it."""
    log = tmp_path / "thing.log"
    log.write_text("line\n" * 9 + "cannot import name\n")
    error = StackError("thing", "ended while starting", log)
    assert str(log) in str(error)
    assert str(error).endswith("cannot import name")


def test_a_closed_port_does_not_answer() -> None:
    """No exception, just no."""
    assert not answers_ok(f"{claim('127.0.0.1', 0, 0).mlflow}/health", 1)


# --- one stack a home ----------------------------------------------------------------------------------------------


def test_only_one_stack_a_home(tmp_path: Path) -> None:
    """A second process does not get the lock while the first one lives, and gets it when that was killed."""
    program = (
        "import sys, time; from pathlib import Path; from deployments.stack.state import only_one\n"
        "with only_one(Path(sys.argv[1])) as alone:\n    print(alone, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "True\n"
        with only_one(tmp_path) as alone:
            assert not alone
        first.kill()
    with only_one(tmp_path) as alone:
        assert alone


def test_what_a_killed_stack_left_running_is_ended(
    child: Callable[[str], Supervised], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By process id and start time, so that nobody else who got the number later is hit."""
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    (tmp_path / "var").mkdir()
    left, other = child(SLEEPS), child(SLEEPS)
    write_state({"prefect_api": "http://127.0.0.1:9/api"}, [left])
    assert other.process is not None
    state = read_state()
    state["processes"]["other"] = [other.process.pid, 1.0]
    (tmp_path / "var" / "up.json").write_text(json.dumps(state))
    assert end_leftovers() == ["thing"]
    eventually(lambda: left.exit_code() is not None)
    assert other.exit_code() is None
    assert read_state() == {}


def test_commands_find_the_server_only_while_it_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stale file sends nobody to a dead address."""
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    (tmp_path / "var").mkdir()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        api = f"http://127.0.0.1:{server.getsockname()[1]}/api"
        write_state({"prefect_api": api}, [])
        assert running_api() == api
    assert running_api() is None
    forget_state()
    assert running_api() is None
