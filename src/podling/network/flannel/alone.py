"""The daemon as a process of its own, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from podling.client.client import Client
from podling.client.events import EventRecorder
from podling.client.http import HttpTransport
from podling.client.kubeconfig import client_config
from podling.network.flannel.daemon import Flannel
from podling.network.flannel.node import FlannelConfig


async def run_alone(config: FlannelConfig, node_name: str, kubeconfig: Path) -> None:
    """The kernel's state stays."""
    stop = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    transport = HttpTransport(client_config(kubeconfig))
    client = Client(transport)
    events = EventRecorder(client, "flannel", node_name)
    flannel = Flannel(config, node_name)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(events.run(), name="flannel: events"),
                tasks.create_task(flannel.run(client, events), name="flannel"),
            ]
            await stop.wait()
            for task in running:
                task.cancel()
    finally:
        await transport.close()
