"""The store's errors.

Exception
|-- StorageError  a store that cannot be opened, read or written: one line, exit 2
`-- LeaseLost     the claim on a trial is gone: somebody else owns it now; drop it quietly
"""

from __future__ import annotations


class StorageError(Exception):
    """A store that cannot be used. One line that names it (never its password) and says what to do.

    passing: it may be usable again in a moment, after a restart of its server say.
    """

    def __init__(self, line: str, *, passing: bool = False) -> None:
        super().__init__(line)
        self.passing = passing


class LeaseLost(Exception):
    """The claim with this token is gone, so its owner may write nothing more to the trial."""

    def __init__(self, token: int) -> None:
        super().__init__(f"claim {token} is gone: its trial belongs to somebody else now")
        self.token = token

    def __reduce__(self) -> tuple[type[LeaseLost], tuple[int]]:
        return LeaseLost, (self.token,)
