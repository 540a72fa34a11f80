"""Every error that meshlore raises on purpose, on one page.

    MeshloreError                      exit code 1
     ├── ConfigError                   2   a setting, flag or variable is wrong
     ├── DataError                     3   a data source cannot be used
     ├── ModelError                    3   a model cannot be used
     ├── StateError                    4   the home folder is damaged, foreign or in use
     ├── DaemonNotRunning              5   no daemon answers on this device
     ├── SecurityError                 6
     │    ├── BadSignature                 bytes are not what their author signed
     │    ├── NotAMember                   no valid certificate of this mesh
     │    │    ├── OtherMesh                  ... but one of another mesh
     │    │    ├── Expired                    ... but one that is over, or not valid yet
     │    │    ├── Revoked                    ... but one that the root took back
     │    │    └── Misbehaved                 ... that counts now: its holder did too much wrong
     │    ├── Replayed                     a message or number that was seen before
     │    ├── FutureDated                  made later than now
     │    ├── InviteError                  an invite is malformed, used, expired or foreign
     │    └── BudgetSpent                  a release would cost more privacy than is left
     ├── DecodeError                   1   foreign bytes do not have the agreed form
     │    └── PacketError                  ... in a knowledge packet
     │         └── OtherSpace                ... of another space than this mesh's
     ├── PeerError                     1   one peer failed; another may do
     │    ├── Unreachable                  it cannot be dialled
     │    ├── PeerTimeout                  it did not answer in time
     │    ├── PeerGone                     the connection broke meanwhile
     │    └── Refused                      it answered no, with a code
     ├── TaskError                     7   a task has no result
     │    ├── InvalidTask                  the task itself is wrong
     │    ├── NoCapableNode                nobody in the mesh can do it
     │    └── DeadlineExceeded             nobody did it in time
     └── Cancelled                     130 the user or a shutdown stopped the work

A message says what is wrong and why; ``remedy`` says what to do about it.
"""

from __future__ import annotations

import re


class MeshloreError(Exception):
    """Root of the tree. ``str(error)`` is one line: cause, then remedy."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class ConfigError(MeshloreError):
    exit_code = 2


class DataError(MeshloreError):
    exit_code = 3


class ModelError(MeshloreError):
    exit_code = 3


class StateError(MeshloreError):
    exit_code = 4


class DaemonNotRunning(MeshloreError):
    exit_code = 5


class SecurityError(MeshloreError):
    exit_code = 6


class BadSignature(SecurityError):
    pass


class NotAMember(SecurityError):
    """No valid certificate. ``code`` is machine-readable (``"other-mesh"``, ``"expired"``, ...), empty for most."""

    def __init__(self, message: str, remedy: str = "", code: str = "") -> None:
        super().__init__(message, remedy)
        self.code = code


class OtherMesh(NotAMember):
    pass


class Expired(NotAMember):
    pass


class Revoked(NotAMember):
    pass


class Misbehaved(NotAMember):
    pass


class Replayed(SecurityError):
    pass


class FutureDated(SecurityError):
    pass


class InviteError(SecurityError):
    pass


class BudgetSpent(SecurityError):
    pass


class DecodeError(MeshloreError):
    pass


class PacketError(DecodeError):
    pass


class OtherSpace(PacketError):
    pass


class PeerError(MeshloreError):
    pass


class Unreachable(PeerError):
    """It cannot be dialled. ``code`` is one of `meshlore.mesh.reasons.Reason`, or empty."""

    def __init__(self, message: str, remedy: str = "", code: str = "") -> None:
        super().__init__(message, remedy)
        self.code = code


class PeerTimeout(PeerError):
    pass


class PeerGone(PeerError):
    pass


class Refused(PeerError):
    """The peer answered no. ``code`` is machine-readable (``"busy"``, ``"role"``, ...)."""

    def __init__(self, message: str, remedy: str = "", code: str = "refused") -> None:
        super().__init__(message, remedy)
        self.code = code


class TaskError(MeshloreError):
    exit_code = 7


class InvalidTask(TaskError):
    pass


class NoCapableNode(TaskError):
    pass


class DeadlineExceeded(TaskError):
    pass


class Cancelled(MeshloreError):
    exit_code = 130


def code_of(error: MeshloreError) -> str:
    """``Refused`` carries its own code; others are named after their class: InvalidTask -> "invalid-task"."""
    if isinstance(error, Refused):
        return error.code
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()
