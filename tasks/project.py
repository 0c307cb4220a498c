"""A project's settings: one YAML file in `conf/`, read into frozen models, every mistake with its place.

Knows nothing of what the settings are used for; domain functions take values out of it, never the whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tasks.errors import ConfigError
from tasks.moved import with_moved
from tasks.taxonomy import Taxonomy, load_taxonomy, read_yaml

TRACKING_URI = "FLYWHEEL_TRACKING_URI"
"""Names MLflow for every project whose file does not: its database (PostgreSQL) or a server."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Approval = Literal["automatic", "human"]
CANDIDATES = Literal["linear", "mlp", "ensemble", "lda", "gbdt", "finetuned", "timm"]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused, and so is a number that is none (.nan, .inf)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Task(Section):
    """What is classified into what."""

    modality: Literal["text", "image"] = "text"
    levels: tuple[str, ...] | None = None
    taxonomy: str
    moved: str | None = None  # a file that says what became of labels the taxonomy no longer has
    instructions: str = "Classify the item."
    other: str | None = "none of these"

    @field_validator("levels")
    @classmethod
    def _levels_are_distinct(cls, levels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        reserved = {"id", "source_id", "row", "tier", "confidence", "key", "text", "image"}
        if levels is not None and (len(set(levels)) < len(levels) or not levels or reserved & set(levels)):
            raise ValueError(f"levels must be distinct names, and none of {', '.join(sorted(reserved))}")
        return levels


class Source(Section):
    """Where items come from: parquet, csv, jsonl, a glob of them, an SQL URL with a query, images.

    Without `id` a column `id` is taken where there is one; else an item's content is its name.
    """

    items: str
    id: str | None = None
    text: str | None = None
    image: str | None = None
    query: str | None = None
    traffic: str | None = None


class Price(Section):
    """US dollars per million tokens."""

    input: float = Field(0.0, ge=0)
    cached_input: float | None = Field(None, ge=0)
    output: float = Field(0.0, ge=0)
    batch: Share = 0.5  # what a token costs through the Batch API, as a share


class Model(Section):
    """One model behind an OpenAI-compatible API; without a price of its own it has that of the price table."""

    base_url: str = "https://api.openai.com/v1"
    api_key_env: str = "OPENAI_API_KEY"
    model: str
    price: Price | None = None
    concurrency: int = Field(64, ge=1, le=4096)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    timeout_seconds: float = Field(60.0, gt=0)
    max_attempts: int = Field(6, ge=1)
    temperature: float | None = Field(0.0, ge=0)
    max_output_tokens: int = Field(300, ge=1)
    structured: bool = True

    @property
    def api_key(self) -> str:
        """The key out of the environment; loopback servers need none.

        Raises:
            ConfigError: the variable is not set.
        """
        key = os.environ.get(self.api_key_env, "")
        if key:
            return key
        if any(host in self.base_url for host in ("://127.0.0.1", "://localhost", "://[::1]")):
            return "none-needed-on-loopback"
        raise ConfigError(
            "environment",
            f"{self.api_key_env} is not set",
            f"export {self.api_key_env}=... (never write it into the file)",
        )


class PassSettings(Section):
    """What one pass does differently from the teacher's own settings."""

    model: str | None = None
    temperature: float | None = Field(None, ge=0)


class Batches(Section):
    """How requests are sent through the provider's Batch API, whose limits of a file are those of OpenAI."""

    poll_seconds: float = Field(60.0, gt=0)  # between two looks at open batches
    window: str = "24h"  # in which the provider is to be done
    most_requests: int = Field(50_000, ge=1)  # of a file
    most_bytes: int = Field(200_000_000, ge=1)  # of a file
    nightly: bool = False  # the nightly run sends what is due in batches, and fetches it the night after


class Teacher(Model):
    """The LLM that labels, and how often it is asked about one item.

    `by_pass` gives a pass (1-based) a temperature or a model of its own. Only where passes differ, the
    `tie_breaker` is asked, or with `third_vote` the teacher itself once more.
    """

    passes: int = Field(2, ge=1, le=9)
    by_pass: dict[Annotated[int, Field(ge=1, le=9)], PassSettings] = Field(default_factory=dict)
    budget_usd: float | None = Field(None, ge=0)
    third_vote: bool = False
    batch: Batches = Batches()
    tie_breaker: Model | None = None
    adjudicator: Model | None = None
    cheap: Model | None = None


class Mix(Section):
    """Shares of what is asked first when not everything is."""

    uncertain: Share = 0.4
    diverse: Share = 0.3
    random: Share = 0.3

    @model_validator(mode="after")
    def _adds_up(self) -> Mix:
        if abs(self.uncertain + self.diverse + self.random - 1.0) > 1e-6:
            raise ValueError("uncertain, diverse and random must add up to 1")
        return self


class Prompting(Section):
    """The form of a request, which decides how many tokens an item costs.

    `stages: 2` asks for the first level, then only within that branch; `shortlist` names the nearest so many
    labels by embedding instead of all; `examples` shows so many decided items that are most like the item.
    """

    items_per_call: int = Field(1, ge=1, le=100)
    stages: Literal[1, 2] = 1
    shortlist: int | None = Field(None, ge=2)
    examples: int = Field(0, ge=0, le=20)
    reasons: bool = True
    image_side: int = Field(1024, ge=32, le=8192)  # pixels; larger images are scaled down before sending

    @model_validator(mode="after")
    def _one_way_to_offer_less(self) -> Prompting:
        if self.stages == 2 and self.shortlist is not None:
            raise ValueError("stages: 2 and a shortlist are two ways to offer fewer labels: choose one")
        return self


class Synthesis(Section):
    """Examples that the teacher writes for labels with fewer than `below` real items; None: never.

    At most `most_share` of a label's examples are synthetic.
    """

    below: int | None = Field(None, ge=1)
    most_share: OpenShare = 0.5


class Labeling(Section):
    """How many items one run asks about (None: all), which first, and in what form."""

    limit: int | None = Field(None, ge=1)
    mix: Mix = Mix()
    prompt: Prompting = Prompting()
    synthesis: Synthesis = Synthesis()


class Encoder(Section):
    """The frozen model that turns an item into a vector, once."""

    model: str = "intfloat/multilingual-e5-base"
    prefix: str | None = None  # before every text; None: what the model's card asks for, where it is known
    normalize: bool = True
    max_length: int | None = Field(None, ge=8)
    revision: str | None = None
    sha256: str | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    storage_dtype: Literal["float32", "float16"] = "float32"  # of cached vectors; float16: half the room
    precision: Literal["auto", "float32", "bfloat16"] = (
        "auto"  # auto: bfloat16 where the machine is built for it
    )
    dimensions: int | None = Field(
        None, ge=1
    )  # the first ones of a vector, for models trained to be cut (Matryoshka)
    backend: Literal["torch", "onnx", "onnx-int8"] = "torch"
    pretrained: bool = True  # of timm models; without, random weights that are always the same
    base_url: str | None = None  # of an endpoint (openai:MODEL); None: that of OpenAI
    api_key_env: str | None = None


class Finetune(Section):
    """How the candidate `finetuned` trains the encoder further; epochs are at most so many."""

    epochs: int = Field(5, ge=1)
    max_steps: int = Field(5000, ge=1)  # of one training
    batch: int = Field(32, ge=1)
    learning_rate: float = Field(3e-5, gt=0)


class Timm(Section):
    """How the candidate `timm` is trained where it is pretrained; random weights are always trained in full.

    `frozen` trains the classifier alone, on features computed once; `gradual` unfreezes layers from the top downwards;
    `auto` is gradual on a GPU and frozen without one.
    """

    train: Literal["auto", "frozen", "gradual", "full"] = "auto"
    flip: bool = False  # training images may be mirrored; digits and letters must not
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    weights: str | None = None  # a safetensors file of pretrained ones; None: the model hub's


class Student(Section):
    """Which candidates a retrain compares."""

    candidates: tuple[CANDIDATES, ...] = ("linear", "mlp", "ensemble")
    # Averaged beside linear head and neighbours; None: the MLP, where it is a candidate and so trained anyway.
    ensemble_with: tuple[Literal["mlp", "lda"], ...] | None = None
    folds: int = Field(5, ge=2, le=20)
    full_search_days: float = Field(7.0, ge=0, le=366)  # between them many rows train the winner alone
    timm_model: str = "mobilenetv3_small_100"
    pretrained: bool = True
    epochs: int = Field(12, ge=1)
    image_size: int = Field(96, ge=16, le=512)
    prototypes: int = Field(16, ge=0, le=256)  # a label; an item unlike all is escalated; 0: none
    finetune: Finetune = Finetune()
    timm: Timm = Timm()
    onnx: bool = False  # each new version's graph is kept with its run, as `flywheel export` writes it

    @property
    def averaged(self) -> tuple[str, ...]:
        """What the ensemble averages beside linear head and neighbours, by shares learned out of fold."""
        if self.ensemble_with is not None:
            return self.ensemble_with
        return ("mlp",) if "mlp" in self.candidates else ()

    @field_validator("candidates")
    @classmethod
    def _some(cls, candidates: tuple[str, ...]) -> tuple[str, ...]:
        if not candidates or len(set(candidates)) < len(candidates):
            raise ValueError("name at least one candidate, each once")
        return candidates

    @model_validator(mode="after")
    def _random_weights_are_trained_in_full(self) -> Student:
        if not self.pretrained and (self.timm.weights or self.timm.train in ("frozen", "gradual")):
            raise ValueError("pretrained: false leaves timm no weights to start from or to freeze")
        return self


class Cleaning(Section):
    """How labels the student confidently contradicts are found, and what becomes of them.

    `resubstitution` is the recipe as first published: it judges rows by a model that has seen their labels, and so
    repeats most wrong ones. Of `re-ask` the teacher's second answer decides between label and student.
    """

    method: Literal["cross_fitted", "cleanlab", "resubstitution", "none"] = "cross_fitted"
    mode: Literal["relabel", "drop", "reweight", "re-ask"] = "relabel"
    cap: Share = 0.3  # no label loses more of its rows
    confidence: OpenShare = 0.85  # of resubstitution: overwrite from here on
    reask_budget_usd: float | None = Field(None, ge=0)  # of a run; None: what the run's own budget has left
    reask_share: Share = 0.1  # of all labelled items, the most contradicted first


class Routing(Section):
    """The promise, and how it is watched."""

    target_error: OpenShare = 0.05
    confidence: OpenShare = 0.95
    audit_rate: Share = 0.02
    fallback: Literal["student", "refuse"] = "student"
    partial: bool = False  # whether the student may answer an upper level alone where the deepest is not sure
    starts: int = Field(1, ge=1, le=16)
    audit_window_days: float = Field(30.0, gt=0)
    checked_agreements: float | None = Field(
        None, gt=0, le=1
    )  # share of audited agreements that are adjudicated like disagreements; None: as many as the target needs


class Promotion(Section):
    """Who lets a challenger serve, how much worse it may look, and what is kept of those that served."""

    approval: Approval = "automatic"
    approval_hours: float = Field(24.0, gt=0, le=24 * 365)  # to answer in; silence is a refusal
    margin: OpenShare = 0.01
    max_latency_ms: float | None = Field(None, gt=0)  # of 95 % of single items, on the machine that promotes
    keep_versions: int | None = Field(30, ge=3)  # older ones go, files and all; None: every one is kept


class Schedule(Section):
    """When the wheel turns by itself, and when somebody looks whether it should turn ahead of that."""

    nightly: str | None = "0 2 * * *"
    monitor: str | None = "15 */4 * * *"
    timezone: str = "UTC"


class Monitor(Section):
    """What counts as drift, and when the wheel is started ahead of its schedule.

    `false_alarms` is the chance that it ever alarms, however often it looks, though nothing changed. By `tolerance` a
    share may move: coverage down, or items to other scores and labels. `new_labels` since the last training start a
    nightly run; None never does.
    """

    false_alarms: OpenShare = 0.05
    tolerance: float = Field(0.05, ge=0, lt=1)
    new_labels: int | None = Field(1000, ge=1)
    quiet_hours: float = Field(24.0, gt=0)  # between two alarms about the same


class Storage(Section):
    """Where everything the project writes lies."""

    root: str | None = None
    database: str | None = None
    cache: str | None = (
        None  # of embeddings: a path, or an fsspec URL such as s3://bucket/prefix; None: under root
    )

    @field_validator("root")
    @classmethod
    def _root_is_a_folder(cls, root: str | None) -> str | None:
        if root is not None and "://" in root:
            raise ValueError(
                "must be a folder: of what lies there only embeddings may be at a URL, storage.cache"
            )
        return root


class Runner(Section):
    """Where items are encoded; `runner: dask` is short for its `kind`.

    Threads are this process. A cluster has an address, or is started for the run and ended after it.
    """

    kind: Literal["threads", "processes", "dask", "ray"] = "threads"
    address: str | None = None
    workers: int | None = Field(
        None, ge=1, le=65_536
    )  # None: one a core of this machine, or all of a cluster's
    threads: int = Field(1, ge=1)  # of computation in each worker
    shard_rows: int = Field(4096, ge=1)  # what a worker is given at a time, and what a kill costs at most

    @model_validator(mode="after")
    def _clusters_have_addresses(self) -> Runner:
        if self.address is not None and self.kind not in ("dask", "ray"):
            raise ValueError("an address is for kind: dask or ray")
        return self


class Mlflow(Section):
    """Where experiments are tracked; None is `var/mlflow.db`, shared by all projects."""

    tracking_uri: str | None = None
    experiment: str | None = None


class Project(Section):
    """One classification problem: items, taxonomy, teacher, student, policy."""

    project: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    task: Task
    source: Source
    gold: str | None = None
    slices: tuple[str, ...] | None = None  # columns of gold; None: `language` and `source` where it has them
    teacher: Teacher
    prices: dict[str, Price] = Field(default_factory=dict)
    labeling: Labeling = Labeling()
    encoder: Encoder = Encoder()
    student: Student = Student()
    cleaning: Cleaning = Cleaning()
    routing: Routing = Routing()
    promotion: Promotion = Promotion()
    schedule: Schedule = Schedule()
    monitor: Monitor = Monitor()
    runner: Runner = Runner()
    storage: Storage = Storage()
    mlflow: Mlflow = Mlflow()
    file: Path = Field(default=Path("project.yaml"), exclude=False)
    home: Path = Field(default=Path(), exclude=False)

    @model_validator(mode="before")
    @classmethod
    def _images_have_their_own_default_encoder(cls, values: Any) -> Any:
        task = values.get("task") if isinstance(values, dict) else None
        if isinstance(task, dict) and task.get("modality") == "image" and values.get("encoder") is None:
            return {**values, "encoder": {"model": "pixels:32"}}
        return values

    @field_validator("slices")
    @classmethod
    def _slices_are_distinct(cls, slices: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if slices is not None and (len(set(slices)) < len(slices) or "key" in slices):
            raise ValueError("must be distinct columns of the gold file, and none of them `key`")
        return slices

    @field_validator("runner", mode="before")
    @classmethod
    def _a_runner_by_its_kind(cls, written: Any) -> Any:
        if not isinstance(written, str):
            return written
        if written not in (kinds := get_args(Runner.model_fields["kind"].annotation)):
            raise ValueError(f"must be one of {', '.join(kinds)}")
        return {"kind": written}

    @model_validator(mode="after")
    def _only_texts_are_likened(self) -> Project:
        form = self.labeling.prompt
        if self.task.modality == "image" and (form.shortlist is not None or form.examples):
            raise ValueError("labeling.prompt: a shortlist and examples are for texts, the items are images")
        return self

    @cached_property
    def root(self) -> Path:
        """The folder of everything this project writes (absolute)."""
        return (self.home / Path(self.storage.root or f"var/{self.project}").expanduser()).absolute()

    @cached_property
    def cache_root(self) -> Path | str:
        """Where the embedding cache lies: a folder (absolute) or an fsspec URL; other machines may share it."""
        written = self.storage.cache
        if written is None:
            return self.root
        return written if "://" in written else (self.home / Path(written).expanduser()).absolute()

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the project's database: the file's, else the environment's, else SQLite under root."""
        default = os.environ.get("FLYWHEEL_DATABASE_URL") or f"sqlite:///{self.root / 'flywheel.db'}"
        return self.storage.database or default

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking and registry address: the file's, else the environment's, else SQLite under `var/`."""
        beside = f"sqlite:///{(self.home / 'var' / 'mlflow.db').absolute()}"
        return with_driver(self.mlflow.tracking_uri or os.environ.get(TRACKING_URI) or beside, "psycopg")

    @property
    def experiment(self) -> str:
        """Name of the project's MLflow experiment."""
        return self.mlflow.experiment or self.project

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The label tree, read afresh for each loaded project; it knows what became of the labels it no longer has."""
        taxonomy = load_taxonomy(self.resolve(self.task.taxonomy), self.task.levels, self.task.other)
        return taxonomy if self.task.moved is None else with_moved(taxonomy, self.resolve(self.task.moved))

    def with_budget(self, usd: float | None) -> Project:
        """The same settings with another budget of a run; None leaves them as they are."""
        if usd is None:
            return self
        return self.model_copy(update={"teacher": self.teacher.model_copy(update={"budget_usd": usd})})

    def with_approval(self, approval: Approval | None) -> Project:
        """The same settings with another way of promoting; None leaves them as they are."""
        if approval is None:
            return self
        return self.model_copy(update={"promotion": self.promotion.model_copy(update={"approval": approval})})

    def price_of(self, model: Model) -> Price:
        """What a model costs: its own price, else that of the price table, else nothing."""
        return model.price or self.prices.get(model.model) or Price()

    @property
    def content_column(self) -> str:
        """The column that holds the item itself."""
        if self.task.modality == "image":
            return self.source.image or "image"
        return self.source.text or "text"

    def resolve(self, written: str) -> Path:
        """An input path of the project file: relative ones start at the YAML's folder."""
        path = Path(written).expanduser()
        return path if path.is_absolute() else self.file.parent / path


def with_driver(url: str, driver: str | None) -> str:
    """A URL of PostgreSQL with that driver (None: without one), whichever it names; any other URL as it is."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", f"postgresql{f'+{driver}' if driver else ''}://", url)


def flywheel_home() -> Path:
    """The folder `var/` stands in: `FLYWHEEL_HOME`, else the working directory."""
    return Path(os.environ.get("FLYWHEEL_HOME") or ".").absolute()


def load_project(file: Path | str, home: Path | None = None) -> Project:
    """Read a project file.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the nearest known one is named) or a bad value,
            with the file and the dotted path of the mistake.
    """
    file = Path(file).absolute()
    try:
        raw, wrong = read_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            file, f"cannot be read ({error.strerror})", "`flywheel init` writes a project file."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(file, f"is not UTF-8 ({error})", "Save it as UTF-8.") from error
    if wrong:
        raise ConfigError(
            file, f"is not YAML: {wrong}", "Mind the indentation; `flywheel init` writes a template."
        )
    if not isinstance(raw, dict):
        raise ConfigError(
            file, "is empty or not a mapping", "`flywheel init` writes a commented project file."
        )
    for reserved in ("file", "home"):
        if reserved in raw:
            raise ConfigError(file, "unknown key", "Take it out.", reserved)
    try:
        return Project.model_validate(raw | {"file": file, "home": home or flywheel_home()})
    except ValidationError as error:
        raise _explain(file, error) from None


def _explain(file: Path, error: ValidationError) -> ConfigError:
    """The first mistake of a validation error in a person's words, unknown keys first."""
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    detail = details[0]
    place = [str(part) for part in detail["loc"]]
    dotted = ".".join(place)
    more = f" ({len(details) - 1} more mistakes in this file)" if len(details) > 1 else ""
    if detail["type"] == "extra_forbidden":
        known = sorted(_known_keys(place[:-1]))
        near = get_close_matches(place[-1], known, n=1, cutoff=0.4)
        remedy = f"Did you mean {near[0]!r}? " if near else ""
        return ConfigError(file, "unknown key" + more, f"{remedy}Known here: {', '.join(known)}.", dotted)
    if detail["type"] == "missing":
        return ConfigError(
            file, "is missing" + more, "Every project needs project, task, source and teacher.", dotted
        )
    given = detail.get("input")
    shown = "" if isinstance(given, dict) else f" (given: {given!r})"
    message = detail["msg"].removeprefix("Value error, ")
    return ConfigError(
        file, f"{message}{shown}{more}", "See conf/template.yaml for what may stand here.", dotted
    )


def _known_keys(place: list[str]) -> Iterator[str]:
    model: type[BaseModel] = Project
    for part in place:
        found = model.model_fields.get(part)
        candidates = _models_in(found.annotation) if found else []
        if not candidates:
            return
        model = candidates[0]
    yield from (name for name in model.model_fields if not (model is Project and name in ("file", "home")))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
