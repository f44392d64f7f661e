# The commands of the house. `make help` lists them.

.PHONY: help run engines test soak lint bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build and start the embedded hall; needs no other program
	cargo run --package guildhall -- up

engines: ## install the engines and clients that the tests use, into target/engines
	@xtask/engines.sh

# Everything: unit tests, contract suites on every engine, scenarios on both shapes, conformance, official clients.
test: ## run all tests; ENGINES=none skips those that need an engine, and counts them
ifeq ($(ENGINES),none)
	@mkdir -p target/engines && : > target/engines/skipped
	cargo build --workspace --bins --tests
	cargo test --workspace --no-fail-fast
	@echo "ENGINES=none: $$(wc -l < target/engines/skipped) times a test went without an engine it needs:"
	@sort target/engines/skipped | uniq --count
else
	@xtask/engines.sh
	cargo build --workspace --bins --tests
	cargo test --workspace --no-fail-fast
endif

# Each part of the hall is killed, stopped and cut off SOAK_ROUNDS times, the embedded one killed six times as often.
SOAK_ROUNDS ?= 6
soak: ## the long fault run, some ten minutes; records and verdicts are in target/faultruns
	@xtask/engines.sh
	cargo build --workspace --bins
	FAULTRUN_ROUNDS=$(SOAK_ROUNDS) cargo test --package guildhall-tests --test scenarios -- \
		mail_keeps_its_promises_whatever_dies --nocapture --test-threads 1

lint: ## formatting, clippy, direction of dependencies, words that must not be here, licences
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	cargo xtask check
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; \
	else echo "SKIPPED: cargo deny is not installed (cargo install cargo-deny)"; fi

# Release build with thin LTO: the first run takes some ten minutes.
bench: ## measure, beside the baselines in LIMITS (default ../shared/bench/limits); writes docs/benchmarks.md
	cargo xtask bench
