"""What a command answers when it cannot: in Docker's words, since Docker's users read them."""

from __future__ import annotations

EXIT_REFUSED = 125
"""`docker run` itself failed; nothing of the container's ran."""
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class HandError(Exception):
    """The message is for the user. `exit_code` is what `podling run` and `podling exec` end with."""

    def __init__(self, message: str, exit_code: int = EXIT_REFUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NoSuchContainerError(HandError):
    def __init__(self, wanted: str) -> None:
        super().__init__(f"No such container: {wanted}")


def command_error(problem: str) -> HandError:
    """From what is wrong with a command (`container_start.explain`), with the code a shell would give."""
    found = not problem.endswith(("not found in $PATH", "no such file or directory"))
    denied = problem.endswith(("permission denied", "is a directory"))
    code = EXIT_NOT_EXECUTABLE if denied else EXIT_REFUSED if found else EXIT_NOT_FOUND
    return HandError(problem, code)
