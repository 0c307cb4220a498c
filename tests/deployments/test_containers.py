"""The container files and the systemd unit: what they name exists, and what they run runs.

No container runs here. Without Docker Compose or systemd their own checks are skipped and say so; the others read the
files, and one test runs the commands of the compose file as processes.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from deployments.cli import main
from tasks.project import load_project
from tests.conftest import ROOT, write_tiny_project
from tests.deployments.composed import CONTAINERS, VARIABLE, services, written

DOCKERFILE = CONTAINERS / "Dockerfile"
UNIT = ROOT / "deployments" / "systemd" / "llm-flywheel.service"
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's (INSTRUCTION, the rest), continued lines joined."""
    text = re.sub(
        r"\\\n\s*",
        "",
        "".join(
            line for line in DOCKERFILE.read_text().splitlines(keepends=True) if not line.startswith("#")
        ),
    )
    parts = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(word, rest) for word, _, rest in parts]


def values() -> dict[str, str]:
    """What `.env.example` would set if its comments were taken away, with a password."""
    pairs = re.findall(r"^#?([A-Z_]+)=(.*)$", (CONTAINERS / ".env.example").read_text(), re.MULTILINE)
    return dict(pairs) | {"POSTGRES_PASSWORD": "a-secret-word"}


def option_of(name: str, arguments: list[str]) -> click.Context:
    """The command's parsed options, as click takes them; fails where it would not."""
    context = click.Context(main)
    command = main.get_command(context, name)
    assert command is not None
    return command.make_context(name, arguments, resilient_parsing=False)


# --- the image -----------------------------------------------------------------------------------------------------


def test_the_image_runs_as_nobody_special_and_says_how_it_is() -> None:
    """The last user is not root, and Docker can ask whether the stack is well."""
    names = [name for name, _ in instructions()]
    assert names[0] == "FROM"
    assert names.count("FROM") == 1
    (user,) = [rest for name, rest in instructions() if name == "USER"]
    assert int(user) > 0
    assert f"useradd --uid {user} " in DOCKERFILE.read_text()
    assert names.index("USER") > max(place for place, name in enumerate(names) if name in ("RUN", "COPY"))
    assert "HEALTHCHECK" in names


def test_the_images_python_is_the_one_that_the_constraints_were_tested_on() -> None:
    """So that a build installs what the tests ran with."""
    (version,) = re.findall(r"\(Python (\d+\.\d+)", (ROOT / "constraints.txt").read_text())
    assert dict(instructions())["FROM"].startswith(f"python:{version}-slim")
    assert "-c constraints.txt" in DOCKERFILE.read_text()


def test_changed_code_installs_no_package_again() -> None:
    """What decides the packages is copied before them, the code behind them."""
    steps = instructions()
    (packages,) = [
        place for place, (name, rest) in enumerate(steps) if name == "RUN" and "constraints" in rest
    ]
    before = {word for name, rest in steps[:packages] if name == "COPY" for word in rest.split()[:-1]}
    after = {word for name, rest in steps[packages:] if name == "COPY" for word in rest.split()[:-1]}
    assert before == {"pyproject.toml", "constraints.txt", "LICENSE"}
    assert {"deployments", "flows", "tasks"} <= after


