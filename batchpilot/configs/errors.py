"""What goes wrong with a configuration: errors for what cannot be meant, warnings for what is unusual."""

from __future__ import annotations

from collections.abc import Callable, Mapping


class ConfigError(ValueError):
    """A configuration that cannot be meant: an unknown key, a value that is not allowed, a contradiction.

    Attributes:
        problems: one message per offending key, for answers that name the field.
    """

    def __init__(self, message: str, problems: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.problems: dict[str, str] = dict(problems or {})

    @classmethod
    def of(cls, problems: Mapping[str, str]) -> ConfigError:
        """An error that tells every problem at once, one a line.

        Args:
            problems: message by key, at least one.
        """
        return cls("\n".join(problems.values()), problems)

    def located(self, where: Callable[[str], str]) -> ConfigError:
        """The same error with the place of each problem added.

        Args:
            where: gives the place of a key, "file tuner.yaml, line 7".
        """
        if not self.problems:
            return self
        return ConfigError.of({key: f"{message} ({where(key)})" for key, message in self.problems.items()})


class ConfigWarning(UserWarning):
    """A value outside its recommended range: allowed, and worth a second look.

    Silence it with `warnings.simplefilter("ignore", ConfigWarning)`.

    Attributes:
        key: the key that holds the value; empty when the warning is about no single key.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key
