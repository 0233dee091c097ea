"""The pages for Prometheus: /metrics, /metrics/resource, /metrics/cadvisor, /metrics/probes.

Names are upstream's (`pkg/kubelet/metrics`, `pkg/kubelet/prober`, cAdvisor).
"""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from podling.api import core_v1
from podling.api.prometheus import Family, page
from podling.api.times import parse_time
from podling.kubelet.config import KubeletConfig
from podling.kubelet.probes.counts import ProbeCounts
from podling.runtime.cri import messages as cri

NS = 1e9


def kubelet_metrics(
    config: KubeletConfig,
    pods: Sequence[core_v1.Pod],
    sandboxes: cri.ListPodSandboxResponse,
    containers: cri.ListContainersResponse,
) -> str:
    running = Family("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox")
    ready = cri.PodSandboxState.SANDBOX_READY
    running.add(sum(sandbox.state is ready for sandbox in sandboxes.items))
    by_state = Family("kubelet_running_containers", "gauge", "Number of containers by state")
    states = Counter(c.state.name.removeprefix("CONTAINER_").lower() for c in containers.containers)
    for state, count in sorted(states.items()):
        by_state.add(count, container_state=state)
    desired = Family(
        "kubelet_desired_pods", "gauge", "The number of pods the kubelet is being instructed to run"
    )
    statics = sum("kubernetes.io/config.hash" in pod.metadata.annotations for pod in pods)
    desired.add(statics, static="true")
    desired.add(len(pods) - statics, static="")
    phases = Family("kubelet_pods", "gauge", "Pods of this node by phase")
    counted = Counter((pod.status.phase if pod.status else None) or "Pending" for pod in pods)
    for phase, count in sorted(counted.items()):
        phases.add(count, phase=phase)
    name = Family("kubelet_node_name", "gauge", "The node's name. The count is always 1.")
    name.add(1, node=config.node_name)
    return page([running, by_state, desired, phases, name, *_process()])


def _process() -> list[Family]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = Family("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.")
    cpu.add(used.ru_utime + used.ru_stime)
    files = Family("process_open_fds", "gauge", "Number of open file descriptors.")
    files.add(len(os.listdir("/proc/self/fd")))
    memory = Family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.")
    with open("/proc/self/statm") as statm:
        memory.add(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    return [cpu, files, memory]


def resource_metrics(document: Mapping[str, Any]) -> str:
    """Of the summary: what a metrics server asks for."""
    node_cpu = Family(
        "node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds"
    )
    node_memory = Family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes")
    node = document["node"]
    node_cpu.add(node["cpu"]["usageCoreNanoSeconds"] / NS)
    node_memory.add(node["memory"]["workingSetBytes"])
    pod_cpu = Family(
        "pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds"
    )
    pod_memory = Family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes")
    cpu = Family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    )
    memory = Family(
        "container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes"
    )
    started = Family(
        "container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds"
    )
    for pod in document["pods"]:
        about = {"namespace": pod["podRef"]["namespace"], "pod": pod["podRef"]["name"]}
        pod_cpu.add(_seconds(pod["cpu"]), **about)
        pod_memory.add(pod["memory"].get("workingSetBytes"), **about)
        for container in pod["containers"]:
            labels = {"container": container["name"], **about}
            cpu.add(_seconds(container["cpu"]), **labels)
            memory.add(container["memory"].get("workingSetBytes"), **labels)
            started.add(_epoch(container["startTime"]), **labels)
    error = Family("resource_scrape_error", "gauge", "1 if there was an error, 0 otherwise")
    error.add(0)
    return page([cpu, memory, started, node_cpu, node_memory, pod_cpu, pod_memory, error])


def _seconds(cpu: Mapping[str, Any]) -> float | None:
    used = cpu.get("usageCoreNanoSeconds")
    return None if used is None else used / NS


def _epoch(text: str | None) -> float | None:
    return None if text is None else parse_time(text).timestamp()


def cadvisor_metrics(
    descriptors: cri.ListMetricDescriptorsResponse, listed: cri.ListPodSandboxMetricsResponse
) -> str:
    """The runtime's own, which has them by cAdvisor's names."""
    described = {d.name: d for d in descriptors.descriptors}
    families: dict[str, Family] = {}
    for pod in listed.pod_metrics:
        for metric in [*pod.metrics, *(m for c in pod.container_metrics for m in c.metrics)]:
            about = described.get(metric.name)
            if about is None or metric.value is None:
                continue
            type_ = "counter" if metric.metric_type is cri.MetricType.COUNTER else "gauge"
            family = families.setdefault(metric.name, Family(metric.name, type_, about.help))
            family.add(metric.value, **dict(zip(about.label_keys, metric.label_values, strict=False)))
    scraped = Family("container_scrape_error", "gauge", "1 if there was an error, 0 otherwise")
    scraped.add(0)
    return page([*families.values(), scraped])


def probe_metrics(counts: ProbeCounts) -> str:
    total = Family(
        "prober_probe_total",
        "counter",
        "Cumulative number of a liveness, readiness or startup probe for a container by result.",
    )
    for key, count in counts:
        about = {"namespace": key.namespace, "pod": key.pod, "pod_uid": key.uid, "container": key.container}
        total.add(count, **about, probe_type=key.type, result=key.result)
    return page([total])
