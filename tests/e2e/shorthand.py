"""Short words for what the end-to-end tests do all the time."""

from __future__ import annotations

from typing import Any

from podling.testing.cluster import PodlingCluster, eventually


def inside(cluster: PodlingCluster, namespace: str, pod: str, script: str, *, container: str = "") -> str:
    """What a shell script in a container (the first one) prints, without the last newline."""
    which = ("-c", container) if container else ()
    out = cluster.kubectl("exec", "-n", namespace, pod, *which, "--", "sh", "-c", script)
    return out.removesuffix("\n")


def ready(cluster: PodlingCluster, namespace: str, *pods: str, timeout_s: int = 30) -> None:
    cluster.kubectl(
        *("wait", "-n", namespace, "--for=condition=Ready", f"--timeout={timeout_s}s"),
        *(f"pod/{name}" for name in pods),
    )


def container_status(cluster: PodlingCluster, namespace: str, pod: str, container: str) -> dict[str, Any]:
    """The container's entry of the pod's status; empty before the kubelet wrote one."""
    status = cluster.get("pod", pod, "-n", namespace)["status"]
    entries = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return next((entry for entry in entries if entry["name"] == container), {})


def events(cluster: PodlingCluster, namespace: str, about: str) -> list[tuple[str, str, str]]:
    """Type, reason and message of the events about an object, the last written last."""
    items = cluster.get("events", "-n", namespace, f"--field-selector=involvedObject.name={about}")["items"]
    items.sort(
        key=lambda e: (e.get("firstTimestamp") or e["eventTime"], int(e["metadata"]["resourceVersion"]))
    )
    return [(e["type"], e["reason"], e["message"]) for e in items]


def wait_event(
    cluster: PodlingCluster, namespace: str, about: str, reason: str, words: str, *, timeout_s: float = 20
) -> str:
    """The message of an event with this reason that contains `words`, once there is one."""

    def look() -> str:
        seen = events(cluster, namespace, about)
        found = [message for _, why, message in seen if why == reason and words in message]
        assert found, f"no event {reason} about {about} that says {words!r}, but {seen}"
        return found[0]

    return eventually(look, timeout_s=timeout_s)


def gone(cluster: PodlingCluster, namespace: str, what: str) -> None:
    """Delete an object and see that nothing of it stays."""
    cluster.kubectl("delete", "-n", namespace, what, "--grace-period=1", "--timeout=30s")
    done = cluster.kubectl_run("get", "-n", namespace, what)
    assert done.returncode == 1
    assert "(NotFound)" in done.stderr
