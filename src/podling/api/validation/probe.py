"""Probes and lifecycle hooks of a container."""

from __future__ import annotations

from typing import Any, Final

from podling.api import names
from podling.api.validation.faults import (
    Faults,
    Object,
    check_not_negative,
    check_text,
    forbidden,
    invalid,
    required,
    unsupported,
)

_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_COUNTS: Final = (
    "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold",
)  # fmt: skip
_SCHEMES: Final = ("HTTP", "HTTPS")
_PLAIN_SIGNALS: Final = (
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS "
    "TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX"
)
_SIGNALS: Final = frozenset(
    [f"SIG{name}" for name in _PLAIN_SIGNALS.split()]
    + [f"SIGRTMIN+{n}" for n in range(1, 16)]
    + [f"SIGRTMAX-{n}" for n in range(1, 15)]
)


def check_probes(container: Object, path: str, grace_s: int | None, faults: Faults) -> None:
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if probe is None:
            continue
        where = f"{path}.{name}"
        _check_handler(probe, where, grace_s, faults)
        for count in _COUNTS:
            check_not_negative(f"{where}.{count}", probe.get(count), faults)
        grace = probe.get("terminationGracePeriodSeconds")
        if name == "readinessProbe":
            if grace is not None:
                detail = "must not be set for readinessProbes"
                faults.append(invalid(f"{where}.terminationGracePeriodSeconds", grace, detail))
        else:
            if grace is not None and grace <= 0:
                faults.append(
                    invalid(f"{where}.terminationGracePeriodSeconds", grace, "must be greater than 0")
                )
            if probe.get("successThreshold", 1) != 1:
                faults.append(invalid(f"{where}.successThreshold", probe["successThreshold"], "must be 1"))


def check_lifecycle(lifecycle: Object, path: str, grace_s: int | None, faults: Faults) -> None:
    for name in ("postStart", "preStop"):
        if name in lifecycle:
            _check_handler(lifecycle[name], f"{path}.{name}", grace_s, faults)
    signal = lifecycle.get("stopSignal")
    if signal is not None and signal not in _SIGNALS:
        faults.append(unsupported(f"{path}.stopSignal", signal, sorted(_SIGNALS)))


def _check_handler(handler: Object, path: str, grace_s: int | None, faults: Faults) -> None:
    given = [name for name in _HANDLERS if name in handler]
    if not given:
        faults.append(required(path, "must specify a handler type"))
        return
    for extra in given[1:]:
        faults.append(forbidden(f"{path}.{extra}", "may not specify more than 1 handler type"))
    action, where = handler[given[0]], f"{path}.{given[0]}"
    match given[0]:
        case "exec":
            if not action.get("command"):
                faults.append(required(f"{where}.command"))
        case "httpGet":
            _check_http(action, where, faults)
        case "tcpSocket" | "grpc":
            check_port(action.get("port", 0), f"{where}.port", faults)
        case "sleep":
            seconds = action.get("seconds", 0)
            if grace_s is not None and not 0 <= seconds <= grace_s:
                detail = f"must be non-negative and less than terminationGracePeriodSeconds ({grace_s})"
                faults.append(invalid(where, seconds, detail))


def _check_http(action: Object, path: str, faults: Faults) -> None:
    if not action.get("path"):
        faults.append(required(f"{path}.path"))
    check_port(action.get("port", 0), f"{path}.port", faults)
    if action.get("scheme") not in _SCHEMES:
        faults.append(unsupported(f"{path}.scheme", action.get("scheme", ""), _SCHEMES))
    for header in action.get("httpHeaders", ()):
        name = header.get("name", "")
        check_text(f"{path}.httpHeaders", name, names.check_http_header_name(name), faults)


def check_port(port: Any, path: str, faults: Faults) -> None:
    """Check a port given by number or by name."""
    problems = names.check_port_name(port) if isinstance(port, str) else names.check_port_number(port)
    check_text(path, port, problems, faults)
