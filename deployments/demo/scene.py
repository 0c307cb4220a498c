"""What a demo plays with: a project file, its data, the truth behind it, and the teacher's fixed answers.

The teacher's mistakes are drawn before any student exists. The catalogue is generated; a labelled file of the
user's becomes items, gold and two portions of traffic.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import yaml

from tasks.errors import InputError
from tasks.records import image_key, normalise, text_key
from tasks.sources import read_table
from tasks.taxonomy import join, split

CONF = Path(__file__).parents[2] / "conf"
TRAFFIC_ROWS, GOLD_ROWS = 1500, 1500
MIN_TEST_ROWS = 400
LEVEL_NAMES = ("l1", "l2", "l3")


@dataclass(frozen=True, eq=False)
class Scene:
    """A demo before its first turn.

    Attributes:
        project_file: what the jobs are given.
        truth: item key (hexadecimal) to true label path, over items, gold and traffic.
        traffic: frames of the turns; `write_turn` puts one where the project looks for it.
        answers_file: the content, a, b: what the simulated teacher says in its two passes.
        content_column: of the answers file.
        teacher_noise: share of wrong answers in each pass.
    """

    project_file: Path
    truth: Mapping[str, str]
    traffic: tuple[pl.DataFrame, ...]
    answers_file: Path
    content_column: str
    teacher_noise: float

    def write_turn(self, turn: int) -> Path:
        """Write the traffic of a turn (1 or 2) into the project's traffic folder."""
        file = self.answers_file.parents[1] / "data" / "traffic" / f"turn-{turn}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        self.traffic[turn - 1].write_parquet(file)
        return file


def forget(home: Path, name: str) -> None:
    """Remove what an earlier demo of the same name left, its registered model's aliases included."""
    from tasks.promotion.registry import Registry

    shutil.rmtree(home / "var" / name, ignore_errors=True)
    if (home / "var" / "mlflow.db").exists():
        store = f"sqlite:///{(home / 'var' / 'mlflow.db').absolute()}"
        registry = Registry(store, name, name, home / "var" / "mlartifacts")
        for alias in ("champion", "challenger"):
            if registry.alias(alias) is not None:
                registry.drop_alias(alias)


def project_name(data: Path) -> str:
    """The name of the demo project made of a user's file."""
    return "demo-" + "".join(ch if ch.isalnum() else "-" for ch in data.stem.lower())


def catalogue_scene(home: Path, noise: float, seed: int, port: int, items: int = 6000) -> Scene:
    """Generate the catalogue under `var/catalogue` and place its project file in `conf/`."""
    from tasks.demo import catalogue
    from tasks.demo.noise import noisy_passes

    made = catalogue.generate(seed, items, GOLD_ROWS, TRAFFIC_ROWS, TRAFFIC_ROWS)
    root = home / "var" / "catalogue"
    catalogue.write_parquet(root / "data" / "items.parquet", made.items)
    catalogue.write_parquet(root / "data" / "gold.parquet", made.gold)
    said = dict(made.truth_by_name())
    answers = _write_answers(
        root, "text", list(said), noisy_passes(list(said), list(said.values()), noise, 2, seed)
    )
    file = _place_project(home, "catalogue", port)
    return Scene(file, _by_text(said), (made.traffic, made.drifted_traffic), answers, "text", noise)


def digits_scene(home: Path, noise: float, seed: int, port: int) -> Scene:
    """Handwritten digits as images under `var/digits`: 1,000 items, 400 gold, two portions of traffic."""
    from tasks.demo import digits
    from tasks.demo.noise import noisy_passes_from_features

    made = digits.generate(seed)
    root = home / "var" / "digits"
    (root / "data" / "traffic").mkdir(parents=True, exist_ok=True)
    made.items.write_parquet(root / "data" / "items.parquet")
    made.gold.write_parquet(root / "data" / "gold.parquet")
    truth = made.truth()
    labels = truth["label"].to_list()
    passes = noisy_passes_from_features(digits.pixels(truth["image"]), labels, noise, 2, seed)
    answers = _write_answers(root, "image", truth["image"].to_list(), passes)
    keys = [image_key(image).hex() for image in truth["image"].to_list()]
    half = made.traffic.height // 2
    file = _place_project(home, "digits", port)
    turns = (made.traffic[:half], made.traffic[half:])
    return Scene(file, dict(zip(keys, labels, strict=True)), turns, answers, "image", noise)


def labelled_scene(home: Path, data: Path, noise: float, seed: int, port: int, items: int) -> Scene:
    """Make a demo out of a labelled table: columns text and l1..l3 or label; `split` decides gold where it is.

    Raises:
        InputError: a column is missing, or there are too few rows.
    """
    from tasks.demo.noise import noisy_passes

    table = read_table(data, ["text"])
    levels = [name for name in LEVEL_NAMES if name in table.columns] or ["label"]
    if levels == ["label"] and "label" not in table.columns:
        raise InputError(
            data, "has neither a column `label` nor columns l1, l2, l3", "Name the label column so."
        )
    rows = _labelled_rows(table, levels)
    if rows.height < 400:
        raise InputError(data, f"{rows.height} labelled rows are too few for a demo", "Give 400 or more.")
    gold, first, second, known = _portions(rows, items, seed)
    name = project_name(data)
    root = home / "var" / name
    (root / "data" / "traffic").mkdir(parents=True, exist_ok=True)
    known.select("id", "text").write_parquet(root / "data" / "items.parquet")
    gold.select("id", "text", *levels).write_parquet(root / "data" / "gold.parquet")
    used = pl.concat([gold, first, second, known])
    said = dict(used.select("text", "path").iter_rows())
    answers = _write_answers(
        root, "text", list(said), noisy_passes(list(said), list(said.values()), noise, 2, seed)
    )
    file = _write_project(root, name, levels, rows, port)
    turns = (first.select("id", "text"), second.select("id", "text"))
    return Scene(file, _by_text(said), turns, answers, "text", noise)


