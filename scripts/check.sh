#!/usr/bin/env bash
# Runs every static check, all of them even when some fail, and says which did.
set -uo pipefail
cd "$(dirname "$0")/.."

buf() { go tool -modfile=scripts/tools/go.mod buf "$@"; }
staticcheck() { go tool -modfile=scripts/tools/go.mod staticcheck "$@"; }

formatted() {
  local files
  files=$(find . -name node_modules -prune -o -name '*.go' -print0 | xargs -0 gofmt -l) || return 1
  [ -z "$files" ] || { printf 'not formatted, run make fmt:\n%s\n' "$files"; return 1; }
}

generated() {
  local out
  out=$(mktemp -d) || return 1
  if ! buf generate -o "$out" || ! diff -r gen "$out/gen"; then
    rm -rf "$out"
    echo 'gen/ is not what proto/ generates, run make generate'
    return 1
  fi
  rm -rf "$out"
}

# explained compares what `leasehold explain` says with the comments in proto/.
explained() {
  local out
  out=$(mktemp --suffix=.binpb 2>/dev/null || mktemp) || return 1
  if ! scripts/explain.sh "$out" || ! cmp "$out" cmd/internal/explain/api.binpb; then
    rm -f "$out"
    echo 'cmd/internal/explain/api.binpb is not what proto/ says, run make generate'
    return 1
  fi
  rm -f "$out"
}

tidy() { go mod tidy -diff && (cd scripts/tools && go mod tidy -diff); }

failed=()
step() {
  local name=$1 start=$SECONDS
  shift
  if "$@"; then
    printf 'ok    %-20s %ds\n' "$name" $((SECONDS - start))
  else
    printf 'FAIL  %-20s %ds\n' "$name" $((SECONDS - start))
    failed+=("$name")
  fi
}

step gofmt formatted
step 'go vet' go vet ./...
step 'go vet (mutant)' go vet -tags mutant ./cmd/... ./controlplane/... ./dataplane/...
step staticcheck staticcheck ./...
step 'buf lint' buf lint
step 'buf format' buf format --diff --exit-code
step 'buf breaking' buf breaking --against proto/accepted.binpb
step 'generated code' generated
step 'explain' explained
step 'go mod tidy' tidy
step 'cross-compile' scripts/cross.sh

if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[*]}"
  exit 1
fi
