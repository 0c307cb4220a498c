"""The embedded catalogue is the same for a seed, has one truth a name, and is as messy as it claims."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import yaml

from tasks.demo import catalogue
from tasks.demo.vocabulary import DRIFT_LANGUAGE, NONE_OF_THESE, product_types
from tasks.taxonomy import build_taxonomy, load_taxonomy

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def made() -> catalogue.Catalogue:
    return catalogue.generate(seed=3)


def content(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    first, again, other = (catalogue.generate(s, 300, 80, 80, 80) for s in (1, 1, 2))
    assert first.drifted_truth.equals(again.drifted_truth)
    assert first.items.equals(again.items)
    assert not first.items.equals(other.items)


def test_the_frames_have_the_sizes_and_columns_that_were_asked_for(made: catalogue.Catalogue) -> None:
    assert made.items.shape == (6000, 2)
    assert made.gold.columns == ["product_id", "name", "department", "category", "product_type"]
    assert [f.height for f in (made.gold, made.traffic, made.drifted_traffic)] == [1500] * 3
    assert made.items.columns == made.traffic.columns == ["product_id", "name"]


def test_names_are_unique_by_content_except_for_the_traffic_that_repeats_items(
    made: catalogue.Catalogue,
) -> None:
    items = {content(name) for name in made.items["name"]}
    gold = {content(name) for name in made.gold["name"]}
    assert len(items) == 6000
    assert len(gold) == 1500
    assert not items & gold
    repeated = made.traffic["name"].is_in(made.items["name"].implode()).mean()
    assert repeated == pytest.approx(0.12, abs=0.001)
    fresh = [content(n) for n in made.traffic["name"] if content(n) not in items]
    assert len(set(fresh)) == len(fresh)
    assert not set(fresh) & gold


def test_every_true_label_is_a_leaf_or_none_of_these(made: catalogue.Catalogue) -> None:
    leaves = set(build_taxonomy(catalogue.taxonomy_mapping(), catalogue.LEVELS, NONE_OF_THESE).leaves)
    truth = made.truth()
    assert set(truth["label"]) <= leaves
    assert truth["name"].n_unique() == truth.height
    assert made.truth_by_name()[made.items["name"][0]] == made.items_truth["label"][0]


def test_some_things_belong_nowhere_more_of_them_after_the_drift(made: catalogue.Catalogue) -> None:
    def share(labels: pl.Series) -> float:
        return float((labels == NONE_OF_THESE).mean() or 0)  # type: ignore[arg-type]

    assert share(made.items_truth["label"]) == pytest.approx(0.02, abs=0.001)
    assert share(made.gold["department"]) == pytest.approx(0.02, abs=0.001)
    assert made.gold.filter(pl.col("department") == NONE_OF_THESE)["category"].null_count() == 30
    assert share(made.drifted_truth["label"]) == pytest.approx(0.03, abs=0.01)


def test_types_have_a_long_tail(made: catalogue.Catalogue) -> None:
    counts = sorted(Counter(made.items_truth["label"]).values(), reverse=True)
    assert len(counts) == 121
    assert sum(counts[:24]) > 0.35 * 6000
    assert counts[-12] < 40


def test_the_drift_changes_the_mix_and_brings_words_never_seen(made: catalogue.Catalogue) -> None:
    def mix(truth: pl.DataFrame) -> dict[str, float]:
        return {d: n / truth.height for d, n in Counter(truth["department"]).items()}

    before, fresh, after = (mix(t) for t in (made.items_truth, made.traffic_truth, made.drifted_truth))
    assert sum(abs(after.get(d, 0) - before[d]) for d in before) > 0.4
    assert sum(abs(fresh.get(d, 0) - before[d]) for d in before) < 0.15
    known = {word for name in made.items["name"] for word in content(name).split()}
    new_brands = [n for n in made.drifted_traffic["name"] if "zhiyo" in n.lower() or "kestrelo" in n.lower()]
    assert new_brands
    assert not {"zhiyo", "kestrelo"} & known


def test_every_type_has_several_words_in_several_languages_and_the_drift_language() -> None:
    for kind in product_types():
        assert len(kind.forms["en"]) >= 3, kind.path
        assert sum(len(forms) for language, forms in kind.forms.items() if language != "en") >= 7, kind.path
        assert kind.forms[DRIFT_LANGUAGE], kind.path
    paths = [kind.path for kind in product_types()]
    assert [len({p[:depth] for p in paths}) for depth in (1, 2, 3)] == [12, 40, 120]


def test_ambiguous_words_name_product_types_that_exist() -> None:
    raw = yaml.safe_load((Path(catalogue.__file__).parent / "phrases.yaml").read_text(encoding="utf-8"))
    leaves = {kind.path[2] for kind in product_types()}
    for word, named in raw["ambiguous"].items():
        meant = set(named.split(" / "))
        assert meant <= leaves, (word, meant - leaves)
        assert len(meant) > 1, word


def test_what_is_written_is_what_a_project_file_names(tmp_path: Path) -> None:
    small = catalogue.generate(0, 50, 20, 20, 20)
    files = catalogue.write(tmp_path, small)
    assert [str(f.relative_to(tmp_path)) for f in files] == [
        "data/items.parquet",
        "data/gold.parquet",
        "data/traffic/turn-1.parquet",
        "catalogue.taxonomy.yaml",
    ]
    assert pl.read_parquet(files[0]).equals(small.items)
    assert pl.read_parquet(files[2]).equals(small.traffic)
    second = catalogue.write_traffic(tmp_path, small.drifted_traffic, turn=2)
    assert pl.read_parquet(second).equals(small.drifted_traffic)
    assert not list(tmp_path.rglob("*.part"))
    assert len(load_taxonomy(files[3], catalogue.LEVELS).leaves) == 120


def test_the_committed_taxonomy_is_the_generated_one() -> None:
    expected = catalogue.taxonomy_yaml(catalogue.taxonomy_mapping(), catalogue.HEADING)
    assert (CONF / "catalogue.taxonomy.yaml").read_text(encoding="utf-8") == expected


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        catalogue.generate(items=-1)


def test_a_catalogue_of_traffic_alone_repeats_nothing() -> None:
    only = catalogue.generate(0, 0, 0, 40, 0)
    assert only.traffic["name"].n_unique() == 40
    assert only.items.height == 0
