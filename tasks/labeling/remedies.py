"""What to do when a teacher's replies keep failing in the same way.

Knows the names of failures and of settings, nothing else.
"""

from __future__ import annotations

LOOK = "Look at the calls table; check teacher.model, teacher.base_url and the taxonomy."
"""Where nothing can be said of the failure itself."""

_REMEDIES = {
    "empty": "Raise teacher.max_output_tokens: a model that reasons may have used all of them for thinking.",
    "html": "Check teacher.base_url: a gateway or a web page answered.",
    "truncated": "Raise teacher.max_output_tokens, or lower labeling.prompt.items_per_call.",
    "too_long": "The model does not stop by itself: lower teacher.max_output_tokens, or choose another model.",
    "not_json": "The model answers in prose: where the provider takes a JSON schema, teacher.structured must be true, "
    "and choose a model that keeps to a form where it does not.",
    "no_label": "The model leaves out the label: where the provider takes a schema, teacher.structured must be true.",
    "two_labels": "The model names several labels: say in task.instructions which one goes before another.",
    "unknown_label": "The model invents labels: where the provider takes a schema, teacher.structured must be true; "
    "without task.other it has no other way to say that none fits.",
    "missing": "The model loses count of the items: lower labeling.prompt.items_per_call.",
    "repeated": "The model loses count of the items: lower labeling.prompt.items_per_call.",
    "misnumbered": "The model loses count of the items: lower labeling.prompt.items_per_call.",
    "teacher_refused": "The model refuses: say in task.instructions what the items are, or choose another model.",
}


def remedy(error_class: str) -> str:
    """What to do when replies keep failing this way; empty where nothing general can be said."""
    return _REMEDIES.get(error_class, "")
