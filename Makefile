# The one front door. `make help` lists the targets.
# Build outputs live outside the clone, so that clones share them; ccache makes RocksDB cheap after the first time.
CACHE := $(HOME)/.cache/stratavore
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CCACHE_DIR ?= $(CACHE)/ccache
export CC := ccache gcc
export CXX := ccache g++
PREFIX ?= $(if $(filter 0,$(shell id -u)),/usr/local,$(HOME)/.local)
PROGRAMS := stratavore stratavored stratavore-agent
UP := --nodes 3 --agents 2

.PHONY: help up down demo demo-failover build test lint bench install uninstall packages cargo

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

packages:
	@deploy/packages.sh build

cargo:
	@command -v cargo >/dev/null || { \
	  echo "error: cargo is missing" >&2; \
	  echo "next: install Rust 1.95 or newer from https://rustup.rs, then make again" >&2; exit 2; }

build: packages cargo ## build the release programs into target/release
	@echo "building (the first time takes about 15 minutes: RocksDB)" >&2
	@cargo build --release -p stratavore-cli -p stratavore-node -p stratavore-agent
	@deploy/link-release.sh "$(CARGO_TARGET_DIR)" $(PROGRAMS)

up: build ## build, start a local cluster, run the demo
	@target/release/stratavore up $(UP)
	@deploy/demo.sh target/release/stratavore

demo: ## start the demo runner on a local cluster that is up
	@deploy/demo.sh target/release/stratavore

demo-failover: build ## kill nodes and silence a host, and check what survives
	@deploy/demo-failover.sh target/release/stratavore

down: ## stop the local cluster and its runners
	@test -x target/release/stratavore || { echo "error: nothing is built here" >&2; echo "next: make up" >&2; exit 2; }
	@target/release/stratavore down

test: export PATH := $(CACHE)/bin:$(PATH)
test: cargo ## every test
	@deploy/packages.sh test
	cargo build --workspace
	cargo test --workspace --no-fail-fast

lint: packages cargo ## format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

bench: export PATH := $(CACHE)/bin:$(PATH)
bench: build ## figures as lines of "name value unit", beside etcd's
	@deploy/packages.sh bench || echo "going on without etcd" >&2
	@cargo build --release -p stratavore-chaos
	@"$(CARGO_TARGET_DIR)/release/stratavore-chaos" bench

install: ## install what build made under PREFIX, as root with systemd units
	@deploy/install.sh install "$(PREFIX)" $(PROGRAMS)

uninstall: ## remove what install put there
	@deploy/install.sh uninstall "$(PREFIX)" $(PROGRAMS)
