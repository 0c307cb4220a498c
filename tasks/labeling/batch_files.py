"""The files of the Batch API: requests written as JSON lines within the provider's limits, results read back.

The format is OpenAI's (platform.openai.com/docs/guides/batch), where all lines of a file name one model. Holds
one line at a time, whatever the number of requests. Knows nothing of addresses or of the database.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from tasks.errors import RefusedTeacherError
from tasks.labeling.grouping import smaller
from tasks.labeling.ledger import Version
from tasks.labeling.requests import Item, Request

URL = "/v1/chat/completions"
TOKEN_SHOWN = 12  # characters of a batch's token in the names of its lines


@dataclass(frozen=True)
class Line:
    """A request as it is remembered while its batch waits: without the contents of its items."""

    number: int
    request: Request
    version: Version


@dataclass
class InputFile:
    """A file to upload: its name's `token`, its one model, its lines, and the most that they can cost."""

    token: str
    model: str
    content: IO[bytes]
    lines: list[Line] = field(default_factory=list)
    bytes: int = 0
    most_usd: float = 0.0


class InputFiles:
    """Writes requests into files, as many as are needed and as the money allows; iterate once.

    `refused` are requests that cannot be sent at all; `out_of_money` says that requests were left because they
    did not fit.

    Args:
        requests: consumed as files are filled.
        body: the body of a request; may refuse it.
        version: what the answers to a request are kept under.
        most_usd: the most that a request can cost.
        budget_usd: the most that all of them may cost together.
        most_requests: of a file.
        most_bytes: of a file, which holds one line in any case.
        new_token: names files apart.
    """

    def __init__(
        self,
        requests: Iterator[Request],
        body: Callable[[Request], dict[str, Any]],
        version: Callable[[Request], Version],
        most_usd: Callable[[Request], float],
        budget_usd: float | None,
        most_requests: int,
        most_bytes: int,
        new_token: Callable[[], str],
    ) -> None:
        self._requests, self._body, self._version = requests, body, version
        self._most_usd, self._left_usd = most_usd, budget_usd
        self._most_requests, self._most_bytes, self._new_token = most_requests, most_bytes, new_token
        self._drafts: dict[str, InputFile] = {}
        self.refused: list[tuple[Request, RefusedTeacherError]] = []
        self.out_of_money = False

    def __iter__(self) -> Iterator[InputFile]:
        """Each file at its beginning, as soon as it is full; closed when the next one is asked for."""
        try:
            for request, body, usd in self._affordable():
                model = str(body["model"])
                draft = self._drafts.get(model)
                written = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
                if draft is not None and not self._has_room(draft, written):
                    yield from self._finished(model)
                    draft = None
                if draft is None:
                    draft = InputFile(self._new_token(), model, tempfile.TemporaryFile())  # noqa: SIM115 - closed below
                    self._drafts[model] = draft
                self._add(draft, request, written, usd)
            for model in list(self._drafts):
                yield from self._finished(model)
        finally:
            for draft in self._drafts.values():
                draft.content.close()

    def _finished(self, model: str) -> Iterator[InputFile]:
        draft = self._drafts[model]
        draft.content.seek(0)
        yield draft
        draft.content.close()
        del self._drafts[model]

    def _affordable(self) -> Iterator[tuple[Request, dict[str, Any], float]]:
        divided: list[Request] = []
        while (request := divided.pop() if divided else next(self._requests, None)) is not None:
            usd = self._most_usd(request)
            if self._left_usd is not None and usd > self._left_usd:
                self.out_of_money = True
                return
            try:
                body = self._body(request)
            except RefusedTeacherError as error:
                if len(request.items) > 1:  # one of them is at fault, and its neighbours shall be asked about
                    divided += smaller(request, request.items)
                else:
                    self.refused.append((request, error))
                continue
            if self._left_usd is not None:
                self._left_usd -= usd
            yield request, body, usd

    def _has_room(self, draft: InputFile, body: bytes) -> bool:
        line = len(_line(custom_id(draft.token, len(draft.lines)), body))
        return len(draft.lines) < self._most_requests and draft.bytes + line <= self._most_bytes

    def _add(self, draft: InputFile, request: Request, body: bytes, usd: float) -> None:
        number = len(draft.lines)
        draft.bytes += draft.content.write(_line(custom_id(draft.token, number), body))
        draft.most_usd += usd
        draft.lines.append(Line(number, without_contents(request), self._version(request)))


def custom_id(token: str, number: int) -> str:
    """What a line is called at the provider: its batch's token and its number."""
    return f"{token[:TOKEN_SHOWN]}-{number}"


def _line(name: str, body: bytes) -> bytes:
    head = json.dumps({"custom_id": name, "method": "POST", "url": URL})
    return head[:-1].encode() + b', "body": ' + body + b"}\n"


def without_contents(request: Request) -> Request:
    """The request as far as its reply can be read with: whom it is about and what was offered."""
    items = tuple(Item(item.key, "", item.candidates) for item in request.items)
    return Request(items, request.pass_number, request.branch)


@dataclass(frozen=True)
class Result:
    """What became of one line: a body with its status, or a code and a message why it was not executed."""

    custom_id: str
    status: int | None
    body: Any
    code: str | None = None
    message: str | None = None


def results(content: IO[bytes]) -> Iterator[Result | None]:
    """The lines of a result file in their order; None for one that cannot be read."""
    for line in content:
        if line.strip():
            yield _result(line)


def _result(line: bytes) -> Result | None:
    try:
        row = json.loads(line)
        name = row["custom_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(name, str):
        return None
    response, error = row.get("response"), row.get("error")
    if isinstance(response, dict) and isinstance(response.get("status_code"), int):
        return Result(name, response["status_code"], response.get("body"))
    error = error if isinstance(error, dict) else {}
    return Result(name, None, None, str(error.get("code") or "batch_error"), str(error.get("message") or ""))
