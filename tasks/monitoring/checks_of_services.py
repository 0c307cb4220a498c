"""Tries what stands outside the project's files: the database, the encoder, the models, MLflow, the disk.

Each is used for real, once and small. A request to a model is kept in the ledger, because it was paid for.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import time
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
from sqlalchemy import insert

from tasks.embedding.encoders import check_reads, complaints, load_encoder
from tasks.embedding.vectors import encoder_settings
from tasks.errors import (
    ConfigError,
    FatalTeacherError,
    RefusedTeacherError,
    TeacherError,
    TransientTeacherError,
)
from tasks.labeling.asking import Asking, asking
from tasks.labeling.ledger import Entry, Ledger
from tasks.labeling.replies import Answer
from tasks.labeling.requests import Item, Request
from tasks.labeling.teacher import Reply
from tasks.monitoring.findings import Check, Found, Trial
from tasks.project import Model, Project
from tasks.store import open_store, schema
from tasks.store.items import content_of, count_items

GIGABYTE = 1 << 30
CONNECT_SECONDS = 5.0


class _TakeBackError(Exception):
    """Undoes what was written to see whether it can be."""


def database(found: Found) -> Check:
    """The database opens, is of this age and takes a row (which is taken back)."""
    store = open_store(found.project.database_url, found.project.project)
    found.store = store
    with suppress(_TakeBackError), store.begin() as connection:
        connection.execute(insert(schema.meta), {"name": f"check-{time.time_ns()}", "value": "writable"})
        raise _TakeBackError
    kind = "SQLite" if store.is_sqlite else "PostgreSQL"
    return Check("database", True, f"{kind}, writable, {count_items(store):,} items: {store.shown_url}")


def encoder(found: Found) -> Check:
    """The encoder loads and gives a finite vector of one item."""
    project = found.project
    contents = content_of(found.first_item(), project.task.modality)
    settings = encoder_settings(project.encoder)
    check_reads(settings, project.task.modality)
    started = time.monotonic()
    loaded = load_encoder(settings)
    ready = time.monotonic()
    vectors = loaded.encode(contents)
    seconds = time.monotonic() - ready
    name = project.encoder.model
    if vectors.shape != (1, loaded.dimension) or not np.isfinite(vectors).all():
        detail = f"{name} gave {vectors.shape} numbers for one item, or some that are none"
        return Check("encoder", False, detail, f"Name an encoder for {project.task.modality}s.")
    found.dimension = loaded.dimension
    detail = f"{name}: {loaded.dimension} dimensions, loaded in {ready - started:.1f} s, one item in {seconds:.3f} s"
    return Check("encoder", True, ". ".join([detail, *complaints(settings)]))


def models(project: Project) -> list[tuple[str, Trial]]:
    """One trial for the teacher and for each model beside it."""
    teacher = project.teacher
    beside = {"tie_breaker": teacher.tie_breaker, "adjudicator": teacher.adjudicator, "cheap": teacher.cheap}
    named = {"teacher": teacher} | {
        f"teacher.{name}": model for name, model in beside.items() if isinstance(model, Model)
    }
    return [(name, partial(answers, name, model)) for name, model in named.items()]


def answers(name: str, model: Model, found: Found) -> Check:
    """A model labels the first item; the provider's words are shown when it does not."""
    task, item = found.project.task, found.first_item()
    price = found.project.price_of(model)
    # As the job asks, but in one stage: the item alone, its whole label at once.
    form = found.project.labeling.prompt.model_copy(update={"stages": 1, "shortlist": None, "examples": 0})
    how = asking(found.labels(), task.instructions, task.modality, model, price, form)
    where = f"{model.model} at {model.base_url}"
    content = content_of(item, task.modality)[0]
    try:
        reply, answer, cost_usd = asyncio.run(_ask(found, how, item["key"][0], content))
    except TeacherError as error:
        remedy = error.remedy or _way_out(error, name)
        return Check(name, False, f"{where}: {error.error_class}: {error.detail}", remedy, outside=True)
    spent = f"in {reply.latency_seconds:.2f} s for {cost_usd:.6f} USD"
    if answer.label is None:
        said = " ".join(reply.text.split())[:120]
        remedy = "Try it once more; if it stays so, set structured: false, raise max_output_tokens or change the model."
        return Check(name, False, f"{where}: {answer.error_class} {spent}: {said!r}", remedy, outside=True)
    echoed = f" (it calls itself {reply.model})" if reply.model and reply.model != model.model else ""
    return Check(name, True, f"{where}{echoed}: {answer.label!r} {spent}")