def test_what_is_copied_is_there_and_what_is_not_is_kept_out() -> None:
    """Every source exists and passes .dockerignore; data, keys and history do not."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def passes(path: str) -> bool:
        let = True
        for pattern in patterns:
            wanted = pattern.removeprefix("!").removeprefix("**/")
            parts = path.split("/")
            hit = any(fnmatch.fnmatch(part, wanted) for part in (parts if "**/" in pattern else parts[:1]))
            let = pattern.startswith("!") if hit else let
        return let

    copied = [word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]]
    assert all((ROOT / path).exists() for path in copied)
    assert [path for path in copied if not passes(path)] == []
    kept = [
        "var/catalogue/flywheel.db",
        ".git/config",
        ".env",
        "deployments/containers/.env",
        "tests/conftest.py",
    ]
    assert [path for path in kept if passes(path)] == []


def test_the_image_holds_no_secret() -> None:
    """No build argument and no variable of it is one; the file of keys is in no repository either."""
    assert [rest for name, rest in instructions() if name in ("ARG", "ENV") and SECRET.search(rest)] == []
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_copied_code_works_where_it_is_copied_to(tmp_path: Path) -> None:
    """Nothing that a command, the registration or the demo reads is left behind."""
    for name, rest in instructions():
        for word in rest.split()[:-1] if name == "COPY" else ():
            place = tmp_path / word
            if (ROOT / word).is_dir():
                shutil.copytree(ROOT / word, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / word, place)
    look = (
        "from pathlib import Path; import deployments.first_files as first, deployments.demo.scene as scene\n"
        "from deployments.stack import health, register, worker\n"
        "assert Path(first.__file__).parents[1] == Path.cwd() and first.TEMPLATE.exists()\n"
        "assert (scene.CONF / 'catalogue.yaml').exists()"
    )
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    extras = dict(part.split("=") for name, part in instructions() if name == "ARG" and "=" in part)["EXTRAS"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_alone_it_is_flywheel_up() -> None:
    """The image's command takes its options, and its health check asks where that command listens."""
    said = dict(instructions())
    program, name, *arguments = yaml_list(said["CMD"])
    assert (program, name) == ("flywheel", "up")
    options = option_of(name, arguments).params
    for port in (options["prefect_port"], options["mlflow_port"]):
        assert f"http://127.0.0.1:{port}/" in said["HEALTHCHECK"]
        assert str(port) in said["EXPOSE"].split()


def yaml_list(text: str) -> list[str]:
    """A JSON list of a Dockerfile."""
    return [word.strip().strip('"') for word in text.strip().strip("[]").split(",")]


def test_the_health_check_tells_an_answer_from_none() -> None:
    """Exit code 1 where one of the addresses does not answer."""
    ask = [sys.executable, "-m", "deployments.stack.health", "http://127.0.0.1:9/health"]
    assert subprocess.run(ask, check=False).returncode == 1
    assert subprocess.run(ask[:-1], check=False).returncode == 0


