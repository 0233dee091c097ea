"""Run by test_cri_grpc.py: a pod by Google's gRPC and protobuf, of ours `api.proto` alone; prints JSON.

Arguments: endpoint, log folder. A process of its own: grpcio's threads must not be there when others fork.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc

from unit.runtime.cri.proto_local import google_classes, rpcs

IMAGE = "busybox"


class Client:
    """`client.RunPodSandbox(field=value, ...)`; a stream's answer is an iterator."""

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.insecure_channel(endpoint)
        self._calls = {path.rpartition("/")[2]: (path, *rest) for path, rest in rpcs().items()}

    def __getattr__(self, name: str) -> Any:
        path, request, response, streams = self._calls[name]
        kinds = google_classes()
        make = self._channel.unary_stream if streams else self._channel.unary_unary
        call = make(path, kinds[request].SerializeToString, kinds[response].FromString)
        return lambda **fields: call(kinds[request](**fields), timeout=60)

    def close(self) -> None:
        self._channel.close()


def main(endpoint: str, folder: str) -> None:
    client = Client(endpoint)
    events = client.GetContainerEvents()
    events.initial_metadata()  # from now on none is missed
    seen: list[int] = []
    deleted = threading.Event()
    reader = threading.Thread(target=follow, args=(events, seen, deleted), daemon=True)
    reader.start()
    answer = {"version": client.Version().runtime_api_version, **pod(client, folder)}
    deleted.wait(30)
    print(json.dumps({**answer, "events": seen, "refused": refused(client)}))
    events.cancel()
    reader.join()
    client.close()


def follow(events: Iterator[Any], seen: list[int], deleted: threading.Event) -> None:
    try:
        for event in events:
            if event.container_id != event.pod_sandbox_status.id:
                seen.append(event.container_event_type)
            if seen[-1:] == [3]:
                deleted.set()
    except grpc.RpcError as err:
        assert err.code() is grpc.StatusCode.CANCELLED  # noqa: PT017 - no test, and not expected to be raised


def pod(client: Client, folder: str) -> dict[str, object]:
    config = {
        "metadata": {"name": "pod", "uid": "by-grpcio", "namespace": "default"},
        "log_directory": folder,
        "linux": {"security_context": {"namespace_options": {"network": "NODE", "pid": "CONTAINER"}}},
    }
    sandbox_id = client.RunPodSandbox(config=config).pod_sandbox_id
    wanted = {
        "metadata": {"name": "main"},
        "image": {"image": IMAGE},
        "command": ["sleep", "1000"],
        "linux": {"security_context": {"run_as_user": {"value": 1000}}},
    }
    made = client.CreateContainer(pod_sandbox_id=sandbox_id, config=wanted, sandbox_config=config)
    container_id = made.container_id
    client.StartContainer(container_id=container_id)
    ran = client.ExecSync(container_id=container_id, cmd=["sh", "-c", "id -u; cat; echo no >&2; exit 7"])
    status = client.ContainerStatus(container_id=container_id[:12]).status
    client.StopContainer(container_id=container_id)
    ended = client.ContainerStatus(container_id=container_id).status
    for _ in range(2):
        client.RemoveContainer(container_id=container_id)
        client.StopPodSandbox(pod_sandbox_id=sandbox_id)
        client.RemovePodSandbox(pod_sandbox_id=sandbox_id)
    return {
        "exec": [ran.stdout.decode(), ran.stderr.decode(), ran.exit_code],
        "status": [status.id == container_id, status.state, status.user.linux.uid],
        "ended": [ended.state, ended.exit_code],
        "left": len(client.ListContainers().containers) + len(client.ListPodSandbox().items),
        "images": [list(image.repo_tags) for image in client.ListImages().images],
    }


def refused(client: Client) -> list[str]:
    try:
        client.ContainerStatus(container_id="nowhere")
    except grpc.RpcError as err:
        return [err.code().name, err.details()]
    return []


if __name__ == "__main__":
    main(*sys.argv[1:])
