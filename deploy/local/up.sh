#!/usr/bin/env bash
# Starts a whole Leasehold on loopback addresses: an etcd of three members, two
# control planes and three workers, each as a process of its own. Prints where
# everything is, then "ready"; Ctrl-C or down.sh stops all of it. What is
# started again with the same directory has its gateways and sessions again.
#
#   make build && deploy/local/up.sh [DIRECTORY]
#
# Set in the environment:
#   BIN           the built binary (bin/leasehold)
#   ETCD_BIN      an etcd 3.5 or later; without one, the module's own member for
#                 tests is built with go and used (it does not force writes to
#                 the disk)
#   WORKER_PORT   first of 3 ports for clients (8080)
#   ADMIN_PORT    first of 5 admin ports, workers first (8180)
#   CONTROL_PORT  first of 2 ports for operators and workers (7070)
#   ETCD_PORT     first of 6 ports of etcd (2379)
set -euo pipefail
set -m # a process group for each process: Ctrl-C reaches this script only, which stops them in order

root=$(cd "$(dirname "$0")/../.." && pwd)
bin=${BIN:-$root/bin/leasehold}
dir=${1:-${XDG_STATE_HOME:-$HOME/.local/state}/leasehold/local}
worker_port=${WORKER_PORT:-8080} admin_port=${ADMIN_PORT:-8180}
control_port=${CONTROL_PORT:-7070} etcd_port=${ETCD_PORT:-2379}

fail() { echo "up.sh: $*" >&2; exit 1; }

[ -x "$bin" ] || fail "$bin is not there; run make build, or set BIN"
umask 077
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
if [ -f "$dir/pids" ]; then
  while read -r name pid; do
    kill -0 "$pid" 2>/dev/null && fail "$name of an earlier start may still run (process $pid); run deploy/local/down.sh $dir"
  done <"$dir/pids"
fi
: >"$dir/pids"
echo "up.sh $$" >>"$dir/pids"

workers=() planes=() members=()

# stop stops a tier and waits until it is gone.
stop() {
  [ $# -eq 0 ] && return 0
  kill -TERM "$@" 2>/dev/null || true
  wait "$@" 2>/dev/null || true
}

# The workers leave through the control planes, which need etcd to the end.
down() {
  trap - EXIT
  trap '' INT TERM
  stop ${workers[@]+"${workers[@]}"}
  stop ${planes[@]+"${planes[@]}"}
  stop ${members[@]+"${members[@]}"}
  rm -f "$dir/pids"
}
trap down EXIT
trap 'exit 0' INT TERM

# start NAME COMMAND… starts a process; $! is its id.
start() {
  local name=$1
  shift
  "$@" >"$dir/$name.out" 2>>"$dir/$name.log" </dev/null &
  echo "$name $!" >>"$dir/pids"
}

# await NAME PID waits until a process has said that it is ready.
await() {
  local tries=0
  until grep -q ready "$dir/$1.out"; do
    kill -0 "$2" 2>/dev/null || { tail -n 20 "$dir/$1.log" >&2; fail "$1 ended before it was ready"; }
    [ $((tries += 1)) -lt 600 ] || fail "$1 is not ready after a minute; see $dir/$1.log"
    sleep 0.1
  done
}

# --- etcd: client and peer port of each member in turn
if [ -z "${ETCD_BIN:-}" ]; then
  command -v go >/dev/null || fail "set ETCD_BIN to an etcd, or install Go"
  (cd "$root" && go build -o "$dir/etcdmember" ./test/internal/etcdmember)
fi
cluster='' endpoints=''
for i in 0 1 2; do
  cluster+="${cluster:+,}etcd$i=http://127.0.0.1:$((etcd_port + 2 * i + 1))"
  endpoints+="${endpoints:+,}http://127.0.0.1:$((etcd_port + 2 * i))"
done
for i in 0 1 2; do
  client=http://127.0.0.1:$((etcd_port + 2 * i)) peer=http://127.0.0.1:$((etcd_port + 2 * i + 1))
  if [ -n "${ETCD_BIN:-}" ]; then
    start "etcd$i" "$ETCD_BIN" --name "etcd$i" --data-dir "$dir/etcd$i" --log-level warn \
      --listen-client-urls "$client" --advertise-client-urls "$client" \
      --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
      --initial-cluster "$cluster" --initial-cluster-token leasehold-local
  else
    start "etcd$i" "$dir/etcdmember" --name "etcd$i" --data-dir "$dir/etcd$i" \
      --client "$client" --peer "$peer" --cluster "$cluster"
  fi
  members+=($!)
done
# A real etcd does not say that it is ready: the control planes wait for it.

# --- control planes, which share one root key
[ -s "$dir/root.key" ] || od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' >"$dir/root.key"
control=''
for i in 0 1; do
  addr=127.0.0.1:$((control_port + i))
  control+="${control:+,}$addr"
  start "controlplane$i" "$bin" controlplane --insecure --listen "$addr" --admin-listen "127.0.0.1:$((admin_port + 3 + i))" \
    --etcd-endpoints "$endpoints" --root-key "$dir/root.key"
  planes+=($!)
done
for i in 0 1; do await "controlplane$i" "${planes[$i]}"; done

# --- workers; the load balancer on this machine may say which host was asked for
for i in 0 1 2; do
  start "worker$i" "$bin" worker --insecure --listen "127.0.0.1:$((worker_port + i))" --peer-listen 127.0.0.1:0 \
    --admin-listen "127.0.0.1:$((admin_port + i))" --control "$control" --data-dir "$dir/worker$i" --trusted-proxies 127.0.0.1
  workers+=($!)
done
for i in 0 1 2; do await "worker$i" "${workers[$i]}"; done

cat <<END
data and logs     $dir
clients           http://127.0.0.1:$worker_port/gateways/{gateway}/mcp, and ports $((worker_port + 1)) and $((worker_port + 2))
admin             http://127.0.0.1:$admin_port/readyz and /metrics, and ports up to $((admin_port + 4))
etcd              $endpoints

  export LEASEHOLD_CONTROL=$control
  $bin apply -f gateways.yaml
  $bin get workers --watch

a load balancer in front of the workers (ports as above only):

  haproxy -f $root/deploy/local/haproxy.cfg              # http://127.0.0.1:8000
  nginx -p /tmp -c $root/deploy/local/nginx.conf         # http://127.0.0.1:8001

ready
END
while [ -n "$(jobs -r -p)" ]; do
  wait || true # one that is killed does not stop the others
done
fail "every process has ended; see $dir/*.log"
