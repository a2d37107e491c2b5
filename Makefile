SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TOOL    := go tool -modfile=scripts/tools/go.mod
BUF     := $(TOOL) buf
VERSION ?= 0.1.0-dev
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || true)
PKG     := github.com/leasehold/leasehold/cmd/internal/version
LDFLAGS := -X $(PKG).number=$(VERSION) -X $(PKG).commit=$(COMMIT)
# Arguments of `make dev` and `make bench`, for example: make dev ARGS='--workers 3'
ARGS    ?=
FUZZTIME ?= 5s
# How long `make soak` does harm, and then has no control plane, and the seed of
# chaos; 0 means a new one.
SOAK    ?= 30m
OUTAGE  ?= 10m
SEED    ?= 0

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-24s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/leasehold
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/leasehold ./cmd/leasehold

.PHONY: cross
cross: ## Check that it builds for linux and darwin on amd64 and arm64
	@scripts/cross.sh

.PHONY: dev
dev: build ## Build and run everything in one process, with a demo (ARGS=…)
	@exec bin/leasehold dev $(ARGS)

.PHONY: generate
generate: ## Generate gen/ and the command line's descriptions from proto/
	$(BUF) generate
	@scripts/explain.sh cmd/internal/explain/api.binpb

.PHONY: fmt
fmt: ## Format Go and proto files
	gofmt -w cmd controlplane dataplane test
	$(BUF) format -w

.PHONY: lint
lint: ## Check Go and proto files for mistakes (vet, staticcheck, buf lint)
	go vet ./...
	$(TOOL) staticcheck ./...
	$(BUF) lint

.PHONY: breaking
breaking: ## Check that the API only grew since it was last accepted
	$(BUF) breaking --against proto/accepted.binpb

.PHONY: accept-api
accept-api: ## Accept the API as it is: what `make breaking` compares with
	$(BUF) build -o proto/accepted.binpb

.PHONY: tidy
tidy: ## Tidy both go.mod files
	go mod tidy
	cd scripts/tools && go mod tidy

.PHONY: check
check: ## Run every static check (needs no network once tools are built)
	@scripts/check.sh

.PHONY: test
test: ## Run every test that CI runs, with all the set-up they need
	@FUZZTIME=$(FUZZTIME) scripts/test.sh

.PHONY: race
race: ## Run the tests beside the code under the race detector
	go test -race -count=1 ./cmd/... ./controlplane/... ./dataplane/...

.PHONY: e2e
e2e: ## Run the tests that start real processes
	go test -race -count=1 -v -timeout 20m ./test/e2e/...

.PHONY: chaos
chaos: ## Break a running system on purpose (SEED=… repeats a run)
	go test -race -count=1 -v -timeout 20m ./test/chaos -seed $(SEED)

.PHONY: soak
soak: ## Break it at random under load, then an outage (SOAK=30m OUTAGE=10m, SEED=… repeats a schedule)
	go test -race -count=1 -v -timeout 24h -run '^Test(Soak|Outage)$$' ./test/chaos -soak $(SOAK) -outage $(OUTAGE) -seed $(SEED)

.PHONY: soak-model
soak-model: ## Search the ownership rules' model ten times as deep (several GB, hours)
	go test -count=1 -v -timeout 24h ./test/model -args -deep 10

.PHONY: conformance
conformance: ## Compare the official suite's results directly and through two workers
	go test -race -count=1 -v ./test/conformance

.PHONY: conformance-proxy-trial
conformance-proxy-trial: ## Run the suite through a bare reverse proxy, ten times, for comparison
	go test -count=1 -v ./test/conformance -args -proxy-trial 10

.PHONY: bench
bench: ## Measure calls, streams, sessions and memory beside a bare proxy (ARGS=…)
	go run ./test/bench -check $(ARGS)

.PHONY: bench-compare
bench-compare: ## Compare two runs of the benchmark (OLD=a.json NEW=b.json)
	@go run ./test/bench compare $(OLD) $(NEW)

.PHONY: fuzz
fuzz: ## Fuzz everything that parses (FUZZTIME=5s each)
	@FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

.PHONY: vuln
vuln: ## Look for known vulnerabilities (needs the network)
	go run golang.org/x/vuln/cmd/govulncheck@v1.8.0 ./...

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin
	find test -name node_modules -type d -prune -exec rm -rf {} +
