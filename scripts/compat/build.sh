#!/usr/bin/env bash
# Builds leasehold as of the commit in scripts/compat/commit, the release that this
# version has to work beside, and prints the path of the program. It is built from the
# repository's own history, once for each commit.
#
# To move to another release: git rev-parse TAG^{commit} > scripts/compat/commit
set -euo pipefail
cd "$(dirname "$0")/../.."

commit=$(tr -d '[:space:]' <scripts/compat/commit)
program=$PWD/bin/compat/$commit/leasehold
if [ -x "$program" ]; then
  echo "$program"
  exit
fi
if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
  echo "scripts/compat: this clone has no commit $commit; fetch it: git fetch origin $commit" \
    "(or the whole history: git fetch --unshallow origin)" >&2
  exit 1
fi
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
git archive "$commit" | tar -x -C "$source"
mkdir -p "$(dirname "$program")"
(cd "$source" && go build -trimpath -buildvcs=false -o "$program.new" ./cmd/leasehold) >&2
mv "$program.new" "$program"
echo "$program"
