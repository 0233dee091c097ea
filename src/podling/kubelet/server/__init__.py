"""The kubelet's HTTPS server on 10250: pods, logs, and the streams kubectl exec and attach use."""
