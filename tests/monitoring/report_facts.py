"""Made-up but plausible facts of a project that has run for a fortnight, for tests that render them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from tasks.monitoring.audited import Audited, AuditedTier, share_of
from tasks.monitoring.cost import CostLine, Spending
from tasks.monitoring.facts import PassAgreement, ReportFacts, Turn
from tasks.monitoring.inventory import Inventory, RunLine
from tasks.monitoring.versions import PolicyLine, TrainedVersion, VersionLine, trained_version
from tasks.records import Policy
from tasks.student.calibration import reliability
from tasks.student.certifying import CalibrationSample, issue_policy
from tasks.student.evaluation import confused_pairs
from tasks.student.label_scores import label_scores
from tasks.student.package import Answers
from tasks.student.thresholds import escalation_table, fix_path
from tasks.taxonomy import truncate

NOW = 1_790_000_000.0
DAY = 86_400.0
LEVELS = ("department", "category", "product_type")
LEAVES = tuple(
    f"{department} > {category} > {name}"
    for department, categories in {
        "Electronics": {"Phones": ["Smartphones", "Phone cases"], "Audio": ["Headphones", "Speakers"]},
        "Home & Garden": {"Kitchen": ["Kettles", "Knives", "Pans"], "Garden": ["Hoses", "Seeds"]},
        "Clothing": {"Tops": ["Shirts", "Sweaters"], "Shoes": ["Sneakers", "Boots", "Sandals"]},
        "Toys": {"Building": ["Bricks", "Marble runs"], "Games": ["Board games", "Puzzles"]},
    }.items()
    for category, names in categories.items()
    for name in names
)


def retrain_file(
    leaves: tuple[str, ...] = LEAVES, judged_on: str = "gold", items: int = 800
) -> dict[str, Any]:
    """What `tasks.student.steps` writes into `retrains/<version>.json`."""
    rng = np.random.default_rng(3)
    true = rng.integers(0, len(leaves), items)
    confidence = np.clip(rng.beta(9, 1, items), 0, 0.9999)
    wrong = rng.random(items) > confidence + 0.02
    answered = np.where(wrong, (true + rng.choice([1, 1, 1, 2, 5], items)) % len(leaves), true)
    bins = reliability(confidence, true == answered)
    rows = escalation_table(confidence, true != answered)
    pairs = confused_pairs(true, answered)

    def scores(top1: tuple[float, float, float], ece: float = 0.014) -> dict[str, float]:
        found: dict[str, float] = {"ece": ece}
        for level, value in zip(LEVELS, top1, strict=True):
            for name, gain in (("top1", 0.0), ("top3", 0.03), ("top5", 0.04), ("macro_f1", -0.01)):
                found[f"{judged_on}.{level}.{name}"] = round(min(1.0, value + gain), 6)
        return found

    top1 = float((true == answered).mean())
    winner = scores((0.98, 0.962, top1))
    return {
        "judged_on": judged_on,
        "student_kind": "ensemble",
        "levels": list(LEVELS),
        "leaves": list(leaves),
        "true": true.tolist(),
        "answered": answered.tolist(),
        "reliability": {
            "confidence": bins.confidence.tolist(),
            "accuracy": bins.accuracy.tolist(),
            "items": bins.items.tolist(),
        },
        "escalation": {name: [asdict(row)[name] for row in rows] for name in asdict(rows[0])},
        "confused_pairs": {
            "true": [leaves[a] for a, _, _ in pairs],
            "answered": [leaves[b] for _, b, _ in pairs],
            "count": [count for _, _, count in pairs],
        },
        "scores": {
            "linear": scores((0.972, 0.951, top1 - 0.012)),
            "mlp": scores((0.976, 0.955, top1 - 0.006), 0.021),
            "ensemble": winner,
            "raw labels": scores((0.969, 0.944, top1 - 0.024), 0.019),
        },
        "evaluation": evaluation_of(leaves, true, answered, confidence),
        "curve_of": {"neighbours": 0.84, "judged": 6000, "rows": 18204},
        "cleaning": {
            "levels": {
                "department": {"labels": 18204, "overwritten": 402, "share": 402 / 18204},
                "category": {"labels": 18204, "overwritten": 771, "share": 771 / 18204},
                "product_type": {"labels": 18204, "overwritten": 1320, "share": 1320 / 18204},
            },
            "noise_estimate": 0.118,
            "suspects": 214,
            "confused_pairs": [
                [leaves[place], leaves[(place + 1) % len(leaves)], 140 - 17 * place] for place in range(7)
            ],
        },
        "curve": [],
        "record": {
            "run_id": "0d5d0f6c1b2a4e7c9a2f",
            "metrics": winner,
            "before_cleaning": scores((0.969, 0.944, top1 - 0.024)),
            "teacher": {
                "rows": 800.0,
                "gold.department.top1": 0.94,
                "gold.category.top1": 0.908,
                "gold.product_type.top1": 0.861,
            },
            "bottleneck": "The encoder limits quality most, by up to 4.8 of 9.1 points of error (labels 3.1, data 1.2, "
            "head 0.0): 90.9% are right at product_type, 93.9% among the first three; so try another encoder.",
            "snapshot": {"rows": 18204},
        },
    }


def evaluation_of(
    leaves: tuple[str, ...], true: np.ndarray, answered: np.ndarray, confidence: np.ndarray
) -> dict[str, dict[str, list[Any]]]:
    """The tables of `promotion.evaluation_tables`."""
    labels: list[tuple[str, str, int, int, int, float | None, float | None, float]] = []
    bins = []
    for depth, level in enumerate(LEVELS, start=1):
        cut = [truncate(leaf, depth) for leaf in leaves]
        nodes = list(dict.fromkeys(cut))
        of = np.array([nodes.index(node) for node in cut])
        for score in label_scores(of[true], of[answered]):
            shares = (score.precision, score.recall, score.f1)
            labels.append((level, nodes[score.node], score.items, score.answered, score.right, *shares))
        found = reliability(confidence, of[true] == of[answered])
        bins += [
            (level, *each) for each in zip(*(column.tolist() for column in vars(found).values()), strict=True)
        ]
    by = [("language", "en", 700, 640), ("language", "de", 100, 71), ("length in words", "4 to 6", 800, 711)]

    def table(columns: str, rows: list[Any]) -> dict[str, list[Any]]:
        return {
            name: list(column)
            for name, column in zip(columns.split(","), zip(*rows, strict=True), strict=True)
        }

    return {
        "limits": table(
            "cause,at_most,why",
            [
                ("labels", 0.031, "on 25 of 800 gold items it repeats the teacher's own mistake"),
                ("data", 0.012, "from 7,280 to 14,560 rows a linear head gained +0.9 points"),
                ("head", 0.0, "nothing else does better on the same vectors"),
                ("encoder", 0.048, "the rest; 4.4% are not among the first five"),
            ],
        ),
        "candidates": {
            "candidate": ["linear", "mlp", "ensemble", "raw labels"],
            "to the winner": [-0.012, -0.006, 0.0, -0.024],
            "low": [-0.021, -0.017, 0.0, -0.037],
            "high": [-0.003, 0.005, 0.0, -0.011],
        },
        "labels": table("level,label,items,answered,right,precision,recall,f1", labels),
        "calibration": table("level,confidence,accuracy,items", bins),
        "slices": table(
            "by,value,items,right,accuracy,low,high",
            [(way, value, items, right, right / items, 0.6, 0.95) for way, value, items, right in by],
        ),
        "beside_teacher": table(
            "level,items,both_right,only_teacher_wrong,only_student_wrong,both_wrong_alike,both_wrong_differently,"
            "difference,low,high",
            [(level, 800, 700, 45, 20, 25, 10, 0.031, 0.012, 0.051) for level in LEVELS],
        ),
        "learning_curve": table(
            "rows,taught,held_out", [(3640, 0.97, 0.85), (7280, 0.96, 0.88), (14560, 0.95, 0.889)]
        ),
    }


def policy(against: str = "adjudicated", items: int = 1200, noise: float = 0.0) -> Policy:
    """A policy with a real certificate on simulated confidences."""
    rng = np.random.default_rng(5)
    leaf = np.clip(rng.beta(7, 1, (items, 1)), 0, 0.9999)
    confidences = np.hstack([leaf**0.3, leaf**0.6, leaf]).astype(np.float32)
    wrong = rng.random(items) > np.minimum(1.0, leaf[:, 0] + 0.03 - noise)
    answers = Answers(["right"] * items, np.zeros(items, np.int64), confidences)
    truth = ["wrong" if bad else "right" for bad in wrong]
    sample = CalibrationSample(against, answers, truth)
    issued, _ = issue_policy(fix_path(confidences), sample, LEVELS, None, 0.05, 0.95, "7")
    return issued


def trained(version: str = "7", in_force: Policy | None = None) -> TrainedVersion:
    """A version judged on gold."""
    return trained_version(retrain_file(), version, in_force or policy())


def turns(nights: int = 12) -> tuple[Turn, ...]:
    """Nights on which the student takes over."""
    rng = np.random.default_rng(1)
    found = []
    for night in range(nights):
        requests = int(rng.integers(3600, 4400))
        cache = int(requests * (0.04 + 0.012 * night))
        student = int((requests - cache) * (0.0 if night == 0 else min(0.86, 0.44 + 0.05 * night)))
        down = 37 if night == 7 else 0
        tiers = {
            "exact_cache": cache,
            "student": student,
            "teacher": requests - cache - student - down,
            "fallback": down,
        }
        tiers = {tier: count for tier, count in tiers.items() if count}
        cost = 0.00021 * tiers["teacher"]
        found.append(Turn(30 + night, "nightly", NOW - (nights - night) * DAY, tiers, cost))
    return tuple(found)


def spent(requests: int, traffic_usd: float) -> Spending:
    """Costs by stage."""
    stages = (
        CostLine("label", 31_020, 14, 9_306_000, 6_204_000, 1_240_800, 3.42),
        CostLine("route", 9_120, 41, 2_736_000, 1_824_000, 364_800, round(traffic_usd, 2)),
        CostLine("audit", 640, 0, 192_000, 128_000, 25_600, 0.13),
        CostLine("gold", 800, 0, 240_000, 160_000, 32_000, 0.17),
    )
    total = CostLine(
        "all",
        sum(line.calls for line in stages),
        sum(line.failed for line in stages),
        sum(line.prompt_tokens for line in stages),
        sum(line.cached_tokens for line in stages),
        sum(line.completion_tokens for line in stages),
        sum(line.cost_usd for line in stages),
    )
    one = CostLine(
        "google/gemini-2.5-flash",
        total.calls,
        total.failed,
        total.prompt_tokens,
        total.cached_tokens,
        total.completion_tokens,
        total.cost_usd,
    )
    return Spending(
        total=total,
        by_stage=tuple(sorted(stages, key=lambda line: -line.cost_usd)),
        by_model=(one,),
        by_run=(),
        recent_usd=4.87,
        recent_days=30.0,
        requests=requests,
        routing_usd=stages[1].cost_usd + stages[2].cost_usd,
        per_answer_usd=0.00021,
        passes=2,
    )


def facts(**other: Any) -> ReportFacts:
    """A project that is well; `other` replaces fields."""
    nights = turns()
    in_force = policy()
    shown = trained("7", in_force)
    runs = tuple(
        RunLine(
            30 + night,
            "nightly",
            "failed" if night == 7 else "done",
            NOW - (12 - night) * DAY,
            412.0 + 31 * night,
            {"error": "StoreError: database is locked"}
            if night == 7
            else {
                "route": {"items": nights[night].requests},
                "label": {"items": 1204, "labelled": 1122},
                "retrain": {"model_version": str(night), "student": "ensemble"},
                "promote": {
                    "promoted": night % 3 != 1,
                    "champion_version": str(night),
                    "challenger_version": str(night),
                    "reasons": ["on gold accuracy changes by -0.014, 95 % bound -0.027, allowed -0.010"],
                },
            },
        )
        for night in reversed(range(12))
    )
    made = {
        "project": "catalogue",
        "modality": "text",
        "made_at": NOW,
        "target_error": 0.05,
        "confidence": 0.95,
        "audit_rate": 0.02,
        "teacher_model": "google/gemini-2.5-flash",
        "inventory": Inventory(
            52_340,
            33_120,
            {"human": 312, "adjudicated": 95, "consensus": 15_210, "single": 2_587},
            0,
            {"student and teacher differ": 41, "passes differ": 1_012, "no valid answer": 9},
            1_600,
        ),
        "agreement": PassAgreement(
            15_510,
            0.874,
            0.866,
            {"department": 0.962, "category": 0.921, "product_type": 0.874},
            tuple((LEAVES[place], 0.41 + 0.04 * place, 160 - 9 * place) for place in range(8)),
        ),
        "spending": spent(sum(turn.requests for turn in nights), sum(turn.cost_usd for turn in nights)),
        "turns": nights,
        "audited": Audited(
            30.0,
            (
                AuditedTier("student", share_of(17, 612), 230),
                AuditedTier("exact_cache", share_of(4, 96), 31),
                AuditedTier("teacher", share_of(11, 74), 74),
            ),
        ),
        "audits_owed": 3,
        "champion": "7",
        "challenger": None,
        "shown": shown,
        "newest": shown,
        "policies": tuple(
            PolicyLine(
                number,
                NOW - (9 - number) * DAY,
                str(number),
                "teacher" if number < 3 else "gold" if number < 6 else "adjudicated",
                0.0 if number == 1 else 0.3 + 0.05 * number,
                250 + 130 * number,
                0.05,
                None if number == 1 else dict(in_force.thresholds or {}),
                number == 7,
            )
            for number in range(8, 0, -1)
        ),
        "versions": tuple(
            VersionLine(
                str(number),
                NOW - (9 - number) * DAY,
                "ensemble" if number > 2 else "linear",
                "gold",
                0.86 + 0.007 * number,
                "champion" if number == 7 else "",
                "refused: on gold accuracy changes by -0.014, 95 % bound -0.027, allowed -0.010"
                if number % 3 == 2
                else "promoted: not worse than the champion on gold, audited traffic",
            )
            for number in range(8, 0, -1)
        ),
        "runs": runs,
        "lease": None,
    }
    return ReportFacts(**(made | other))  # type: ignore[arg-type]
