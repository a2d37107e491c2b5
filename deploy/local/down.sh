#!/usr/bin/env bash
# Stops what up.sh started with the same directory, also what was left behind by
# an up.sh that was killed.
#
#   deploy/local/down.sh [DIRECTORY]
set -euo pipefail

dir=${1:-${XDG_STATE_HOME:-$HOME/.local/state}/leasehold/local}
[ -f "$dir/pids" ] || { echo "nothing was started with $dir"; exit 0; }

# ours PID NAME says whether that process is still the one that was started: ids
# of processes are used again.
ours() {
  local command
  command=$(ps -ww -p "$1" -o command= 2>/dev/null) || return 1
  case $2 in
  up.sh) [[ $command == *up.sh* ]] ;;
  etcd*) [[ $command == *etcd*--name*"$2"* ]] ;;
  *) [[ $command == *" ${2%[0-9]} --insecure "* ]] ;;
  esac
}

gone() { # waits for a process for at most 15 s
  for _ in $(seq 150); do
    ours "$@" || return 0
    sleep 0.1
  done
  return 1
}

# up.sh comes first: it stops all others in order. What is left is stopped from
# the last one started to the first.
{ head -n 1 "$dir/pids"; tail -n +2 "$dir/pids" | sed '1!G;h;$!d'; } | while read -r name pid; do
  ours "$pid" "$name" || continue
  kill -TERM "$pid" 2>/dev/null || true
  gone "$pid" "$name" || { echo "$name (process $pid) does not stop" >&2; exit 1; }
  echo "$name stopped"
done
rm -f "$dir/pids"