def test_hadolint_finds_nothing() -> None:
    """The Dockerfile's own linter, shell commands included; it comes with the `dev` extra."""
    hadolint = shutil.which("hadolint") or Path(sys.executable).with_name("hadolint")
    if not Path(hadolint).exists():
        pytest.skip("hadolint is not installed: the Dockerfile is only checked by the tests above")
    asked = [hadolint, "--failure-threshold", "style", DOCKERFILE]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    wrong = subprocess.run(
        [hadolint, "-"], input="FROM python\nRUN cd /x\n", capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 1, "it reads what it is given"


# --- compose -------------------------------------------------------------------------------------------------------


def test_every_reference_in_the_compose_file_leads_somewhere() -> None:
    """Services waited for, their health checks, volumes, mounted files, the build."""
    body, filled = written(), services(values())
    assert set(body) == {"name", "services", "volumes"} | {key for key in body if key.startswith("x-")}
    used = set()
    for service in filled.values():
        for name, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in filled[name]
        for volume in service.get("volumes", ()):
            source, target, *mode = volume.split(":")
            assert target.startswith("/")
            assert mode in ([], ["ro"])
            if source.startswith("."):
                assert (CONTAINERS / source).exists(), source
            else:
                used.add(source)
        if "build" in service:
            context = CONTAINERS / service["build"]["context"]
            assert context.resolve() == ROOT
            assert (context / service["build"]["dockerfile"]).resolve() == DOCKERFILE
    assert used == set(body["volumes"])


def test_the_database_and_the_servers_are_not_published_to_the_world() -> None:
    """PostgreSQL to nobody, the two servers to this machine unless .env says otherwise."""
    ports = {name: service.get("ports", []) for name, service in services({"POSTGRES_PASSWORD": "x"}).items()}
    assert ports == {
        "postgres": [],
        "prefect": ["127.0.0.1:4200:4200"],
        "mlflow": ["127.0.0.1:5000:5000"],
        "worker": [],
    }


def test_the_example_of_an_environment_names_every_variable_and_no_secret() -> None:
    """What compose.yaml reads stands there and nothing else; a password that nobody set stops the start."""
    text = (CONTAINERS / "compose.yaml").read_text()
    passed = {
        name
        for service in services(values()).values()
        for name, value in service.get("environment", {}).items()
        if value is None
    }
    assert passed == {"OPENROUTER_API_KEY", "OPENAI_API_KEY"}
    assert set(values()) == {match[1] for match in VARIABLE.finditer(text)} | passed
    given = re.findall(r"^(\w+)=(.*)$", (CONTAINERS / ".env.example").read_text(), re.MULTILINE)
    assert [value for name, value in given if SECRET.search(name) and value] == []
    with pytest.raises(KeyError, match="POSTGRES_PASSWORD"):
        services({})


def test_docker_compose_takes_the_file() -> None:
    """Compose's own parser and schema, where it is installed."""
    asked = ["docker", "compose", "version"]
    if shutil.which("docker") is None or subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("Docker Compose is not installed: the file is only checked by the tests around this one")
    done = subprocess.run(
        ["docker", "compose", "-f", str(CONTAINERS / "compose.yaml"), "config", "--quiet"],
        env=os.environ | values(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_project_file_may_still_name_a_database_and_a_registry_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment's addresses stand only where the file names none."""
    monkeypatch.setenv("FLYWHEEL_DATABASE_URL", "postgresql+psycopg://a@b/c")
    monkeypatch.setenv("FLYWHEEL_TRACKING_URI", "http://mlflow:5000")
    project = load_project(write_tiny_project(tmp_path / "plain"), tmp_path)
    assert (project.database_url, project.tracking_uri) == (
        "postgresql+psycopg://a@b/c",
        "http://mlflow:5000",
    )
    own = {"storage": {"database": "sqlite:///x.db"}, "mlflow": {"tracking_uri": "sqlite:///y.db"}}
    project = load_project(write_tiny_project(tmp_path / "own", **own), tmp_path)
    assert (project.database_url, project.tracking_uri) == ("sqlite:///x.db", "sqlite:///y.db")


# --- systemd -------------------------------------------------------------------------------------------------------


def unit() -> dict[str, str]:
    """The unit's settings; none of them is given twice."""
    pairs = re.findall(r"^([A-Z]\w+)=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def test_the_unit_runs_a_command_that_exists_and_writes_where_it_may() -> None:
    """Options as click takes them, its home the state folder, one signal to the one process that ends the others."""
    said = unit()
    program, name, *arguments = shlex.split(said["ExecStart"])
    assert program.endswith("/.venv/bin/flywheel")
    assert option_of(name, arguments).params["conf"] == Path("/etc/llm-flywheel/conf")
    home = f"/var/lib/{said['StateDirectory']}"
    assert said["WorkingDirectory"] == home
    assert said["Environment"] == f"FLYWHEEL_HOME={home}"
    assert said["KillMode"] == "mixed"
    from deployments.stack.run import JOBS_GRACE_SECONDS, SERVERS_GRACE_SECONDS

    assert float(said["TimeoutStopSec"]) > JOBS_GRACE_SECONDS + SERVERS_GRACE_SECONDS
    assert said["User"] != "root"


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify`, with the command put where this machine has it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed: the unit is only checked by the test above")
    there = tmp_path / UNIT.name
    flywheel = Path(sys.executable).with_name("flywheel")
    there.write_text(
        UNIT.read_text().replace("/usr/local/lib/llm-flywheel/.venv/bin/flywheel", str(flywheel))
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(there)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr, done.stderr
