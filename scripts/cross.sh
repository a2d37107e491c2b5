#!/usr/bin/env bash
# Builds the product for every system it is made for. Nothing is kept but Go's
# own cache, so that only the first time takes long.
set -uo pipefail
cd "$(dirname "$0")/.."

status=0
for target in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do
  if ! GOOS=${target%/*} GOARCH=${target#*/} go build -o /dev/null ./cmd/leasehold; then
    echo "does not build for $target"
    status=1
  fi
done
exit $status
