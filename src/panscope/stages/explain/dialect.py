"""How one server wants to be asked: some keys of the protocol have other names there, or none."""

from dataclasses import dataclass, field
from typing import Any

# OpenAI's thinking models have another name for the one, and only their own value of the other.
OTHERWISE = {"max_tokens": "max_completion_tokens", "temperature": None}


@dataclass(frozen=True, slots=True)
class Dialect:
    """The keys that a server has refused so far."""

    refused: set[str] = field(default_factory=set)

    def spoken(self, question: dict[str, Any]) -> dict[str, Any]:
        """Write a question as this server takes it.

        >>> Dialect({"max_tokens", "temperature"}).spoken({"max_tokens": 9, "temperature": 0})
        {'max_completion_tokens': 9}
        """
        names = {key: OTHERWISE[key] if key in self.refused else key for key in question}
        return {name: question[key] for key, name in names.items() if name}

    def learn(self, sent: dict[str, Any], refusal: Any) -> bool:
        """Note the key that a refusal names; whether the question can be asked otherwise."""
        error = refusal.get("error") if isinstance(refusal, dict) else None
        key = error.get("param") if isinstance(error, dict) else None
        if key not in OTHERWISE or key not in sent:
            return False
        self.refused.add(str(key))
        return True
