"""Events about pods and their containers, with upstream's reasons and texts.

`pkg/kubelet/events/event.go` lists the reasons; people and tests look for them.
"""

from __future__ import annotations

from podling.api import core_v1
from podling.client.events import EventRecorder
from podling.kubelet import names

NORMAL = "Normal"
WARNING = "Warning"


class PodEvents:
    """Fire and forget; the recorder batches and aggregates."""

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder

    def pod(self, pod: core_v1.Pod, type_: str, reason: str, message: str) -> None:
        self._recorder.event(_reference(pod), type_, reason, message)

    def container(self, pod: core_v1.Pod, container: str, type_: str, reason: str, message: str) -> None:
        """`involvedObject.fieldPath` names the container, as `spec.containers{web}`."""
        self._recorder.event(_reference(pod), type_, reason, message, field_path=_field_path(pod, container))

    def node(self, name: str, type_: str, reason: str, message: str) -> None:
        # Upstream gives the node's name as UID: events are written before the Node object is known.
        reference = core_v1.ObjectReference(kind="Node", name=name, uid=name, api_version="v1")
        self._recorder.event(reference, type_, reason, message)


def _reference(pod: core_v1.Pod) -> core_v1.ObjectReference:
    return core_v1.ObjectReference(
        api_version="v1",
        kind="Pod",
        namespace=names.pod_namespace(pod),
        name=pod.metadata.name,
        uid=pod.metadata.uid,
    )


def _field_path(pod: core_v1.Pod, container: str) -> str:
    spec = names.pod_spec(pod)
    if any(c.name == container for c in spec.init_containers):
        return f"spec.initContainers{{{container}}}"
    if any(c.name == container for c in spec.ephemeral_containers):
        return f"spec.ephemeralContainers{{{container}}}"
    return f"spec.containers{{{container}}}"
