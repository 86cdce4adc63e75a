"""What all mappings of an option file have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class OptionMapping(BaseModel):
    """A mapping of the option file; ``~`` stands for a key's default."""

    # BasicSR's model_type is a key like any other; pydantic would reserve the prefix.
    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_means_default(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {key: value for key, value in data.items() if value is not None or key not in optional}


class Section(OptionMapping):
    """A mapping whose keys are all known here; others are errors."""

    model_config = ConfigDict(extra="forbid")
