"""The form by which a person starts a job in the Prefect UI: made of the flow's signature, in a person's words.

Knows nothing of deployments; what it returns is also what the server checks parameters against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect import Flow


def form_of(flow: Flow[..., Any], project_file: str) -> dict[str, Any]:
    """The JSON schema of a flow's parameters for one project's deployment.

    The project is chosen already and the server refuses any other, as it does unknown fields. A number or a text that
    may be left out is an empty field, where the UI would have people choose between `int` and `None` first.
    """
    from prefect.utilities.callables import parameter_schema

    form = parameter_schema(flow).model_dump(exclude_unset=True)
    form["additionalProperties"] = False
    for name, field in form["properties"].items():
        kinds = [kind for kind in field.get("anyOf", []) if kind.get("type") != "null"]
        # A switch has no third position for "as the project says", so that choice stays.
        if len(kinds) == 1 and kinds[0].get("type") != "boolean":
            del field["anyOf"]
            field |= kinds[0]
            field.pop("default", None)
        field["title"] = name.removesuffix("_usd").replace("_", " ").capitalize()
        field["description"] = field["description"][:1].upper() + field["description"][1:]
    form["properties"]["project"] |= {"enum": [project_file], "default": project_file}
    return form
