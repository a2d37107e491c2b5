#!/usr/bin/env bash
# Runs every test: those beside the code and the model; then those that start processes
# and look at the clock (one package at a time, so that they do not disturb each
# other); then every fuzz target for a few seconds. Ends with a summary.
set -uo pipefail
cd "$(dirname "$0")/.."

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
start=$SECONDS
status=0

# All lists must be there: an empty one would test nothing and succeed. The packages
# that take the longest come first.
slow=$(go list ./dataplane ./test/model)
beside=$(go list ./... | grep -v '/leasehold/test/' | grep -vxF "$slow")
whole=$(go list ./test/... | grep -vxF "$slow")
if [ -z "$slow" ] || [ -z "$beside" ] || [ -z "$whole" ]; then
  echo 'no packages found'
  exit 1
fi

# crashed prints the packages in which nothing failed but the race detector itself, by
# one of its own assertions, as now and then happens when a process ends. It fails when
# anything else failed.
crashed() {
  awk -F '\t' '
    /^ThreadSanitizer: CHECK failed/ { crash = 1 }
    /^(--- FAIL|panic:|fatal error:|WARNING: DATA RACE)/ { other = 1 }
    /^(ok  |\?   |FAIL)\t/ {
      if ($1 == "FAIL") { if (crash && !other) print $2; else failed = 1 }
      crash = other = 0
    }
    END { exit failed }
  ' "$1"
}

# packages tests packages with the given flags and keeps what was printed under a name;
# those that the race detector broke down in are tested once more.
packages() {
  local out=$dir/$1 again code
  shift
  go test -race -count=1 "$@" 2>&1 | tee "$out"
  code=${PIPESTATUS[0]}
  if [ "$code" -ne 0 ] && again=$(crashed "$out") && [ -n "$again" ]; then
    echo "the race detector broke down in these, which are tested again:" $again
    grep -vE "^FAIL(	($(paste -sd'|' <<<"$again"))	.*)?$" "$out" >"$out.others"
    mv "$out.others" "$out"
    # shellcheck disable=SC2086 # a list of words
    go test -race -count=1 -timeout 25m -p 1 $again 2>&1 | tee -a "$out"
    code=${PIPESTATUS[0]}
  fi
  return "$code"
}

# shellcheck disable=SC2086 # lists of words
packages beside -timeout 15m $slow $beside || status=1
# shellcheck disable=SC2086
packages whole -timeout 25m -p 1 $whole || status=1
scripts/fuzz.sh 2>&1 | tee "$dir/fuzz" || status=1

log=$dir/log
cat "$dir"/{beside,whole,fuzz} >"$log"
count() { grep -cE "$1" "$log" || true; }
echo
echo "summary: $(count '^ok  ?	') packages passed, $(count '^FAIL	') failed," \
  "$(count '^fuzz ok ') fuzz targets passed, $(count '^fuzz FAIL ') failed, $((SECONDS - start)) s"
grep -E '^(FAIL	|fuzz FAIL |--- FAIL|WARNING: DATA RACE)' "$log" | sort -u || true
[ $status -eq 0 ] && echo 'all tests passed' || echo 'some tests FAILED'
exit $status
