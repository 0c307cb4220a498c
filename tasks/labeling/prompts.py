"""Builds the messages that ask about items in one pass, reads their reply, and names the version of what was asked.

Knows nothing of clients or the ledger. What repeats from request to request stands first, so that a provider's
prompt cache can serve it; the items stand last.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tasks.labeling import forms, listing, wording
from tasks.labeling.context import candidates_text, shared_examples
from tasks.labeling.delimiting import code_of, decided_items, mark, one_item, several_items
from tasks.labeling.images import SIDE, data_url, most_image_tokens
from tasks.labeling.listing import ELSEWHERE, Offer
from tasks.labeling.replies import Answer, parse_replies, parse_reply
from tasks.labeling.requests import Request
from tasks.taxonomy import Taxonomy, split

TEMPLATE_VERSION = 2  # raise it with every change of wording: old answers stay, items are asked anew
WHOLE = ""  # the branch of a request that offers the whole taxonomy in spite of stages and shortlists
REASON_TOKENS, FIELD_TOKENS = 100, 40  # the most of an answer beside its label
TOKENS_PER_MESSAGE = 50
IMAGE_TOKENS = most_image_tokens(SIDE)

Message = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """How items are asked about: instructions, labels with their instructions, the form of the answer.

    Attributes:
        items_per_call: above 1 the answers are an array, also where a request holds a single item.
        stages: with 2 a request without a branch asks for the first level, and one with a branch for a leaf below.
        shortlist: how many candidates an item brings; the whole list is then in no prompt.
        examples: how many decided items one item brings.
        reasons: whether an answer gives its reason.
        image_side: pixels to which a larger image is scaled down.

    All of them are part of the version. Which candidates and examples an item brings is not: a newly decided item
    would otherwise ask about everything again.
    """

    taxonomy: Taxonomy
    instructions: str
    modality: str = "text"
    structured: bool = True
    max_output_tokens: int = 300  # an item; its reasoning included, where a model reasons
    items_per_call: int = 1
    stages: int = 1
    shortlist: int | None = None
    examples: int = 0
    reasons: bool = True
    image_side: int = SIDE
    _systems: dict[tuple[Any, ...], str] = field(default_factory=dict, compare=False, repr=False)
    _offers: dict[tuple[Any, ...], Offer] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def version(self) -> str:
        """A hash of everything that changes what the teacher reads; final answers are kept under it."""
        parts = [TEMPLATE_VERSION, self.taxonomy.version, self.instructions, self.modality, self.structured]
        parts += [self.items_per_call, self.stages, self.shortlist, self.examples, self.reasons]
        return _hash([*parts, self.image_side if self.modality == "image" else None])

    def version_of(self, request: Request) -> str:
        """The version that answers to a request are kept under where `follow_up` continues them; else it is `version`.

        One and the same for a first stage, a branch and a shortlist, so that the newest of them says where an item
        has got to.
        """
        in_stages = self.stages == 2 and len(self.taxonomy.levels) > 1
        if request.branch != WHOLE and (in_stages or self.shortlist):
            return _hash([self.version, "to be continued"])
        return self.version

    def follow_up(self, request: Request, answer: Answer) -> str | None:
        """The branch of the request that continues an answer; None when the answer is final or a failure.

        After a first stage its label, when there are others below. After a branch or a shortlist `WHOLE`, when the
        teacher said that the label stands elsewhere: then the item is asked about with the whole list, and that
        answer is final. Read again out of the ledger, an answer may be given with a request of the first stage.
        """
        if request.branch == WHOLE or answer.label is None:
            return None
        if answer.label == ELSEWHERE:
            return WHOLE
        if request.branch is None and self.version_of(request) != self.version:
            return None if answer.label in self.taxonomy.leaf_index else answer.label
        return None

    def response_format(self, request: Request) -> dict[str, Any] | None:
        """The JSON schema of the answer where the provider enforces one, else None."""
        if not self.structured:
            return None
        names = None if self._kind(request) == "short" else self._offer(request).names
        if self._is_array(request):
            return forms.answers_form(names, self.reasons, len(request.items))
        return forms.answer_form(names, self.reasons)

    def messages(self, request: Request) -> list[Message]:
        """The static part of the pass, candidates and examples if there are any, and last the items.

        Texts stand between marks that no item can write, images between the same marks.

        Raises:
            RefusedTeacherError: an image cannot be read.
        """
        said: list[Message] = [{"role": "system", "content": self.system(request)}]
        code = self._code(request)
        if context := self._context(request, code):
            # Some models' templates want users and assistants to take turns.
            said += [{"role": "user", "content": context}, {"role": "assistant", "content": "OK"}]
        return [*said, {"role": "user", "content": self._items(request, code)}]

    def most_tokens(self, request: Request) -> int:
        """No fewer tokens than the prompt will have: real text needs more than two bytes a token."""
        size = self._static_bytes(request) // 2 + TOKENS_PER_MESSAGE
        if self.shortlist or self.examples:
            size += len(self._context(request, self._code(request)).encode()) // 2 + 2 * TOKENS_PER_MESSAGE
        for item in request.items:
            if isinstance(item.content, bytes):
                size += most_image_tokens(self.image_side)
            else:
                size += len(item.content.encode()) // 2
            size += TOKENS_PER_MESSAGE
        return size

    def most_output_tokens(self, request: Request) -> int:
        """The most tokens that the reply may have: the first item's share may be thought, the others' is answers."""
        entry = (
            self._offer(request).longest_bytes // 2 + FIELD_TOKENS + (REASON_TOKENS if self.reasons else 0)
        )
        return self.max_output_tokens + (len(request.items) - 1) * min(self.max_output_tokens, entry)

    def typical_reply(self, request: Request, reason_characters: int) -> str:
        """A reply as long as one may be expected: a name of middling length, and a reason of so many characters."""
        items = len(request.items) if self._is_array(request) else None
        return forms.typical(self._offer(request).names, items, reason_characters if self.reasons else 0)

    def parse(self, request: Request, text: str | None, finished: bool) -> tuple[Answer, ...]:
        """What a reply says about each item of the request, in their order; needs no contents of items.

        A label is a leaf, or one of the first level in a first stage, or `ELSEWHERE` after a branch or a shortlist
        (see `follow_up`). Otherwise the error class says why there is none.
        """
        offer = self._offer(request)
        if self._is_array(request):
            return parse_replies(text, offer, len(request.items), finished)
        return (parse_reply(text, offer, finished),)

    def system(self, request: Request) -> str:
        """The static part, byte by byte the same for all requests of a pass, a branch and a form."""
        several = self._is_array(request)
        place = (self._kind(request), request.branch, request.pass_number, several)
        if place not in self._systems:
            data = (wording.SEVERAL if several else wording.ONE)[self.modality] + (
                wording.EXAMPLES if self.examples else ""
            )
            task = (self.instructions.strip(), self._task(request), data, forms.words(self.reasons, several))
            self._systems[place] = "\n\n".join(task)
        return self._systems[place]

    def _task(self, request: Request) -> str:
        kind, offer, taxonomy = self._kind(request), self._offer(request), self.taxonomy
        sign = listing.sign(taxonomy).strip()
        if kind == "short":
            return wording.SHORT.format(sign=sign, elsewhere=offer.name_of[ELSEWHERE])
        rule = wording.LABELS.format(sign=sign)
        if kind == "branch":
            lines = [listing.listing(taxonomy, offer, request.pass_number, {taxonomy.other or ELSEWHERE})]
            if taxonomy.other is not None:
                lines.append(f"- {taxonomy.other}{listing.sign(taxonomy)} {wording.NOWHERE}")
            lines.append(
                f"- {offer.name_of[ELSEWHERE]}{listing.sign(taxonomy)} {wording.OUTSIDE.format(request.branch)}"
            )
            return "\n\n".join((rule + wording.HEADINGS, "\n".join(lines)))
        if any(len(split(label)) > 1 for label in offer.labels):
            rule += wording.HEADINGS
        return "\n\n".join((rule, listing.listing(taxonomy, offer, request.pass_number)))

    def _context(self, request: Request, code: str) -> str:
        """Candidates and examples; empty where there are none."""
        kind, offer, items = self._kind(request), self._offer(request), request.items
        parts = []
        if kind == "short":
            parts.append(candidates_text(self.taxonomy, offer, items, request.pass_number))
        if self.examples:
            most = max(self.examples, len(items))
            if shown := shared_examples(self.taxonomy, offer, items, kind == "first", most):
                parts.append(f"Decided examples:\n{decided_items(code, shown)}")
        return "\n\n".join(parts)

    def _items(self, request: Request, code: str) -> str | list[dict[str, Any]]:
        contents, several = [item.content for item in request.items], self._is_array(request)
        texts = [content for content in contents if isinstance(content, str)]
        if len(texts) == len(contents):
            return several_items(code, texts) if several else one_item(code, texts[0])
        parts: list[dict[str, Any]] = []
        for number, content in enumerate(contents, start=1):
            if several or isinstance(content, bytes):
                parts.append({"type": "text", "text": mark(code, number) if several else "The item:"})
            if isinstance(content, bytes):
                url = data_url(content, self.image_side)
                parts.append({"type": "image_url", "image_url": {"url": url}})
            else:
                parts.append({"type": "text", "text": content if several else one_item(code, content)})
        return parts

    def _code(self, request: Request) -> str:
        texts = [item.content for item in request.items if isinstance(item.content, str)]
        texts += [text for item in request.items for text, _ in item.examples]
        return code_of((item.key for item in request.items), texts)

    def _kind(self, request: Request) -> str:
        """What a request offers: `first` level, `branch`, `short`list or `whole` taxonomy."""
        if request.branch:
            return "branch"
        if request.branch is None:
            if self.stages == 2 and len(self.taxonomy.levels) > 1:
                return "first"
            # An item that brought no candidates is asked with the whole list, and so are its neighbours.
            if self.shortlist and all(item.candidates for item in request.items):
                return "short"
        return "whole"

    def _is_array(self, request: Request) -> bool:
        return self.items_per_call > 1 or len(request.items) > 1

    def _offer(self, request: Request) -> Offer:
        kind = self._kind(request)
        place = (kind, request.branch or None)
        if place not in self._offers:
            if request.branch:
                offer = listing.branch(self.taxonomy, request.branch)
            else:
                offer = _OFFERS[kind](self.taxonomy)
            self._offers[place] = offer
        return self._offers[place]

    def _static_bytes(self, request: Request) -> int:
        form = self.response_format(request)
        return len(self.system(request).encode()) + (len(json.dumps(form).encode()) if form else 0)


_OFFERS = {"first": listing.first_level, "short": listing.shortlist, "whole": listing.whole}


def parameters_hash(temperature: float | None, max_output_tokens: int) -> str:
    """The name under which answers given with these sampling parameters are kept."""
    return _hash([temperature, max_output_tokens])


def _hash(parts: list[Any]) -> str:
    return hashlib.blake2b(json.dumps(parts, ensure_ascii=False).encode(), digest_size=8).hexdigest()
