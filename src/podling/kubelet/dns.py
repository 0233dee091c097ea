"""A pod's resolver configuration from its dnsPolicy and dnsConfig.

Kubernetes documentation, "DNS for Services and Pods", "Pod's DNS Policy". Pure over the text of the
node's resolv.conf.
"""

from __future__ import annotations

from dataclasses import dataclass

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.config import KubeletConfig
from podling.runtime.cri import messages as cri

MAX_NAMESERVERS = 3
MAX_SEARCHES = 32
MAX_SEARCH_CHARS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvConf:
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> ResolvConf:
    """Read `man 5 resolv.conf`; the last `search` line wins, unknown lines are ignored."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or line.lstrip()[0] in "#;":
            continue
        match words[0]:
            case "nameserver" if len(words) > 1:
                servers.append(words[1])
            case "search" | "domain":
                searches = [word.removesuffix(".") or "." for word in words[1:]]
            case "options":
                options = words[1:]
    return ResolvConf(servers=tuple(servers), searches=tuple(searches), options=tuple(options))


def dns_config(pod: core_v1.Pod, config: KubeletConfig, host: ResolvConf) -> cri.DNSConfig:
    """What goes into the pod's /etc/resolv.conf, cut to the limits upstream keeps."""
    spec = names.pod_spec(pod)
    policy = spec.dns_policy or "ClusterFirst"
    # Upstream: a pod in the node's network resolves as the node does, unless it asks otherwise.
    if policy == "ClusterFirst" and (spec.host_network or not config.cluster_dns):
        policy = "Default"
    if policy == "ClusterFirstWithHostNet":
        policy = "ClusterFirst" if config.cluster_dns else "Default"
    match policy:
        case "ClusterFirst":
            namespace, domain = names.pod_namespace(pod), config.cluster_domain
            result = cri.DNSConfig(
                servers=list(config.cluster_dns),
                searches=[f"{namespace}.svc.{domain}", f"svc.{domain}", domain, *host.searches],
                options=["ndots:5"],
            )
        case "None":
            result = cri.DNSConfig()
        case _:
            result = cri.DNSConfig(
                servers=list(host.servers), searches=list(host.searches), options=list(host.options)
            )
    return _limit(_merge(result, spec.dns_config))


def _merge(base: cri.DNSConfig, extra: core_v1.PodDNSConfig | None) -> cri.DNSConfig:
    if extra is None:
        return base
    options = dict(option.partition(":")[::2] for option in base.options)
    for option in extra.options:
        options[option.name or ""] = option.value or ""
    return cri.DNSConfig(
        servers=list(dict.fromkeys([*base.servers, *extra.nameservers])),
        searches=list(dict.fromkeys([*base.searches, *extra.searches])),
        options=[f"{name}:{value}" if value else name for name, value in options.items()],
    )


def _limit(dns: cri.DNSConfig) -> cri.DNSConfig:
    searches = list(dict.fromkeys(dns.searches))[:MAX_SEARCHES]
    while searches and len(" ".join(searches)) > MAX_SEARCH_CHARS:
        searches.pop()
    return cri.DNSConfig(servers=dns.servers[:MAX_NAMESERVERS], searches=searches, options=dns.options)
