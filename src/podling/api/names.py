"""Which names Kubernetes accepts, and what it says of those it does not.

Each `check_*` returns the faults of a text as Kubernetes words them, an empty list for none. They
know nothing of fields: `podling.api.validation` adds the path.
"""

from __future__ import annotations

import ipaddress
import random
import re
from typing import Final

LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN: Final = rf"{LABEL}(\.{LABEL})*"
LABEL_1035: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"
QUALIFIED: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
CONFIG_KEY: Final = "[-._a-zA-Z0-9]+"
HTTP_HEADER: Final = "[-A-Za-z0-9]+"
MAX_LABEL: Final = 63
MAX_SUBDOMAIN: Final = 253

_LABEL = re.compile(LABEL)
_SUBDOMAIN = re.compile(SUBDOMAIN)
_LABEL_1035 = re.compile(LABEL_1035)
_QUALIFIED = re.compile(QUALIFIED)
_CONFIG_KEY = re.compile(CONFIG_KEY)
_HTTP_HEADER = re.compile(HTTP_HEADER)

# What the server appends to generateName: no vowels, so that no word appears, and no 0, 1, 3.
_RANDOM_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
_RANDOM_LENGTH: Final = 5


def max_length(limit: int) -> str:
    return f"must be no more than {limit} bytes"


def in_range(low: int, high: int) -> str:
    return f"must be between {low} and {high}, inclusive"


def _regex(message: str, pattern: str, *examples: str) -> str:
    # The two blanks before `or` are upstream's, and people search for the whole sentence.
    shown = " or ".join(f"'{e}', " for e in examples)
    return f"{message} (e.g. {shown}regex used for validation is '{pattern}')"


def check_label(text: str) -> list[str]:
    """RFC 1123 label: names of namespaces, containers, volumes, hostnames."""
    faults = [] if len(text) <= MAX_LABEL else [max_length(MAX_LABEL)]
    if _LABEL.fullmatch(text):
        return faults
    if _SUBDOMAIN.fullmatch(text):
        return [*faults, "must not contain dots"]
    message = (
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
        "and must start and end with an alphanumeric character"
    )
    return [*faults, _regex(message, LABEL, "my-name", "123-abc")]


def check_subdomain(text: str) -> list[str]:
    """RFC 1123 subdomain: names of most kinds."""
    faults = [] if len(text) <= MAX_SUBDOMAIN else [max_length(MAX_SUBDOMAIN)]
    if _SUBDOMAIN.fullmatch(text):
        return faults
    message = (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
        "and must start and end with an alphanumeric character"
    )
    return [*faults, _regex(message, SUBDOMAIN, "example.com")]


def check_label_1035(text: str) -> list[str]:
    """RFC 1035 label, which starts with a letter: names of services."""
    faults = [] if len(text) <= MAX_LABEL else [max_length(MAX_LABEL)]
    if _LABEL_1035.fullmatch(text):
        return faults
    message = (
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', "
        "start with an alphabetic character, and end with an alphanumeric character"
    )
    return [*faults, _regex(message, LABEL_1035, "my-name", "abc-123")]


def check_path_segment(text: str) -> list[str]:
    """What may stand between two slashes of a URL: the least every name must keep."""
    if text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{c}'" for c in "/%" if c in text]


def check_qualified_name(text: str) -> list[str]:
    """`[prefix/]name`: keys of labels and annotations, resource names, taint keys."""
    if text.count("/") > 1:
        return [
            f"a qualified name {_qualified_fault()} with an optional DNS subdomain prefix and '/' "
            "(e.g. 'example.com/MyName')"
        ]
    faults = []
    prefix, slash, name = text.rpartition("/")
    if slash and not prefix:
        faults.append("prefix part must be non-empty")
    elif slash:
        faults += [f"prefix part {fault}" for fault in check_subdomain(prefix)]
    if not name:
        faults.append("name part must be non-empty")
    elif len(name) > MAX_LABEL:
        faults.append(f"name part {max_length(MAX_LABEL)}")
    if not _QUALIFIED.fullmatch(name):
        faults.append(f"name part {_qualified_fault()}")
    return faults


def _qualified_fault() -> str:
    message = (
        "must consist of alphanumeric characters, '-', '_' or '.', "
        "and must start and end with an alphanumeric character"
    )
    return _regex(message, QUALIFIED, "MyName", "my.name", "123-abc")


def check_label_value(text: str) -> list[str]:
    faults = [] if len(text) <= MAX_LABEL else [max_length(MAX_LABEL)]
    if not text or _QUALIFIED.fullmatch(text):
        return faults
    message = (
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
        "and must start and end with an alphanumeric character"
    )
    return [*faults, _regex(message, f"({QUALIFIED})?", "MyValue", "my_value", "12345")]


def check_env_name(text: str) -> list[str]:
    """An environment variable's name, by the relaxed rule that is the default since Kubernetes 1.32."""
    if not text:
        return ["environment variable name must be non-empty"]
    if all(" " <= c <= "~" and c != "=" for c in text):
        return []
    return [
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
    ]


def check_config_key(text: str) -> list[str]:
    """A key of a ConfigMap or Secret: it becomes a file name."""
    faults = [] if len(text) <= MAX_SUBDOMAIN else [max_length(MAX_SUBDOMAIN)]
    if not _CONFIG_KEY.fullmatch(text):
        message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
        faults.append(_regex(message, CONFIG_KEY, "key.name", "KEY_NAME", "key-name"))
    if text in (".", ".."):
        faults.append(f"must not be '{text}'")
    elif text.startswith(".."):
        faults.append("must not start with '..'")
    return faults


def check_port_name(text: str) -> list[str]:
    """IANA service name, RFC 6335 section 5.1, lower case only."""
    faults = [] if len(text) <= 15 else [max_length(15)]
    if not re.fullmatch("[-a-z0-9]+", text):
        faults.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", text):
        faults.append("must contain at least one letter (a-z)")
    if "--" in text:
        faults.append("must not contain consecutive hyphens")
    if text.startswith("-") or text.endswith("-"):
        faults.append("must not begin or end with a hyphen")
    return faults


def check_port_number(port: int) -> list[str]:
    return [] if 1 <= port <= 65535 else [in_range(1, 65535)]


def check_http_header_name(text: str) -> list[str]:
    if _HTTP_HEADER.fullmatch(text):
        return []
    message = "a valid HTTP header must consist of alphanumeric characters or '-'"
    return [_regex(message, HTTP_HEADER, "X-Header-Name")]


def check_ip(text: str) -> list[str]:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]
    return []


def generate_name(base: str) -> str:
    """Return `base` with five random characters, cut so that the whole fits an RFC 1123 label."""
    return base[: MAX_LABEL - _RANDOM_LENGTH] + "".join(random.choices(_RANDOM_ALPHABET, k=_RANDOM_LENGTH))
