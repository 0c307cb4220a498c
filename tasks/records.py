"""What an item is, and the small frozen records that pass between steps.

The key of an item is a 128-bit hash of its normalised content, so the same product name seen twice is one
item. Frames never pass between steps: records hold counts, paths, fingerprints and ids.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

KEY_BYTES = 16

# Sources of a label, the one to believe first standing first. `disagreed` withdraws an earlier LLM label, and so
# does `partial`, which keeps the upper levels that the passes agree on: a path that is no leaf.
SOURCES = ("human", "adjudicated", "consensus", "single", "imported", "synthetic", "partial", "disagreed")
LLM_SOURCES = ("consensus", "single", "partial", "disagreed")
PARTIAL = "partial"


_UNPRINTABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def normalise(text: str) -> str:
    """NFC, control characters and lone surrogates dropped, runs of white space one space, ends trimmed."""
    return " ".join(unicodedata.normalize("NFC", _UNPRINTABLE.sub("", text)).split())


def text_key(text: str) -> bytes:
    """Key (16 bytes) of a text; letter case counts, spacing and Unicode form do not."""
    return hashlib.blake2b(normalise(text).encode(), digest_size=KEY_BYTES).digest()


def image_key(image: bytes) -> bytes:
    """Key (16 bytes) of an image: the hash of its file's bytes."""
    return hashlib.blake2b(image, digest_size=KEY_BYTES, person=b"image").digest()


def hash_of(rows: Iterable[tuple[bytes, str]]) -> str:
    """A short hash of (key, label) rows in the order given."""
    digest = hashlib.blake2b(digest_size=8)
    for key, label in rows:
        digest.update(key + label.encode() + b"\0")
    return digest.hexdigest()


def half_of(key: bytes, share: float = 0.5) -> str:
    """`calibration` for a share of all judged items by key hash, `evaluation` for the rest; once and for good."""
    digest = hashlib.blake2b(key, digest_size=8, person=b"gold-half").digest()
    return "calibration" if int.from_bytes(digest, "big") < share * (1 << 64) else "evaluation"


