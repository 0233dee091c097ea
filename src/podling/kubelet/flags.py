"""A component's command line, from the declarations of its settings, with pflag's rules and words.

`--name=value`, `--name value`, `--switch`, `--switch=false`, `-v 4`; `_` may stand for `-`. A flag given
twice counts last, lists and maps add up.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from podling.kubelet.settings import BOOL, Setting

HELP_WIDTH = 100
INDENT = " " * 6
NOT_HERE = frozenset(
    {
        "azure-container-registry-config", "boot-id-file", "config-dir", "container-hints",
        "contention-profiling", "cpu-cfs-quota", "cpu-cfs-quota-period", "cpu-manager-policy",
        "cpu-manager-policy-options", "cpu-manager-reconcile-period", "enable-controller-attach-detach",
        "enforce-node-allocatable", "event-burst", "event-qps", "experimental-allocatable-ignore-eviction",
        "exit-on-lock-contention", "hairpin-mode", "housekeeping-interval",
        "image-credential-provider-bin-dir", "image-credential-provider-config",
        "iptables-drop-bit", "iptables-masquerade-bit",
        "keep-terminated-pod-volumes", "kernel-memcg-notification", "kube-api-burst",
        "kube-api-content-type", "kube-api-qps", "kube-reserved-cgroup", "kubelet-cgroups",
        "local-storage-capacity-isolation", "lock-file", "log-flush-frequency", "logging-format",
        "machine-id-file", "make-iptables-util-chains", "master-service-namespace", "max-open-files",
        "memory-manager-policy", "minimum-container-ttl-duration", "node-status-max-images",
        "non-masquerade-cidr", "oom-score-adj", "protect-kernel-defaults", "provider-id", "qos-reserved",
        "register-schedulable", "registry-burst", "registry-qps", "reserved-cpus", "reserved-memory",
        "runonce", "runtime-cgroups", "runtime-request-timeout", "streaming-connection-idle-timeout",
        "system-cgroups", "system-reserved-cgroup", "tls-cipher-suites", "tls-min-version",
        "topology-manager-policy", "topology-manager-policy-options", "topology-manager-scope", "vmodule",
        "volume-plugin-dir", "volume-stats-agg-period",
    }
)  # fmt: skip
"""Flags of Kubernetes' kubelet that there is nothing behind here yet."""


class FlagError(ValueError):
    """A command line that is refused; the text is pflag's."""


def parse_flags(argv: Sequence[str], settings: Iterable[Setting]) -> dict[str, Any]:
    """Values by attribute, of the flags given. Raises FlagError."""
    known = {item.flag: item for item in settings if item.flag}
    values: dict[str, Any] = {}
    rest = list(argv)
    while rest:
        name, given, text = _split(rest.pop(0))
        item = known.get(name)
        if item is None:
            what = "unsupported flag" if name in NOT_HERE else "unknown flag"
            raise FlagError(f"{what}: --{name}")
        if not given and item.kind is BOOL:
            text = "true"
        elif not given:
            if not rest:
                raise FlagError(f"flag needs an argument: --{name}")
            text = rest.pop(0)
        try:
            value = item.kind.parse(text)
        except ValueError as err:
            raise FlagError(f'invalid argument "{text}" for "--{name}" flag: {err}') from err
        if item.attribute in values and item.kind.combine is not None:
            value = item.kind.combine(values[item.attribute], value)
        values[item.attribute] = value
    return values


def _split(word: str) -> tuple[str, bool, str]:
    """Name, whether a value is in the same word, and that value."""
    if word.startswith("--") and len(word) > 2:
        name, given, text = word[2:].partition("=")
        return name.replace("_", "-"), bool(given), text
    if word == "-v" or word.startswith("-v=") or (word.startswith("-v") and word[2:].isdigit()):
        text = word[2:].removeprefix("=")
        return "v", bool(text), text
    if word.startswith("-") and word not in ("-", "--"):
        raise FlagError(f"unknown shorthand flag: {word[1]!r} in {word}")
    raise FlagError(f"unknown command {word}")


def help_of(settings: Iterable[Setting]) -> str:
    """One paragraph a flag: its type, what it does, its default, its field of the configuration file."""
    return "\n".join(_paragraph(item) for item in sorted(settings, key=lambda s: s.flag) if item.flag)


def _paragraph(item: Setting) -> str:
    words = item.help
    if item.default is not dataclasses.MISSING and "[default:" not in words:
        default = item.kind.text(item.default) if item.default is not None else ""
        words += f" [default: {default}]" if default else ""
    if item.file:
        words += f" [file: {item.file}]"
    body = textwrap.fill(
        words,
        HELP_WIDTH,
        initial_indent=INDENT,
        subsequent_indent=INDENT,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return f"  --{item.flag} {item.kind.name}\n{body}"
