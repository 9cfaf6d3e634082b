# Millrace. `make` alone lists the targets; a newcomer needs `make run` and `make test`, Go and nothing else.

# giouring (the io_uring binding) reaches syscall.munmap by linkname, which Go >= 1.23 refuses to link unless this
# check is off. It is off for our own binaries and tests, here and nowhere else.
LDFLAGS  := -checklinkname=0
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO       ?= go
export GOFLAGS := $(GOFLAGS) -buildvcs=false
TEST     := $(GO) test -ldflags=$(LDFLAGS)
TOOL     := $(GO) tool -modfile=tools/dev/tools.mod
BIN      := bin/millrace

# Knobs: make test PKGS=./engine/..., make fuzz TIME=5m, make sim SEEDS=10000, make chaos DURATION=1h, make compat RUN=Java.
PKGS     ?= ./...
TIME     ?= 30s
SEEDS    ?= 2000
DURATION ?= 5m
RUN      ?= .
ARGS     ?=

# A failing go test must not hide behind the filter that it is piped into.
SHELL := /bin/bash -o pipefail

.DEFAULT_GOAL := help
.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## start a broker: data in ./data, Kafka on 127.0.0.1:9092; ARGS="--help" shows the flags
	$(BIN) standalone $(ARGS)

.PHONY: cluster
cluster: build ## start three nodes on this machine, data in ./data/cluster, Kafka on 9092 to 9094; Ctrl-C ends them
	@tools/dev/cluster.sh $(BIN) $(ARGS)

.PHONY: build
build: ## build bin/millrace
	$(GO) build -trimpath -ldflags="$(LDFLAGS) -X main.version=$(VERSION)" -o $(BIN) ./tools/millrace

.PHONY: test
test: vet unit controls compat ## what a change must pass: vet, all tests (simulation and kill -9 included), real clients

.PHONY: unit
unit: ## all Go tests of the module, without the real clients
	$(TEST) -timeout 15m $(PKGS)

.PHONY: compat
compat: build ## real clients against the real binary; RUN=Kcat picks one; a client that cannot be had is skipped aloud
	@cd tools/compat && out=$$(timeout 180 $(GO) list -deps -test ./... 2>&1 >/dev/null) || { echo "$$out"; \
	  if grep -qE 'dial tcp|no such host|timeout|connection refused|proxyconnect' <<<"$$out"; then \
	    echo "SKIPPED: no real clients: their Go modules cannot be had"; exit 0; fi; exit 1; }; \
	MILLRACE_BIN=$(CURDIR)/$(BIN) $(GO) test -v -count=1 -timeout 15m -run '$(RUN)' ./... | grep -vE '^=== |^ +--- PASS'

.PHONY: check
check: lint test ## lint and test

.PHONY: race
race: ## all Go tests under the race detector
	$(TEST) -race -short -timeout 30m $(PKGS)

.PHONY: vet
vet:
	$(GO) vet $(PKGS)

.PHONY: lint
lint: vet ## format, vet, staticcheck, shellcheck where it is installed
	@unformatted=$$($(TOOL) gofumpt -l .); if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; fi
	$(TOOL) staticcheck $(PKGS)
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run $$(git ls-files '*.sh'); else echo "SKIPPED: shellcheck is not installed"; fi

.PHONY: golangci
golangci: ## golangci-lint with .golangci.yml (builds it first: two minutes)
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run

.PHONY: fmt
fmt: ## format the tree
	$(TOOL) gofumpt -w .

.PHONY: fuzz
fuzz: ## every fuzz test for TIME each
	@for pkg in $$($(GO) list ./...); do \
	  for f in $$($(TEST) -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "== $$pkg $$f"; $(TEST) -run '^$$' -fuzz "^$$f$$" -fuzztime $(TIME) $$pkg || exit 1; \
	  done; done

.PHONY: controls
controls: ## builds without one rule of replication each: the simulation of clusters must notice all of them
	$(TEST) -tags broken -count=1 -timeout 30m -run NoticesEveryMissingRule ./broker/sim

.PHONY: sim
sim: ## whole clusters in one process, and the simulated disk under the engine and the metadata log, SEEDS seeds
	$(TEST) -count=1 -timeout 12h -run 'TestClusters' ./broker/sim -sim.seeds=$(SEEDS)
	$(TEST) -count=1 -timeout 12h -run 'Crash|Simulation' ./engine -sim.seeds=$(SEEDS)
	MILLRACE_SIM_SEEDS=$(SEEDS) $(TEST) -count=1 -timeout 12h -run 'Sim|Crash' ./raft/...

.PHONY: chaos
chaos: build ## kill -9 under load with a ledger, for DURATION; ARGS=-power cuts the power of a disk instead (root)
	$(GO) run ./tools/crashtest -bin $(BIN) -duration $(DURATION) $(ARGS)

.PHONY: chaos-cluster
chaos-cluster: build ## three nodes taken apart under load for DURATION, then judged; ARGS="-network -disks" cuts wires and power, too (root)
	$(GO) run -ldflags=$(LDFLAGS) ./tools/chaos -bin $(BIN) -duration $(DURATION) $(ARGS)

.PHONY: bench
bench: build ## a broker on a temporary directory and the load of record against it
	tools/dev/bench.sh $(BIN) $(ARGS)

.PHONY: perf
perf: ## the profile of record: machine, limits, workloads (15 minutes; ARGS=--quick: 3)
	perf/run.sh $(ARGS)

# The rows of the gate: requests of one record, and batches, with both ways to acknowledge and the null brokers.
GATE_ROWS := W1-raw,W2,W3-64K,W4-keyed

.PHONY: perf-gate
perf-gate: ## counts and ratios of a short profile against the recorded ones; UPDATE=1 records
	perf/run.sh --quick --rows $(GATE_ROWS) --rounds 3 --out perf/out/gate $(ARGS)
	$(GO) run -ldflags=$(LDFLAGS) ./perf/suite gate --result perf/out/gate/result.json $(if $(UPDATE),--update)

.PHONY: docs
docs: ## regenerate what is made from code
	$(GO) run -ldflags=$(LDFLAGS) ./tools/millrace config reference > broker/config/REFERENCE.md
	MILLRACE_UPDATE=1 $(TEST) -count=1 -run TestAPIsAreDocumented ./broker
