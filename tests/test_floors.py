"""The house keeps its floors: who may import what, what files may say, how modules are named."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("tasks", "flows", "deployments")
FOLDERS = (*PACKAGES, "conf", "notebooks", "tests", ".ci")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = {"torch", "torchvision", "timm", "sentence_transformers", "transformers"}
MLFLOW_MODULES = {"tasks/promotion/registry.py", "tasks/promotion/packaging.py"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler", "processor"}
# Written in parts, or this file would name them.
INDEXES = re.compile("|".join(("pypi" + r"\.org", "python" + "hosted", "--(extra-)?index" + "-url")))
TORCH_INDEX = re.compile("download" + r"\.pytorch\.org")
MACHINE_PATHS = re.compile(r"(?<![\w.*}-])/(" + "|".join(("work", "root", "opt")) + r")/")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(nodes: Iterator[ast.AST]) -> set[str]:
    """The distributions' top names imported by these nodes."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: not inside functions, nor under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_import(node)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_the_scan_sees_what_it_should() -> None:
    """Imports inside functions and for types only are told from those that run."""
    tree = ast.parse(
        "import a.b\n"
        "if TYPE_CHECKING:\n    import c\n"
        "try:\n    from d.e import f\nexcept ImportError:\n    pass\n"
        "class G:\n    import h\n"
        "def i():\n    import j\n"
        "from . import k\n"
    )
    assert imports(at_import(tree)) == {"a", "d", "h"}
    assert imports(ast.walk(tree)) == {"a", "c", "d", "h", "j"}
    assert len(MODULES) > 10


def test_the_contracts_of_import_linter_hold() -> None:
    """No floor imports from one above it."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " kept, 0 broken" in done.stdout


def test_only_steps_flows_and_deployments_know_prefect() -> None:
    """A room's plain modules have never heard of Prefect, not even inside a function."""
    knowing = {name(path) for path in MODULES if "prefect" in imports(ast.walk(parsed(path)))}
    allowed = re.compile(r"(deployments|flows)/.+|tasks/[^/]+/steps\.py")
    assert {path for path in knowing if not allowed.fullmatch(path)} == set()


def test_only_the_registry_and_the_packaging_know_mlflow() -> None:
    """Everything else asks the registry."""
    knowing = {name(path) for path in MODULES if "mlflow" in imports(ast.walk(parsed(path)))}
    assert knowing - MLFLOW_MODULES == set()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_pays_for_models_at_import(path: Path) -> None:
    """torch and what stands on it are imported inside the functions that need them."""
    assert imports(at_import(parsed(path))) & HEAVY == set()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_says_what_it_is(path: Path) -> None:
    """Each opens with a docstring and has a name that means something."""
    assert (ast.get_docstring(parsed(path)) or "").strip()
    assert not VAGUE & set(path.stem.lower().strip("_").split("_"))


def written_files() -> Iterator[tuple[str, str]]:
    """Name and text of every file of the repository that is text."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted(found):
        if "__pycache__" in path.parts or ".ipynb_checkpoints" in path.parts:
            continue
        try:
            yield name(path), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_no_file_names_an_index_or_a_place_on_one_machine() -> None:
    """What is checked out works anywhere; only the README may name PyTorch's own index."""
    found = []
    for file, text in written_files():
        for number, line in enumerate(text.splitlines(), start=1):
            torch_index = file != "README.md" and TORCH_INDEX.search(line)
            index = INDEXES.search(line) and not (file == "README.md" and TORCH_INDEX.search(line))
            if torch_index or index or MACHINE_PATHS.search(line):
                found.append(f"{file}:{number}: {line.strip()[:120]}")
    assert found == []
    assert MACHINE_PATHS.search("see " + "/wo" + "rk/main")
    assert not MACHINE_PATHS.search("https://example.org" + "/wo" + "rk/main")


def test_no_test_can_leave_this_machine(refused_connections: list[str]) -> None:
    """A connection past loopback fails the test at once; one on loopback is made."""
    with pytest.raises(pytest.fail.Exception, match="past loopback"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with socket.socket() as outside, pytest.raises(pytest.fail.Exception):
        outside.connect_ex(("192.0.2.1", 80))
    assert refused_connections == ["192.0.2.1:80"] * 2
    refused_connections.clear()
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    with pytest.raises(ConnectionRefusedError), socket.socket() as nobody:
        nobody.connect(("127.0.0.1", 1))