async def _ask(found: Found, how: Asking, key: bytes, content: str | bytes) -> tuple[Reply, Answer, float]:
    async with aclosing(how.connect()) as teacher:
        request = Request((Item(key, content),), 1)
        reply = await teacher.ask(how.prompt.messages(request), how.prompt.response_format(request), 1)
    cost_usd = how.price.cost_usd(reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens)
    if reply.problem is not None:
        answer = Answer(None, error_class=reply.problem)
    else:
        (answer,) = how.prompt.parse(request, reply.text, reply.finished)
    if found.store is not None:
        status = "ok" if answer.error_class is None else "invalid"
        # No job runs, so no run is named; the answer itself stays out, or two writers might add it twice.
        async with Ledger(found.store, how.version, "check", 0) as ledger:
            await ledger.write(Entry(status, 1, answer.error_class, reply, cost_usd))
    return reply, answer, cost_usd


def _way_out(error: TeacherError, name: str) -> str:
    if isinstance(error, TransientTeacherError):
        return f"Is {name}.base_url right and the server up? Otherwise try again in a moment."
    if isinstance(error, RefusedTeacherError | FatalTeacherError):
        return f"Check {name}.model, {name}.base_url and what the provider says."
    return ""


def tracking(found: Found) -> Check:
    """MLflow's store answers, or can be made where it is to be."""
    from tasks.promotion.tracking import registry_of

    uri, name = found.project.tracking_uri, "mlflow"
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        if not file.exists():
            writable = os.access(_nearest_folder(file.parent), os.W_OK)
            remedy = "" if writable else "Make the folder writable, or set mlflow.tracking_uri."
            state = "will be made by the first retrain" if writable else "cannot be made there"
            return Check(name, writable, f"{file} {state}", remedy, outside=True)
    elif uri.startswith(("http://", "https://")):
        # MLflow's own client would try for minutes before it says that nobody is there.
        parsed = urlparse(uri)
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        try:
            socket.create_connection((parsed.hostname or "", port), CONNECT_SECONDS).close()
        except OSError as error:
            remedy = "Start it (`flywheel up` does), or set mlflow.tracking_uri to null."
            return Check(name, False, f"{parsed.hostname}:{port}: {error}", remedy, outside=True)
    versions = registry_of(found.project).versions()
    shown = urlparse(uri)._replace(netloc=urlparse(uri).netloc.rpartition("@")[2]).geturl()
    return Check(name, True, f"{shown}: {len(versions)} versions of {found.project.project}")


def disk_space(found: Found) -> Check:
    """The root can be written, and has room for the vectors of all items and a gigabyte beside them."""
    root = found.project.root
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"check")
    except OSError as error:
        raise ConfigError(root, f"cannot be written ({error.strerror})", "Set storage.root.") from error
    rows = 0 if found.keys is None else found.keys.height
    need, free = GIGABYTE + rows * found.dimension * 4, shutil.disk_usage(root).free
    detail = f"{free / GIGABYTE:,.1f} GB free at {root}, {need / GIGABYTE:,.1f} GB wanted"
    return Check("disk space", free >= need, detail, "" if free >= need else "Make room.", outside=True)


def _nearest_folder(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())
