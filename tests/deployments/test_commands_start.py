"""The command line as such; `flywheel init` and `flywheel check`."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from PIL import Image

from deployments.cli import COMMANDS, main
from deployments.first_files import TEMPLATE, guess_columns, label_tree, project_text, taxonomy_text
from deployments.teacher_sim import TeacherServer
from tasks.errors import InputError
from tasks.monitoring.checks import check_project
from tasks.project import load_project
from tasks.taxonomy import load_taxonomy
from tests.conftest import ROOT
from tests.deployments.commands import flywheel

LEAVES = {"Kitchen > Kettles": 12, "Kitchen > Pots": 5, "Garden > Hoses": 7}


def run(*arguments: str | Path) -> tuple[int, str]:
    """A command in this process; exit code and everything it printed."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `data/shop.csv`: product_id, name, department, category."""
    (tmp_path / "work" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    rows = [
        {"product_id": f"00{n}", "name": f"{leaf.split()[-1]} number {n}", "department": department, "category": name}
        for leaf, count in LEAVES.items()
        for department, name in [leaf.split(" > ")]
        for n in range(LEAVES[leaf] * 100, LEAVES[leaf] * 100 + count)
    ]  # fmt: skip
    pl.DataFrame(rows).write_csv(tmp_path / "work" / "data" / "shop.csv")
    return tmp_path / "work"


def test_help_imports_nothing_heavy_and_names_every_command() -> None:
    """What costs seconds is imported by the command that needs it."""
    heavy = ("prefect", "mlflow", "torch", "polars", "numpy", "sqlalchemy", "pydantic", "openai")
    code = (
        "import sys\n"
        "from deployments.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", ["init", "check", "thresholds", "report", "bench", "status"])
def test_each_command_has_help(name: str) -> None:
    code, said = run(name, "--help")
    assert code == 0
    assert "--json" in said
    assert ("--project" in said) is (name != "init")


def test_init_writes_the_teacher_it_is_given(folder: Path) -> None:
    """A server of one's own is named on the command line instead of by editing the file."""
    where = ("--base-url", "http://127.0.0.1:8700/v1", "--model", "recorded")
    code, said = run("init", "shop", "--labelled", "data/shop.csv", *where)
    assert code == 0, said
    teacher = load_project(folder / "conf" / "shop.yaml").teacher
    assert (teacher.base_url, teacher.model) == ("http://127.0.0.1:8700/v1", "recorded")


def test_an_unknown_command_names_the_nearest() -> None:
    code, said = run("chek")
    assert code == 2
    assert "Did you mean 'check'?" in said


def test_the_template_in_the_package_is_the_one_in_conf() -> None:
    """conf/ is not installed with the package; its copy must not drift."""
    assert TEMPLATE.read_text() == (ROOT / "conf" / "template.yaml").read_text()


def test_init_with_labels_writes_a_project_that_holds(folder: Path) -> None:
    """Columns are guessed, paths count from the YAML, the taxonomy is counted, check finds nothing wrong."""
    code, said = run("init", "shop", "--labelled", "data/shop.csv", "--levels", "department,category")
    assert code == 0, said
    file = folder / "conf" / "shop.yaml"
    project = load_project(file)
    assert project.task.levels == ("department", "category")
    assert project.source.items == "../data/shop.csv"
    assert (project.source.id, project.source.text) == ("product_id", "name")
    assert set(project.taxonomy.leaves) == {*LEAVES, "none of these"}
    assert "Kettles:  # 12" in (folder / "conf" / "shop.taxonomy.yaml").read_text()
    held = {check.name: check.ok for check in check_project(file, ask_teacher=False)}
    assert [name for name, ok in held.items() if not ok] == ["encoder"]  # its hub is out of a test's reach
    # The template's lines and their remarks are all there.
    template = (ROOT / "conf" / "template.yaml").read_text().splitlines()
    assert len(file.read_text().splitlines()) == len(template)
    assert sum("#" in line for line in file.read_text().splitlines()) == sum("#" in line for line in template)


def test_the_import_that_init_proposes_works(folder: Path) -> None:
    """The printed command is one to paste."""
    _, said = run("init", "shop", "--labelled", "data/shop.csv", "--levels", "department,category")
    proposed = next(line for line in said.splitlines() if "import-labels" in line)
    done = flywheel(*shlex.split(proposed)[1:], "--json", cwd=folder)
    assert done.code == 0, done.err
    assert (done.body["labels"], done.body["rejected"]) == (24, {})


def test_init_reads_paths_out_of_one_column(folder: Path) -> None:
    """A column `label` with paths gives levels too; rows that stop above a leaf are counted."""
    labels = ["A > B > C"] * 3 + ["A > b > D", "A > B", "E"]
    table = pl.DataFrame({"text": [f"t{n}" for n in range(6)], "label": labels, "id": range(6)})
    table.write_parquet(folder / "data" / "paths.parquet")
    code, said = run("init", "paths", "--labelled", "data/paths.parquet", "--out", "paths.yaml")
    assert code == 0, said
    project = load_project(folder / "paths.yaml")
    assert project.task.levels == ("l1", "l2", "l3")
    assert project.taxonomy.leaves == ("A > B > C", "A > B > D", "E", "none of these")
    assert "rows_above_a_leaf  1" in said
    assert project.source.items == "data/paths.parquet"


def test_init_takes_items_from_one_file_and_labels_from_another(folder: Path) -> None:
    """The id of the items need not be in the labelled table."""
    pl.DataFrame({"sku": ["a", "b"], "title": ["red pot", "blue pot"]}).write_ndjson(folder / "items.jsonl")
    pl.DataFrame({"id": [1, 2], "input": ["old pot", "pan"], "label": ["yes", "No"]}).write_csv(
        folder / "old.csv"
    )
    code, said = run("init", "two", "--items", "items.jsonl", "--labelled", "old.csv")
    assert code == 0, said
    project = load_project(folder / "conf" / "two.yaml")
    assert (project.source.items, project.source.id, project.source.text) == (
        "../items.jsonl",
        "sku",
        "title",
    )
    assert project.task.levels is None
    assert set(project.taxonomy.leaves) == {"yes", "No", "none of these"}
    assert "import-labels old.csv --project conf/two.yaml --text-column input --label-column label" in said


def test_init_alone_says_what_is_missing(folder: Path) -> None:
    done = flywheel("init", "bare", "--json", cwd=folder)
    assert done.code == 0
    assert load_project(folder / "conf" / "bare.yaml").project == "bare"
    assert "say in conf/bare.yaml where the items are" in done.body["next"][0]
    assert "write conf/bare.taxonomy.yaml" in done.body["next"][1]


def test_init_of_images(folder: Path) -> None:
    """A folder of pictures makes an image project with an encoder and a student that read pictures."""
    (folder / "pictures").mkdir()
    for name in ("a", "b"):
        Image.new("L", (9, 9), ord(name)).save(folder / "pictures" / f"{name}.png")
    code, said = run("init", "pics", "--items", "pictures")
    assert code == 0, said
    project = load_project(folder / "conf" / "pics.yaml")
    assert (project.task.modality, project.source.items, project.content_column) == (
        "image",
        "../pictures",
        "image",
    )
    assert "timm" in project.student.candidates
    held = {check.name: check.ok for check in check_project(folder / "conf" / "pics.yaml", ask_teacher=False)}
    assert held["items"]
    assert held["encoder"]


def test_init_overwrites_nothing_unless_told(folder: Path) -> None:
    """Neither the project file nor the taxonomy, and a refusal leaves no scraps."""
    assert run("init", "shop", "--labelled", "data/shop.csv")[0] == 0
    file = folder / "conf" / "shop.yaml"
    file.write_text("mine")
    code, said = run("init", "shop", "--items", "data/shop.csv")
    assert (code, file.read_text()) == (2, "mine")
    assert "--force" in said
    file.unlink()
    assert run("init", "shop", "--labelled", "data/shop.csv")[0] == 2, "the taxonomy is there still"
    assert not file.exists()
    assert run("init", "shop", "--labelled", "data/shop.csv", "--force")[0] == 0
    assert sorted(path.name for path in file.parent.iterdir()) == ["shop.taxonomy.yaml", "shop.yaml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["My Shop"], "cannot name a project"),
        (["s", "--items", "nowhere.csv"], "no such file"),
        (["s", "--items", "data/shop.csv", "--text-column", "nom"], "column 'nom' is missing"),
        (["s", "--items", "sqlite:///x.db"], "not into databases"),
        (["s", "--labelled", "data/shop.csv", "--levels", "a,b,c"], "levels"),
        (["s", "--levels", "id,x"], "levels must be distinct"),
        (["s", "--labelled", "data/numbers.csv"], "no column looks like a label"),
    ],
)
def test_init_refuses_with_a_reason(folder: Path, arguments: list[str], words: str) -> None:
    """Exit code 2, and nothing is written."""
    pl.DataFrame({"a": [1.5], "b": [2.5]}).write_csv(folder / "data" / "numbers.csv")
    code, said = run("init", *arguments)
    assert code == 2, said
    assert words in said
    assert not list(folder.glob("conf/*"))


