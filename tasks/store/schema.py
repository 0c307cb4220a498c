"""Every table of the database, as SQLAlchemy Core.

Tables that only grow are indexed by arrival (`id`), because a unique index on a random key makes appends five
times slower; uniqueness of keys is kept by the one writer that holds the project's lease.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()


def _id() -> Column[int]:
    return Column("id", Integer, primary_key=True, autoincrement=True)


items = Table(
    "items",
    metadata,
    _id(),
    Column("key", LargeBinary(16), nullable=False),
    Column("source_id", Text, nullable=False),
    Column("text", Text),
    Column("image", LargeBinary),
    Column("origin", String(16), nullable=False),  # source | traffic | import | synthetic
    Column("run_id", Integer),
    Column("added_at", Float, nullable=False),
)

calls = Table(
    "calls",
    metadata,
    _id(),
    Column("run_id", Integer),
    Column("stage", String(32), nullable=False),  # label | route | audit | gold | check | synthesis
    Column("model", Text, nullable=False),
    Column("echoed_model", Text),
    Column("status", String(16), nullable=False),  # ok | invalid | failed
    Column("attempts", Integer, nullable=False),
    Column("error_class", String(64)),
    Column("reply", Text),
    Column("prompt_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("latency_seconds", Float, nullable=False),
    Column("at", Float, nullable=False),
    Column("batch_id", Integer, ForeignKey("batches.id")),  # null: asked online
    Column("batch_line", Integer),
)

batches = Table(
    "batches",
    metadata,
    _id(),
    Column("token", String(32), nullable=False),  # in the provider's metadata, to find a batch again by
    Column("remote_id", Text),
    Column("status", String(16), nullable=False),  # planned | uploaded, then what the provider last said
    Column("base_url", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("stage", String(32), nullable=False),
    Column("run_id", Integer, nullable=False),
    Column("input_file_id", Text),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("requests", Integer, nullable=False),
    Column("reserved_usd", Float, nullable=False),
    Column("error", Text),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("closed_at", Float),  # null: waits at the provider, or for its results to be fetched
)

batch_items = Table(
    "batch_items",
    metadata,
    Column("batch_id", Integer, ForeignKey("batches.id"), primary_key=True, autoincrement=False),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("place", Integer, primary_key=True, autoincrement=False),  # of the item within its request
    Column("key", LargeBinary(16), nullable=False),
    Column("pass", Integer, nullable=False),
    Column("prompt_version", String(32), nullable=False),
    Column("parameters", String(32), nullable=False),
    Column("branch", Text),
    Column("candidates", Text),  # JSON; null: all labels were offered
)

answers = Table(
    "answers",
    metadata,
    _id(),
    Column("key", LargeBinary(16), nullable=False),
    Column("pass", Integer, nullable=False),
    Column("prompt_version", String(32), nullable=False),
    Column("model", Text, nullable=False),
    Column("parameters", String(32), nullable=False),
    Column("label", Text),  # null: dead-lettered, see error_class
    Column("confidence", Float),
    Column("reason", Text),
    Column("error_class", String(64)),
    Column("attempts", Integer, nullable=False),
    Column("at", Float, nullable=False),
)

call_answers = Table(
    "call_answers",
    metadata,
    Column("call_id", Integer, ForeignKey("calls.id"), primary_key=True),
    Column("answer_id", Integer, ForeignKey("answers.id"), primary_key=True),
)

labels = Table(
    "labels",
    metadata,
    _id(),
    Column("key", LargeBinary(16), nullable=False),
    Column("label", Text),  # null: `disagreed`, which withdraws; no leaf: `partial`
    Column("source", String(16), nullable=False),
    Column("run_id", Integer),
    Column("at", Float, nullable=False),
)

reviews = Table(
    "reviews",
    metadata,
    _id(),
    Column("key", LargeBinary(16), nullable=False),
    Column("final_label", Text, nullable=False),
    Column("previous_label", Text),
    Column("file", Text, nullable=False),
    Column("run_id", Integer),
    Column("at", Float, nullable=False),
)

traffic = Table(
    "traffic",
    metadata,
    _id(),
    Column("request_id", LargeBinary(16), nullable=False),
    Column("row_id", LargeBinary(16), nullable=False),
    Column("key", LargeBinary(16), nullable=False),
    Column("source_id", Text, nullable=False),
    Column("tier", String(24), nullable=False),
    Column("would_tier", String(24), nullable=False),  # the tier that would have answered were nothing down
    Column("label", Text),
    Column("confidence", Float),
    Column("student_label", Text),
    Column("student_confidences", Text),  # JSON, one number a level
    Column("familiarity", Float),  # the odds of each confidence times this are held against thresholds
    Column("cheap_label", Text),
    Column("teacher_label", Text),
    Column("audited", Boolean, nullable=False),
    Column("audit_probability", Float, nullable=False),
    Column("audit_owed", Boolean, nullable=False),
    Column("policy_id", Integer),
    Column("model_version", String(32)),
    Column("latency_seconds", Float, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("run_id", Integer),
    Column("at", Float, nullable=False),
    UniqueConstraint("request_id", name="uq_traffic_request"),
)

policies = Table(
    "policies",
    metadata,
    _id(),
    Column("model_version", String(32), nullable=False),
    Column("thresholds", Text),  # JSON level -> number; null: nothing certifiable
    Column("against", String(16), nullable=False),
    Column("certified_coverage", Float, nullable=False),
    Column("body", Text, nullable=False),  # JSON of the whole record
    Column("run_id", Integer),
    Column("at", Float, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    _id(),
    Column("job", String(32), nullable=False),
    Column("status", String(16), nullable=False),  # running | done | incomplete | failed
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("parameters", Text, nullable=False),
    Column("result", Text),
)

sources = Table(
    "sources",
    metadata,
    _id(),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),  # PostgreSQL's integer ends at 2 GB
    Column("modified_at", Float, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("settings", String(32), nullable=False),
    Column("at", Float, nullable=False),
)

lease = Table(
    "lease",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("owner", Text, nullable=False),
    Column("acquired_at", Float, nullable=False),
    Column("heartbeat_at", Float, nullable=False),
)

meta = Table(
    "meta", metadata, Column("name", String(64), primary_key=True), Column("value", Text, nullable=False)
)

Index("ix_call_answers_answer", call_answers.c.answer_id)
Index(  # a line of a batch is paid once; calls made online are not in this index and cost it nothing
    "uq_calls_batch_line",
    calls.c.batch_id,
    calls.c.batch_line,
    unique=True,
    sqlite_where=calls.c.batch_id.is_not(None),
    postgresql_where=calls.c.batch_id.is_not(None),
)
Index("ix_policies_version", policies.c.model_version)
