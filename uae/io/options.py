"""What frozen models of options have in common. A room declares its own; ``uae.pipeline.settings`` reads them from params.yaml.

There are no defaults: params.yaml is the one place where a value stands, and a missing key is an error.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
NearDuplicate = Annotated[float, Field(ge=0.05, le=1)]  # uae.text.near_duplicates finds no pairs below


class Options(BaseModel):
    """A frozen model that refuses unknown keys, NaN and infinity, and true or false where a number is expected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_1(cls, value: Any, info: ValidationInfo) -> Any:
        parts = value if isinstance(value, list) else [value]
        field = cls.model_fields.get(info.field_name or "")
        if field is not None and field.annotation is not bool and any(isinstance(part, bool) for part in parts):
            raise ValueError("true and false are no value of this key")
        return value
