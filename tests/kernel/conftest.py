"""Fixtures that several kernel tests use; made once they are asked for."""

from kernel.runtime_local import image_dir, local, mount_namespace

__all__ = ["image_dir", "local", "mount_namespace"]
