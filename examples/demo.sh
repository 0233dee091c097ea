#!/bin/bash
# The story of pods and their pause container, told on a real cluster: `make demo`.
# Usage: demo.sh PATH-TO-PODLING. Runs as root, in a network namespace with no way out; the cluster it makes
# is removed at the end, also when something fails.
set -euo pipefail

podling=$(realpath "${1:-$(command -v podling)}")
here=$(cd "$(dirname "$0")" && pwd)

if [ -z "${PODLING_DEMO_INSIDE:-}" ]; then
    echo "Building the images from Debian packages (downloads the first time only) ..."
    "$podling" image demo >/dev/null
    exec env PODLING_DEMO_INSIDE=1 unshare --net "$0" "$podling"
fi
ip link set lo up

export PODLING_NAME=demo KUBECONFIG
KUBECONFIG=$(mktemp)
trap '"$podling" down --quiet; rm -f "$KUBECONFIG" "$KUBECONFIG.lock"' EXIT

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
run() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }
kubectl() { "$podling" kubectl "$@"; }
on() { local node=$1; shift; "$podling" node exec "$node" -- "$@"; }
field() { kubectl get pod "$1" -o "jsonpath={$2}"; }
ready() { kubectl wait "pod/$1" --for=condition=Ready --timeout=60s >/dev/null; }

say "A cluster of three nodes on this machine. Each node is what a pod is, one size larger."
run "$podling" up --no-egress
run kubectl get nodes -o wide

say "A pod of three containers: busybox, a blog on port 2368, nginx on port 80."
run kubectl apply -f "$here/pause-test.yaml"
ready pause-test
run kubectl get pod -o wide

node=$(field pause-test .spec.nodeName)
ip=$(field pause-test .status.podIP)

say "On its node there are four containers: the pause container came first, the others joined its namespaces."
run on "$node" podling ps

say "From inside busybox both neighbours' ports are on localhost. Its own process is PID 1: the PID namespace is not shared."
run kubectl exec pause-test -- /bin/sh -c 'netstat -ntl; ps'

say "nginx answers on the pod's address ..."
run on "$node" curl -sS --max-time 5 "$ip" | grep -i '<title>'

say "... until it is told, from inside its container, to be a proxy for its neighbour on localhost."
kubectl exec -i -c nginx pause-test -- /bin/sh -c 'cat > /etc/nginx/conf.d/example.conf' <<'EOF'
server {
    listen 80 default_server;
    server_name example.com www.example.com;
    location / {
        proxy_pass http://127.0.0.1:2368;
    }
}
EOF
run kubectl exec -c nginx pause-test -- nginx -t
run kubectl exec -c nginx pause-test -- nginx -s reload
for _ in 1 2 3 4 5 6 7 8 9 10; do
    on "$node" curl -sS --max-time 5 "$ip" | grep -qi 'welcome to nginx' || break
done
run on "$node" curl -sS --max-time 5 "$ip" | grep -i '<title>'

say "Kill the pause container: the pod stays the same object, every container restarts once."
pause=$(on "$node" podling ps --no-trunc | awk '/k8s_POD_pause-test_/ {print $1}')
pid=$(on "$node" podling inspect "$pause" | sed -n 's/.*"Pid": \([0-9]*\).*/\1/p' | head -n 1)
run on "$node" kill -9 "$pid"
kubectl wait pod/pause-test --for='jsonpath={.status.containerStatuses[2].restartCount}=1' --timeout=30s >/dev/null
ready pause-test
run kubectl get pod pause-test
run on "$node" podling ps -a

say "With shareProcessNamespace: true, PID 1 is /pause and everybody sees everybody."
run kubectl apply -f "$here/pause-test2.yaml"
ready pause-test2
run kubectl exec pause-test2 -- ps

say "Two pods on two nodes: the packet passes veth, bridge, route, node, node, bridge, veth."
run kubectl apply -f "$here/two-nodes.yaml"
first=$(kubectl get -f "$here/two-nodes.yaml" -o 'jsonpath={.items[0].metadata.name}')
second=$(kubectl get -f "$here/two-nodes.yaml" -o 'jsonpath={.items[1].metadata.name}')
ready "$first"
ready "$second"
run kubectl get pod "$first" "$second" -o wide
run on "$(field "$first" .spec.nodeName)" ip route
run kubectl exec "$first" -- ping -c 3 "$(field "$second" .status.podIP)"

say "And all of it goes away."
run "$podling" down
