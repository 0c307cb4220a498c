"""Traffic against the certificate's sample: what drifts alarms, what does not is quiet, what is little is unknown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from sqlalchemy import select

from tasks.monitoring.audited import judged_answers
from tasks.monitoring.drift import signals_under
from tasks.monitoring.drift_audits import audited_error_signal, new_labels_signal
from tasks.monitoring.drift_signals import Signal, Terms
from tasks.monitoring.drift_traffic import first_day_of_traffic, traffic_under
from tasks.records import Policy
from tasks.store import Store, schema
from tasks.store.labels import append_labels
from tasks.store.policies import append_policy, policy_in_force
from tests.monitoring.drifting import START, certified_on, drawn, log_traffic
from tests.monitoring.filled import DAY

TERMS = Terms(0.05, 0.05)
TRAFFIC = ("coverage", "score", "familiarity", "label_mix")


def issued(store: Store, random: np.random.Generator, items: int = 500, **other: Any) -> Policy:
    return append_policy(store, certified_on(drawn(random, items), **other), 1)


def looked(store: Store, policy: Policy) -> dict[str, Signal]:
    """Signals of the policy as the database gives it back."""
    stored = policy_in_force(store, policy.model_version)
    assert stored is not None
    return {signal.name: signal for signal in signals_under(stored, traffic_under(store, stored), TERMS)}


def test_traffic_like_the_sample_is_quiet_on_either_database(store: Store) -> None:
    """Ten days of it; each signal knows what it says, and no value is beyond its limit."""
    random = np.random.default_rng(0)
    policy = issued(store, random)
    for day in range(10):
        log_traffic(store, drawn(random, 200), policy, day)
    found = looked(store, policy)
    assert not [signal for signal in found.values() if signal.alarms]
    assert all(signal.is_known and signal.items == 2000 for signal in found.values())
    assert found["coverage"].value == pytest.approx(policy.certified_coverage, abs=0.04)
    assert all((found[name].value or 0) < (found[name].limit or 0) for name in TRAFFIC[1:])


@pytest.mark.parametrize(
    ("changed", "alarms", "words"),
    [
        ({"sure": 2.0}, {"coverage", "score"}, "flywheel recalibrate"),
        ({"mix": (0.1, 0.2, 0.7)}, {"label_mix"}, "Garden > Hoses changed most: 69.6%"),
        ({"near": 0.4}, {"coverage", "score", "familiarity"}, "flywheel nightly"),
    ],
)
def test_what_drifts_alarms_with_its_remedy(
    store: Store, changed: Mapping[str, Any], alarms: set[str], words: str
) -> None:
    """A week as calibrated, then two days otherwise: those signals, and no other one, say so and since when."""
    random = np.random.default_rng(1)
    policy = issued(store, random)
    for day in range(7):
        log_traffic(store, drawn(random, 300), policy, day)
    for day in (7, 8):
        log_traffic(store, drawn(random, 600, **changed), policy, day)
    found = looked(store, policy)
    assert {name for name, signal in found.items() if signal.alarms} == alarms
    said = [found[name].says for name in alarms]
    assert any(words in one for one in said)
    assert all("since 2024-10-1" in one for one in said), said


def test_sixty_nights_without_drift_stay_quiet(sqlite_store: Store) -> None:
    """Looked at each night by all four signals, under one policy."""
    random = np.random.default_rng(2)
    policy = issued(sqlite_store, random, 300)
    for night in range(60):
        log_traffic(sqlite_store, drawn(random, 40), policy, night)
        assert not [signal for signal in looked(sqlite_store, policy).values() if signal.alarms], night


@pytest.mark.parametrize("calibrated", [{"against": "gold"}, {"against": "teacher", "cross_fitted": True}])
def test_traffic_unlike_gold_is_no_drift(sqlite_store: Store, calibrated: Mapping[str, Any]) -> None:
    """Other labels, lower scores from the first day on: unknown until there is traffic to compare with, then quiet.

    What changes later alarms as ever, held against those first requests.
    """
    random = np.random.default_rng(11)
    skewed: dict[str, Any] = {"mix": (0.1, 0.1, 0.8), "sure": 3.0}
    policy = issued(sqlite_store, random, **calibrated)
    for day in range(12):
        log_traffic(sqlite_store, drawn(random, 180, **skewed), policy, day)
        found = looked(sqlite_store, policy)
        assert not [signal for signal in found.values() if signal.alarms], day
        assert all(found[name].is_known == (day >= 3) for name in TRAFFIC), day
        if day < 3:
            assert "the first 500 under this policy" in found["label_mix"].says
    assert found["score"].items == 180 * 9
    assert "among the first 540" in found["coverage"].says
    for day in (12, 13):
        log_traffic(sqlite_store, drawn(random, 600, mix=(0.7, 0.1, 0.2), sure=1.0), policy, day)
    found = looked(sqlite_store, policy)
    assert {name for name, signal in found.items() if signal.alarms} == {"coverage", "score", "label_mix"}
    assert "since 2024-10-16" in found["label_mix"].says, found["label_mix"].says


def test_a_label_that_no_one_had_before_is_seen(sqlite_store: Store) -> None:
    """It has no place in the sample; it is named all the same."""
    random = np.random.default_rng(12)
    policy = append_policy(sqlite_store, certified_on(drawn(random, 500, mix=(0.6, 0.4, 0.0))), 1)
    log_traffic(sqlite_store, drawn(random, 600, mix=(0.3, 0.2, 0.5)), policy, 0)
    found = looked(sqlite_store, policy)["label_mix"]
    assert found.alarms
    assert "Garden > Hoses changed most" in found.says
    assert "0.0% in calibration" in found.says


def test_only_cache_misses_under_the_policy_count(sqlite_store: Store) -> None:
    """What caches answered, what was routed before it was issued or under another one, is not its traffic."""
    random = np.random.default_rng(3)
    earlier = issued(sqlite_store, random)
    log_traffic(sqlite_store, drawn(random, 90), earlier, 0, name="earlier")
    policy = issued(sqlite_store, random)
    log_traffic(sqlite_store, drawn(random, 80), earlier, 1, name="other")
    log_traffic(sqlite_store, drawn(random, 40), policy, 2)
    with sqlite_store.begin() as connection:
        rows = schema.traffic
        connection.execute(rows.update().where(rows.c.id > 200).values(would_tier="exact_cache"))
    traffic = traffic_under(sqlite_store, policy)
    assert traffic is not None
    assert traffic.requests.tolist() == [30]
    assert traffic.labels.sum() == traffic.scores.sum() == 30
    assert traffic.first_day == START / DAY + 2


def test_too_little_is_said_and_never_alarms(sqlite_store: Store) -> None:
    """Few requests, or few that were calibrated on; none at all; and a policy of before profiles were kept."""
    random = np.random.default_rng(4)
    policy = issued(sqlite_store, random)
    assert "0 requests" in looked(sqlite_store, policy)["score"].says
    log_traffic(sqlite_store, drawn(random, 29, mix=(0, 0, 1), sure=0.5), policy, 0)
    few = looked(sqlite_store, policy)
    assert not any(signal.alarms or signal.is_known for signal in few.values())
    assert "Too little to compare: 29 requests" in few["coverage"].says
    small = replace(certified_on(drawn(random, 20)), id=policy.id)
    assert (
        "20 to hold them against" in signals_under(small, traffic_under(sqlite_store, policy), TERMS)[0].says
    )
    old = signals_under(replace(policy, calibration_profile=None), None, TERMS)
    assert [signal.name for signal in old] == list(TRAFFIC)
    assert all("`flywheel recalibrate` issues one that does" in signal.says for signal in old)


def test_a_student_without_prototypes_has_no_familiarity(sqlite_store: Store) -> None:
    """That signal says so; scores are the confidences, and still seen to fall."""
    random = np.random.default_rng(5)
    policy = append_policy(sqlite_store, certified_on(drawn(random, 500, prototypes=False)), 1)
    log_traffic(sqlite_store, drawn(random, 800, sure=1.0, prototypes=False), policy, 0)
    found = looked(sqlite_store, policy)
    assert not found["familiarity"].is_known
    assert found["score"].alarms


def test_a_student_that_answers_nothing_cannot_answer_less(sqlite_store: Store) -> None:
    """Where nothing was certified coverage is shown, without a limit."""
    random = np.random.default_rng(6)
    policy = issued(sqlite_store, random, certified_coverage=0.0, thresholds=None)
    log_traffic(sqlite_store, drawn(random, 100), policy, 0)
    found = looked(sqlite_store, policy)["coverage"]
    assert (found.value, found.limit, found.alarms) == (0.0, None, False)


def test_an_old_policy_still_loads(sqlite_store: Store) -> None:
    """A body written before profiles were kept lacks the fields, and gets their defaults."""
    policy = append_policy(sqlite_store, certified_on(drawn(np.random.default_rng(7), 50)), 1)
    body = {
        name: value
        for name, value in policy.as_dict().items()
        if name not in ("calibration_profile", "after_request")
    }
    with sqlite_store.begin() as connection:
        connection.execute(schema.policies.update().values(body=json.dumps(body)))
    read = policy_in_force(sqlite_store, policy.model_version)
    assert read is not None
    assert (read.calibration_profile, read.after_request) == (None, 0)


def audited(store: Store, policy: Policy) -> Signal:
    now = START + 20 * DAY
    answers = judged_answers(store, 30.0, now).filter(pl.col("tier") == "student")
    return audited_error_signal(answers, policy, first_day_of_traffic(store), TERMS)


def test_audited_errors_far_above_the_promise_alarm_by_the_teachers_word(sqlite_store: Store) -> None:
    """15 % wrong where 5 % are promised, certified by agreement: alarm; 4 % wrong: none."""
    random = np.random.default_rng(8)
    policy = issued(sqlite_store, random, against="teacher")
    for day in range(10):
        log_traffic(sqlite_store, drawn(random, 30), policy, day, audited=True, wrong=1, name="good")
    good = audited(sqlite_store, policy)
    assert (good.alarms, good.reference, good.limit) == (False, 0.05, 0.05)
    for day in range(10, 20):
        log_traffic(sqlite_store, drawn(random, 60), policy, day, audited=True, wrong=9, name="bad")
    bad = audited(sqlite_store, policy)
    assert bad.alarms
    assert "at most 5" in bad.says
    assert "since 2024-10-14" in bad.says, bad.says


def test_under_a_true_promise_only_decided_errors_count(sqlite_store: Store) -> None:
    """The teacher errs itself: what merely differs from it waits for a decision, and decided it counts."""
    random = np.random.default_rng(9)
    policy = issued(sqlite_store, random, against="adjudicated")
    log_traffic(sqlite_store, drawn(random, 400), policy, 0, audited=True, wrong=80)
    waiting = audited(sqlite_store, policy)
    assert (waiting.alarms, waiting.is_known) == (False, False)
    assert "Nobody judges, so this never alarms. 80 of " in waiting.says
    assert "await a judge, adjudicator or person; until then they count as right." in waiting.says
    columns = schema.traffic.c
    rows = sqlite_store.read(
        select(columns.key, columns.teacher_label).where(columns.label != columns.teacher_label)
    )
    decided = [(row["key"], row["teacher_label"], "human") for row in rows.iter_rows(named=True)]
    append_labels(sqlite_store, decided, 1)
    assert audited(sqlite_store, policy).alarms


def test_few_audits_say_so(sqlite_store: Store) -> None:
    """29 of them, all wrong, are no evidence yet."""
    random = np.random.default_rng(10)
    policy = issued(sqlite_store, random, against="teacher")
    log_traffic(sqlite_store, drawn(random, 29, sure=50.0), policy, 0, audited=True, wrong=29)
    found = audited(sqlite_store, policy)
    assert (found.alarms, found.is_known) == (False, False)
    assert "Too few audited answers" in found.says


@pytest.mark.parametrize(
    ("labels", "limit", "alarms"), [(999, 1000, False), (1000, 1000, True), (10**6, None, False)]
)
def test_new_labels_are_many_from_their_limit_on(labels: int, limit: int | None, alarms: bool) -> None:
    """At the number itself, and never where it is switched off."""
    assert new_labels_signal(labels, limit).alarms is alarms
