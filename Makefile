# The whole of the project's commands. `make` lists them.
# Set-up goes into a cache outside the repository ($NATS_RERANK_CACHE, else ~/.cache/nats-rerank): see tools/setup.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test clients gateway-check nats-matrix gpu-check deploy-check images workflow-check deny reproducible package bench peers microbench guard guard-refresh overload soak ledger curves build install fmt lint doctor reference model clean

CARGO ?= cargo
# Optimized, and without libtorch, NATS and what tests need: it is built within a minute.
GUARD := $(CARGO) run --locked --profile bench --no-default-features --features bench --bin guard --

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: ## get libtorch, nats-server and a test checkpoint, once
	@tools/setup

demo: ## watch two workers rerank real text over a real nats-server
	@tools/setup libtorch nats-server
	@$(CARGO) build --release --locked
	@tools/demo

test: setup ## set-up, format, lints, every test, the client on its own, the export of traces, the documentation, counted instructions, the bench's arithmetic, the clients of clients/
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --features client --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --features gateway --all-targets -- -D warnings
	$(CARGO) clippy --locked --features otlp --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --lib
	$(CARGO) test --locked --no-default-features --features client
	$(CARGO) test --locked
	$(CARGO) test --locked --features otlp --test it traces
	python3 -m unittest discover -s bench/tests
	$(CARGO) clippy --locked --no-default-features --features bench --lib --bin guard --bench micro -- -D warnings
	$(GUARD)
	tools/test-clients
	tools/msrv

clients: ## check and test the clients in other languages
	@tools/setup libtorch nats-server
	@$(CARGO) build --locked
	@tools/test-clients

gpu-check: ## pack the program and its checks into .gpu, to prove it on a machine with a GPU (tools/gpu-check)
	$(CARGO) build --release --locked
	@tools/gpu-check --pack .gpu

gateway-check: ## real clients of rerankers and a real browser against the gateway; what it adds to a request (minutes)
	@tools/setup libtorch nats-server
	@$(CARGO) build --locked
	@tools/test-gateway

nats-matrix: ## the integration tests against six versions of nats-server, 2.9.10 to 2.15.1 (minutes each; FLAGS: see tools/nats-matrix)
	@tools/setup
	@tools/nats-matrix $(FLAGS)

bench: ## the benchmark suite, side by side with peers (about 20 minutes; QUICK=1: about 3; more flags: BENCH_FLAGS): see bench/README.md
	@tools/setup
	@$(CARGO) build --release --locked
	@bench/run $(if $(QUICK),--quick) $(BENCH_FLAGS)

peers: ## get the Python of the bench's peers and plots (3 GB of packages)
	@tools/venv

microbench: ## time the small parts: codecs, admission, tokenizing, batching, layout, ranking (criterion; ONLY=part of a name)
	$(CARGO) bench --locked --no-default-features --features bench --bench micro -- $(ONLY)

guard: ## count the instructions of the small parts (valgrind) and hold them to the stored figures
	@tools/setup valgrind
	@$(GUARD)

guard-refresh: ## store the counted instructions anew: benches/guard/figures.json
	@tools/setup valgrind
	@$(GUARD) refresh

overload: ## what callers with a budget get past capacity, and beside a slow member (two minutes)
	@tools/setup
	@$(CARGO) build --release --locked
	@tools/overload

soak: ## send 100,000 requests of mixed lengths and see that memory stays flat
	@tools/setup
	@$(CARGO) build --release --locked
	@tools/soak

deploy-check: ## hold the files of deploy/ against schemas, each other and the program; needs no container engine
	@tools/setup libtorch nats-server
	@$(CARGO) build --locked
	@failed=(); for check in deploy/check/*; do [[ ! -f $$check || ! -x $$check ]] || "$$check" || failed+=("$$check"); done; \
	    [[ $${#failed[@]} == 0 ]] || { echo "deploy-check: failed: $${failed[*]}" >&2; exit 1; }
	@echo "deploy-check: all that could be checked is well; what could not stands above as NOT CHECKED, with what it needs"

images: ## build the CPU image, try it over a real nats-server, bring deploy/compose up (a container engine, or root on Debian)
	@deploy/images/run

workflow-check: ## hold .github/workflows against actionlint, zizmor and this repository
	@tools/check-workflow

deny: ## hold the dependencies against deny.toml: licences, bans, sources, advisories (builds cargo-deny once: minutes)
	@tools/deny

reproducible: ## build what needs no libtorch twice, in different folders, and compare bit by bit (minutes)
	@tools/reproducible --no-default-features --features gateway

package: ## make the crate as it would be published, and build the client from it
	$(CARGO) package --locked --no-default-features --features client

ledger: ## ten minutes of requests with faults, and the fate of each one that was not answered in time (LEDGER_FLAGS: see tools/ledger)
	@tools/setup
	@$(CARGO) build --release --locked
	@tools/ledger $(LEDGER_FLAGS)

curves: ## measure what docs/tuning.md says of each setting, and draw it (35 minutes on a machine at rest)
	@tools/setup
	@$(CARGO) build --release --locked
	@tools/curves

build: ## the release program: target/release/nats-rerank
	@tools/setup libtorch
	$(CARGO) build --release --locked

install: build ## put the program, its model, completions and manual pages under PREFIX (default /usr/local)
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" tools/install

fmt: ## format the source
	$(CARGO) fmt

lint: ## format check and clippy, warnings as errors
	@tools/setup libtorch
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

doctor: ## print what was found on this machine
	@tools/doctor

reference: setup ## make tests/reference again with transformers (3 GB of Python packages)
	@tools/reference/run

model: setup ## train the built-in model again
	@tools/train/train.sh

clean: ## remove build products; the cache stays
	$(CARGO) clean