def test_values_that_yaml_would_misread_are_quoted(folder: Path) -> None:
    """Columns called `yes` or `#1`, labels called `No`, `1.10` or `a: b`, come back as they were."""
    odd = ["No", "1.10", "a: b", "# c", "- d", "'e'", '"f"', "{g}", "null", "ü", "x" * 190]
    table = pl.DataFrame({"#1": [f"t{n}" for n in range(len(odd))], "yes: id": range(len(odd)), "label": odd})
    table.write_parquet(folder / "odd.parquet")
    arguments = ["--labelled", "odd.parquet", "--text-column", "#1", "--id-column", "yes: id"]
    code, said = run("init", "odd", *arguments)
    assert code == 0, said
    project = load_project(folder / "conf" / "odd.yaml")
    assert (project.source.id, project.source.text) == ("yes: id", "#1")
    assert set(project.taxonomy.leaves) == {*odd, "none of these"}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"id": ["1", "2"], "text": ["a", "b"]}, ("text", "id", "text")),
        ({"category_id": [1, 1], "item_id": [3, 4], "title": ["a", "b"]}, ("text", "item_id", "title")),
        ({"nr": [1, 2], "short": ["a", "a"], "long": ["a b c", "d e f"]}, ("text", "nr", "long")),
        ({"Id": ["7", "7"], "Name": ["a", "a"]}, ("text", "Id", "Name")),
        ({"id": [1, 2], "scan": [b"x", b"y"]}, ("image", "id", "scan")),
        ({"id": [1, 2], "path": ["a.png", "b.JPG"]}, ("image", "id", "path")),
        ({"id": [1, 2], "name": ["kettle", "pot"], "photo": ["a.png", "b.png"]}, ("text", "id", "name")),
    ],
)
def test_columns_are_guessed(table: dict[str, Any], expected: tuple[str, str, str]) -> None:
    """By name first, then by what is in them."""
    found = guess_columns(pl.DataFrame(table), Path("t.csv"))
    assert (found.modality, found.id, found.content) == expected


