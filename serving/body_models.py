"""Base classes of the bodies of requests and responses."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Body(BaseModel):
    """Base of all bodies. Instances are immutable; unknown fields, NaN and infinity are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RequestBody(Body):
    """Base of request bodies: null in an optional field has the same meaning as leaving the field out."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the model, whose optional fields all accept null."""
        schema = handler(source)
        inner: Any = handler.resolve_ref_schema(schema)
        while inner["type"] != "model-fields":
            inner = inner["schema"]
        for field in inner["fields"].values():
            if field["schema"]["type"] == "default":
                field["schema"] = _null_is_default(field["schema"])
        return schema


def _null_is_default(schema: Any) -> Any:
    """Return the schema of an optional field, where null stands for the default."""
    inner = schema["schema"]
    if inner["type"] == "nullable" or (inner["type"] == "function-after" and inner["schema"]["type"] == "nullable"):
        return schema  # null has a meaning of its own, or was handled already
    factory, default = schema.get("default_factory"), schema.get("default")

    def replace(value: Any) -> Any:
        if value is not None:
            return value
        return default if factory is None else factory()

    nullable = core_schema.no_info_after_validator_function(replace, core_schema.nullable_schema(inner))
    return {**schema, "schema": nullable}
