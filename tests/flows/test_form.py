"""The schema behind the UI's form: Prefect shows its descriptions and refuses what it forbids before a run exists."""

from collections.abc import Iterator
from typing import Any

import pytest
from prefect import Flow
from prefect.utilities.callables import parameter_schema

from flows.evaluate import evaluate
from flows.relabel import relabel
from flows.rlaif import rlaif

# Weights that may have either sign.
UNBOUNDED = {"likelihood_scale", "unfinished_penalty", "length_penalty"}

Place = tuple[str, ...]


def _fields(schema: dict[str, Any], node: dict[str, Any], place: Place = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every field below `node` with what its type says about it."""
    if "$ref" in node:
        node = {**schema["definitions"][node["$ref"].rsplit("/", 1)[-1]], **node}
    if place:
        yield place, node
    for name, below in node.get("properties", {}).items():
        yield from _fields(schema, below, (*place, name))
    for branch in [*node.get("anyOf", []), *([node["items"]] if "items" in node else [])]:
        if "$ref" in branch:
            yield from _fields(schema, branch, place)


@pytest.mark.parametrize("flow", [rlaif, relabel, evaluate], ids=lambda flow: flow.name)
def test_the_form_explains_every_field_and_knows_its_bounds(flow: Flow[..., Any]) -> None:
    schema = parameter_schema(flow).model_dump()
    fields = list(_fields(schema, schema))
    assert len(fields) > 50
    for place, field in fields:
        name = ".".join(place)
        assert field.get("description"), name
        assert "<" not in field["description"], f"{name}: the form reads descriptions as HTML"
        if field.get("type") == "object" and "properties" in field:
            assert field["additionalProperties"] is False, name
        if field.get("type") in ("integer", "number") and place[-1] not in UNBOUNDED:
            assert "minimum" in field or "exclusiveMinimum" in field, name
    if "arms" in schema["properties"]:
        assert schema["properties"]["arms"]["minItems"] == 1
