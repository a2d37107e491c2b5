#!/usr/bin/env bash
# Runs every test: those beside the code and the model, then those that start processes and
# look at the clock (one package at a time, so that they do not disturb each
# other), then every fuzz target for a few seconds. Ends with a summary.
set -uo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
start=$SECONDS
status=0

# Both lists must be there: an empty one would test nothing and succeed.
beside=$(go list ./... | grep -v '/leasehold/test/'; go list ./test/model)
whole=$(go list ./test/... | grep -v '/leasehold/test/model$')
if [ -z "$beside" ] || [ -z "$whole" ]; then
  echo 'no packages found'
  exit 1
fi

# shellcheck disable=SC2086 # lists of words
go test -race -count=1 -timeout 15m $beside 2>&1 | tee -a "$log" || status=1
# shellcheck disable=SC2086
go test -race -count=1 -timeout 25m -p 1 $whole 2>&1 | tee -a "$log" || status=1
scripts/fuzz.sh 2>&1 | tee -a "$log" || status=1

count() { grep -cE "$1" "$log" || true; }
echo
echo "summary: $(count '^ok  ?	') packages passed, $(count '^FAIL	') failed," \
  "$(count '^fuzz ok ') fuzz targets passed, $(count '^fuzz FAIL ') failed, $((SECONDS - start)) s"
grep -E '^(FAIL	|fuzz FAIL |--- FAIL|WARNING: DATA RACE)' "$log" | sort -u || true
[ $status -eq 0 ] && echo 'all tests passed' || echo 'some tests FAILED'
exit $status