def _by_text(said: Mapping[str, str]) -> dict[str, str]:
    return {text_key(text).hex(): label for text, label in said.items()}


def _labelled_rows(table: pl.DataFrame, levels: list[str]) -> pl.DataFrame:
    ids = pl.col("id").cast(pl.String) if "id" in table.columns else pl.int_range(pl.len()).cast(pl.String)
    split = pl.col("split") if "split" in table.columns else pl.lit(None, pl.String)
    rows = table.select(
        ids.alias("id"), "text", *levels, split.alias("split"),
        pl.concat_str([pl.col(level) for level in levels], separator=" > ", ignore_nulls=True).alias("path"),
    ).filter(pl.col("text").str.strip_chars() != "")  # fmt: skip
    rows = rows.with_columns(
        pl.Series("text", [normalise(text) for text in rows["text"].to_list()], pl.String)
    )
    keyed = rows.with_columns(
        pl.Series("key", [text_key(text) for text in rows["text"].to_list()], pl.Binary)
    )
    known = keyed.filter(pl.col("path") != "").unique("key", keep="first", maintain_order=True)
    return _ending_in_leaves(known, levels)


def _ending_in_leaves(rows: pl.DataFrame, levels: list[str]) -> pl.DataFrame:
    """A label that has labels below it gets a leaf of its own there, "NAME (general)": every path ends in a leaf."""
    inner = {
        join(split(path)[:depth]) for path in rows["path"].unique() for depth in range(1, len(split(path)))
    }
    paths = [
        join([*split(path), f"{split(path)[-1]} (general)"]) if path in inner else path
        for path in rows["path"].to_list()
    ]
    columns = [
        pl.Series(level, [split(path)[i] if i < len(split(path)) else None for path in paths], pl.String)
        for i, level in enumerate(levels)
    ]
    return rows.with_columns(pl.Series("path", paths, pl.String), *columns)


def _portions(
    rows: pl.DataFrame, items: int, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Gold, the two turns' traffic, and items to label.

    Gold and traffic come out of the same pool, the test split where there is one: a certificate speaks of traffic
    like its sample, and the splits of a data set are often not alike.
    """
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=seed)
    tested = shuffled.filter(pl.col("split") == "test")
    if tested.height >= MIN_TEST_ROWS:
        pool, known = tested, shuffled.filter(pl.col("split") != "test")
    else:
        cut = shuffled.height // 2
        pool, known = shuffled[:cut], shuffled[cut:]
    gold = min(GOLD_ROWS, pool.height // 2)
    portion = min(TRAFFIC_ROWS, (pool.height - gold) // 2)
    first, second = pool[gold : gold + portion], pool[gold + portion : gold + 2 * portion]
    return pool[:gold], first, second, known[:items]


def _write_answers(
    root: Path, column: str, contents: Sequence[str] | Sequence[bytes], passes: list[list[str]]
) -> Path:
    file = root / "teacher" / "answers.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({column: contents, "a": passes[0], "b": passes[1]}).write_parquet(file)
    return file


def _place_project(home: Path, name: str, port: int) -> Path:
    """The demo's project file under `conf/` of the home; a copy under `var/` when its port is taken."""
    conf = home / "conf"
    conf.mkdir(parents=True, exist_ok=True)
    for file in (f"{name}.yaml", f"{name}.taxonomy.yaml"):
        if not (conf / file).exists():
            shutil.copy(CONF / file, conf / file)
    project = conf / f"{name}.yaml"
    text = project.read_text(encoding="utf-8")
    if f"127.0.0.1:{port}/" in text:
        return project
    moved = conf / f"{name}.port-{port}.yaml"
    moved.write_text(text.replace("127.0.0.1:8700/", f"127.0.0.1:{port}/"), encoding="utf-8")
    return moved


def _write_project(root: Path, name: str, levels: list[str], rows: pl.DataFrame, port: int) -> Path:
    settings = yaml.safe_load((CONF / "catalogue.yaml").read_text(encoding="utf-8"))
    settings["project"] = name
    settings["task"] |= {"levels": levels, "taxonomy": "taxonomy.yaml", "instructions": "Classify the text."}
    settings["source"] = {
        "items": "data/items.parquet",
        "id": "id",
        "text": "text",
        "traffic": "data/traffic/*.parquet",
    }
    settings["gold"] = "data/gold.parquet"
    settings["teacher"]["base_url"] = f"http://127.0.0.1:{port}/v1"
    tree: dict[str, object] = {}
    for row in rows.select(levels).unique(maintain_order=True).iter_rows():
        _grow(tree, [name for name in row if name])
    (root / "taxonomy.yaml").write_text(
        yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    file = root / "project.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def _grow(tree: dict[str, object], path: list[str]) -> None:
    """Add a path to the nested mapping; a leaf stands as an empty one."""
    here = tree
    for name in path:
        here = here.setdefault(name, {})  # type: ignore[assignment]
