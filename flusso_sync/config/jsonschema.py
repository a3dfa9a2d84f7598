"""The JSON Schema of ``flusso.yaml``, made from the models, for editors.

Draft 7, which every editor's YAML support knows.  A null means "not there" wherever a key may be left out, as it
does for the loader.  What one file alone cannot tell (two indexes of one name, a schema file that is missing) is
left to ``flussod check``.
"""

from __future__ import annotations

from typing import Any, Dict, List

from flusso_sync.config.models import Deployment

DRAFT = "http://json-schema.org/draft-07/schema#"


def config_schema() -> Dict[str, Any]:
    """The schema as plain values, its parts under ``definitions``."""
    made = Deployment.model_json_schema(by_alias=True, ref_template="#/definitions/{model}")
    parts = {name: _section(part) for name, part in made.pop("$defs").items()}
    return {
        "$schema": DRAFT,
        **_section(made),
        "title": "flusso.yaml",
        "definitions": parts,
    }


def _section(model: Dict[str, Any]) -> Dict[str, Any]:
    """A mapping of the file: keys that may be left out may be null, and titles made of names say nothing."""
    required = model.get("required", [])
    properties = {}
    for key, value in model["properties"].items():
        value = _tidied(value)
        properties[key] = value if key in required else _or_null(value)
    return {**model, "properties": properties}


def _tidied(value: Dict[str, Any]) -> Dict[str, Any]:
    # A sink's name is a pattern of its key, which must not make every other key welcome.
    named = value.pop("patternProperties", None)
    if named is not None:
        ((pattern, inner),) = named.items()
        value.update(additionalProperties=inner, propertyNames={"pattern": pattern})
    value.pop("title", None)
    if "default" in value and not isinstance(value["default"], (str, int, float, bool)):
        del value["default"]
    if "$ref" in value:
        # Beside a $ref nothing else counts in draft 7.
        value["allOf"] = [{"$ref": value.pop("$ref")}]
    return value


def _or_null(value: Dict[str, Any]) -> Dict[str, Any]:
    """The same, or null; what it tells people stays outside."""
    told: Dict[str, Any] = {key: value[key] for key in ("description", "default", "examples") if key in value}
    inner: Dict[str, Any] = {key: one for key, one in value.items() if key not in told}
    choices: List[Any] = inner["anyOf"] if list(inner) == ["anyOf"] else [inner]
    if {"type": "null"} not in choices:
        choices = [*choices, {"type": "null"}]
    return {**told, "anyOf": choices}
