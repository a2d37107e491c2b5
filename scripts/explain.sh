#!/usr/bin/env bash
# Writes the operators' proto files with their comments to a file, as
# descriptors: what `leasehold explain` says.
set -euo pipefail
cd "$(dirname "$0")/.."

v1=proto/leasehold/v1
go tool -modfile=scripts/tools/go.mod buf build --as-file-descriptor-set --exclude-imports \
  --path "$v1/gateway.proto" --path "$v1/session.proto" --path "$v1/worker.proto" \
  -o - >"$1"
