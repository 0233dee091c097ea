"""The kubelet, without a kernel: values in, values out, and workers over a runtime in memory."""
