"""What settings of networks and trainings have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self


class Config:
    """Base of frozen dataclasses that are kept in files."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild settings from ``to_dict``; unknown names raise ValueError."""
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown settings {sorted(unknown)} of {cls.__name__}; expected some of "
                             f"{sorted(cls.__dataclass_fields__)}")
        return cls(**values)