def test_a_table_without_ids_names_items_by_their_content() -> None:
    assert guess_columns(pl.DataFrame({"text": ["a", "a"]}), Path("t.csv")).id is None


@pytest.mark.parametrize("name", ["a > b", "x" * 201, "_about"])
def test_a_name_that_cannot_be_a_label_is_refused_with_its_row(name: str) -> None:
    frame = pl.DataFrame({"a": ["fine", name], "b": ["one", "two"]})
    with pytest.raises(InputError, match="row 2"):
        label_tree(frame, ["a", "b"], Path("t.csv"))


def test_the_taxonomy_is_ordered_by_frequency_and_spelled_as_most_do(tmp_path: Path) -> None:
    """`Tea` and `tea` are one label; the more frequent label stands first."""
    frame = pl.DataFrame({"label": ["tea", "Tea", "Tea", "Coffee", None, "", "Coffee", "Coffee", "coffee"]})
    tree = label_tree(frame, ["label"], Path("t.csv"))
    file = tmp_path / "taxonomy.yaml"
    file.write_text(taxonomy_text(tree, "drinks", "t.csv"))
    assert load_taxonomy(file).leaves == ("Coffee", "Tea")
    assert (tree.total, tree.below["Tea"].total) == (7, 3)


def test_the_filled_template_keeps_its_remarks_below_each_other() -> None:
    """A value of another length moves no remark."""
    text = project_text("shop", {"source.id": ("id", "sku"), "task.levels": ("levels", ["a", "b"])})
    filled, template = text.splitlines(), TEMPLATE.read_text().splitlines()
    for line, original in zip(filled, template, strict=True):
        if line.split(":")[0] != "  levels":  # it was a remark itself
            assert line.find(" # ", 2) == original.find(" # ", 2), line


def test_check_prints_a_table_and_ends_with_its_code(
    tiny_project: Callable[..., Path], tmp_path: Path
) -> None:
    """Each line has its mark, and what to do stands below."""
    file = tiny_project(gold=None)
    code, said = run("check", "--project", file, "--no-teacher")
    assert code == 0, said
    assert "✓ items" in said
    assert "! gold" in said
    assert "  → " in said
    assert "teacher" not in said.replace("labelled by the teacher", "")
    (file.parent / "items.parquet").unlink()
    code, said = run("check", "--project", file, "--no-teacher")
    assert code == 2
    assert "✗ items" in said
    assert run("check", "--project", tmp_path / "nowhere.yaml")[0] == 2


def test_check_as_json_is_one_line_on_stdout(tiny_project: Callable[..., Path], tmp_path: Path) -> None:
    """With a real request to a real server, from another working directory."""
    file = tiny_project()
    recorded = pl.read_parquet(file.parent / "answers.parquet").select("text", "a")
    with TeacherServer(dict(recorded.iter_rows())) as server:
        file = tiny_project(teacher={"base_url": server.base_url})
        done = flywheel("check", "--project", file, "--json", cwd=tmp_path)
        assert server.stats()["paid"] == 1
    assert done.code == 0, done
    assert done.body["ok"] is True
    assert {"name", "ok", "detail", "remedy"} <= set(done.body["checks"][0])
    done = flywheel("check", "--project", file, "--json", cwd=tmp_path)
    assert (done.code, done.body["ok"]) == (1, False)
    assert [check["name"] for check in done.body["checks"] if not check["ok"]] == ["teacher"]