@dataclass(frozen=True)
class Record:
    """Base of what steps return: plain values only, so any run can be printed, stored and rebuilt."""

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary of all fields."""
        return asdict(self)


@dataclass(frozen=True)
class Ingested(Record):
    """What reading the sources did: rows seen, new items, rows rejected by reason."""

    rows: int = 0
    new: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Labelled(Record):
    """What a labelling run did; `unlabelled_left` counts items still without an answer in every pass.

    `no_answer` of them were given up: no run asks about them again under this prompt and model, a person may decide.
    `written` label rows were appended, which after a kill may be those of an earlier run's answers. `in_all` counts all
    items ever asked about under this prompt and model: `labelled`, `disagreed`, `invalid`.
    Of the `disagreed`, `partial` are those whose upper levels are kept; `tie_breaks` were asked once more. Agreement of
    the passes is over all items that every pass labelled: as a share, by level, by label (of the items of which any
    pass said it) and beyond chance (Cohen's kappa). `chosen` counts the items by why they were asked about: `owed`,
    `uncertain`, `diverse`, `random`; `all` where nothing had to be chosen. `waiting` requests were left in open
    batches; `batches` counts those submitted, fetched, refused by the provider and open, if there were any, and what
    was `paid_twice` because it could not wait for them. `least_agreed` are the labels on which the passes agree least:
    label, share, items of which any pass said it. `gold_rejected` counts gold rows that were left out, by reason.
    `lost` are the labels that items bore before the run and the taxonomy no longer has, with how many each bore.
    """

    items: int = 0
    labelled: int = 0
    disagreed: int = 0
    invalid: int = 0
    failed: int = 0
    calls: int = 0
    cost_usd: float = 0.0
    unlabelled_left: int = 0
    agreement: float | None = None
    kappa: float | None = None
    agreement_by_level: Mapping[str, float] = field(default_factory=dict)
    agreement_by_label: Mapping[str, float] = field(default_factory=dict)
    partial: int = 0
    tie_breaks: int = 0
    stopped: str | None = None
    rejected: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    review_file: str | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    chosen: Mapping[str, int] = field(default_factory=dict)
    synthesis: Mapping[str, Any] | None = None
    waiting: int = 0
    batches: Mapping[str, Any] | None = None
    no_answer: int = 0
    written: int = 0
    in_all: Mapping[str, int] = field(default_factory=dict)
    least_agreed: Sequence[tuple[str, float, int]] = ()
    gold_rejected: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)

    def with_synthesis(self, written: Synthesized) -> Labelled:
        """The same run, the examples that it let the teacher write beside it: calls and cost are of both."""
        return replace(
            self,
            calls=self.calls + written.calls,
            cost_usd=round(self.cost_usd + written.cost_usd, 9),
            stopped=self.stopped or written.stopped,
            synthesis=written.as_dict(),
        )


@dataclass(frozen=True)
class Synthesized(Record):
    """What the writing of examples did for the labels with too few real items.

    `written` examples came back; of them `kept` became items, the others were `duplicates` of what there is,
    `off_label` (more like another label), `unusable` (empty or far too long) or `surplus` (fit, but beyond the share).
    `missing` are still wanted.
    `by_label` has, of each starved label, its `real` and `synthetic` examples now and those `missing`; `unseen` are
    labels without any real item, for which only a few are written because no share of nothing can be kept.
    """

    starved: int = 0
    written: int = 0
    kept: int = 0
    duplicates: int = 0
    off_label: int = 0
    unusable: int = 0
    surplus: int = 0
    missing: int = 0
    calls: int = 0
    cost_usd: float = 0.0
    by_label: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    stopped: str | None = None
    errors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedded(Record):
    """What an embedding run did; `fingerprint` names the cache folder.

    `set_aside` are the damaged parts that were found, with why; `merged` counts small parts made into larger ones.
    `not_encoded` items have no vector; the first of them stand in `not_encoded_rows`, each with its id and why.
    `warnings` name settings that are probably not meant.
    """

    encoded: int
    cached: int
    total: int
    fingerprint: str
    seconds: float
    rejected: Mapping[str, int] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    merged: int = 0
    not_encoded: int = 0
    not_encoded_rows: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VerifiedCache(Record):
    """What `embed --verify` found in the cache of `fingerprint`.

    Every one of the `rows` vectors was checked against its part's checksum, and `compared` of them against a fresh
    encoding (`least_cosine` is the worst of those that passed); `set_aside` are the parts that failed, with why.
    """

    fingerprint: str
    parts: int
    rows: int
    compared: int
    least_cosine: float | None
    seconds: float
    set_aside: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PrunedCaches(Record):
    """The caches nobody uses, and those in use, each as (fingerprint, bytes); `deleted` says whether they are gone.

    `leftovers` counts the bytes of damaged parts and of interrupted writes within the caches in use.
    """

    unused: list[tuple[str, int]]
    used: list[tuple[str, int]]
    leftovers: int
    deleted: bool


@dataclass(frozen=True)
class Snapshot(Record):
    """The frozen rows a training run uses: parquet path, content fingerprint, counts (`synthetic` of the `rows`).

    `gold_rejected` counts the gold rows that were left out, by reason; `lost` the items by labels that the taxonomy no
    longer has: nothing is learned from those.
    """

    path: str
    fingerprint: str
    rows: int
    gold_rows: int
    removed_gold: int
    removed_near_gold: int
    synthetic: int = 0
    gold_rejected: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Cleaned(Record):
    """What cleaning did, by level: `{name: {labels, overwritten, share}}`.

    `strength` is the regularisation it found, where a retrain on the same rows starts to look. `noise` is by level the
    `share` of wrong labels, its `source` and the `margin` it gives (1 is never). `dropped` and `reweighted` rows keep
    their label. `asked_again` counts second answers: the `answers` there are, and of them those that `kept` the label,
    `changed` it to what the student says, or left it `undecided`. `sample` is a file of changes for a person to read.
    """

    levels: Mapping[str, Mapping[str, float]]
    path: str
    snapshot: Snapshot
    noise_estimate: float
    margin: float
    suspects: int
    strength: float | None = None
    confused_pairs: list[tuple[str, str, int]] = field(default_factory=list)
    method: str = "cross_fitted"
    mode: str = "relabel"
    noise: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dropped: int = 0
    reweighted: int = 0
    asked_again: Mapping[str, int] = field(default_factory=dict)
    asked_again_usd: float = 0.0
    sample: str | None = None


@dataclass(frozen=True)
class Policy(Record):
    """Thresholds in force and the certificate they were issued under, tied to a model version.

    `calibration_profile` says what the calibration sample looked like (None: it was issued before that was kept), and
    `after_request` is the newest logged request when it was issued: traffic under it comes later.
    """

    thresholds: Mapping[str, float] | None
    target_error: float
    confidence: float
    certified_coverage: float
    calibration_items: int
    against: str
    model_version: str
    id: int | None = None
    cross_fitted: bool = False
    sentence: str = ""
    certificate: Mapping[str, Any] = field(default_factory=dict)
    partial_coverage: float = 0.0
    partial_thresholds: Mapping[str, float] | None = None
    calibration_profile: Mapping[str, Any] | None = None
    after_request: int = 0


@dataclass(frozen=True)
class Adjudicated(Record):
    """What the adjudicator was asked, and by model version what its two-stage sample of audits still lacks.

    `asked` answers came (`invalid` ones decide nothing), `failed` did not. Of each version: `items` audited, those that
    are `wanted` because student and teacher `differ` or because the coin fell so (`checked`, with `share`), and how
    many of these are `waiting`: nothing is certified against adjudicated labels before they are decided.
    """

    asked: int = 0
    invalid: int = 0
    failed: int = 0
    calls: int = 0
    cost_usd: float = 0.0
    stopped: str | None = None
    versions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def then(self, after: Adjudicated) -> Adjudicated:
        """Both together, of one run."""
        sums = {
            name: getattr(self, name) + getattr(after, name)
            for name in ("asked", "invalid", "failed", "calls", "cost_usd")
        }
        versions = {**self.versions, **after.versions}
        return Adjudicated(**sums, stopped=after.stopped or self.stopped, versions=versions)

    @property
    def waiting(self) -> int:
        """The most that any version waits for."""
        return max((int(counts["waiting"]) for counts in self.versions.values()), default=0)


@dataclass(frozen=True)
class Recalibrated(Record):
    """The policies of champion and challenger now (None: no such version, or no policy), and what was adjudicated."""

    policy: Policy | None
    challenger_policy: Policy | None
    adjudication: Adjudicated


@dataclass(frozen=True)
class Retrained(Record):
    """A trained, registered challenger with its metrics and its policy."""

    run_id: str
    model_version: str
    student: str
    metrics: Mapping[str, float]
    policy: Policy
    snapshot: Snapshot
    bottleneck: str = ""
    candidates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    teacher: Mapping[str, float] = field(default_factory=dict)
    before_cleaning: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Promoted(Record):
    """The outcome of the gate: a refusal is a result with its numbers.

    `compared_with` is the champion at that time. `waiting`: the gate lets it pass, and a person is to be asked.
    `deleted` are the versions that are kept no longer.
    """

    promoted: bool
    champion_version: str | None
    challenger_version: str | None
    reasons: list[str]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    compared_with: str | None = None
    waiting: bool = False
    deleted: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Routed(Record):
    """What routing a file did: `tiers` counts items by the tier that answered them."""

    items: int
    tiers: Mapping[str, int]
    cost_usd: float
    seconds: float
    out: str | None = None
    audited: int = 0
    audits_owed: int = 0
    unanswered: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
