# Millrace. `make` alone lists the targets. `make run` and `make test` are all that a newcomer needs.

# giouring (the io_uring binding) reaches syscall.munmap by linkname, which Go >= 1.23 refuses to link unless this
# check is off. It is off for our binaries and tests only, and only here: see engine/disk/uring/doc.go.
LDFLAGS  := -checklinkname=0
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO       ?= go
GOFLAGS  += -buildvcs=false
PKGS     ?= ./...
BIN      := bin/millrace
TOOL     := $(GO) tool -modfile=tools/dev/tools.mod
TEST     := $(GO) test -ldflags=$(LDFLAGS)
export GOFLAGS

# Knobs of the longer targets.
ARGS     ?=
TIME     ?= 30s
SEEDS    ?= 1000
DURATION ?= 5m

.DEFAULT_GOAL := help
.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: build
build: ## build bin/millrace
	$(GO) build -trimpath -ldflags="$(LDFLAGS) -X main.version=$(VERSION)" -o $(BIN) ./tools/millrace

.PHONY: run
run: build ## start a broker: data in ./data, Kafka on 127.0.0.1:9092 (ARGS="--log-level debug" adds flags)
	$(BIN) standalone $(ARGS)

.PHONY: test
test: build ## everything a change must pass: unit, simulation, crash and real-client tests
	$(GO) vet ./...
	$(TEST) $(PKGS)
