# The commands of the house. `make help` lists them.

.PHONY: help run engines test lint bench

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
	cargo test --workspace
	@echo "ENGINES=none: $$(wc -l < target/engines/skipped) times a test went without an engine it needs:"
	@sort target/engines/skipped | uniq --count
else
	@xtask/engines.sh
	cargo build --workspace --bins --tests
	cargo test --workspace
endif

lint: ## formatting, clippy, direction of dependencies, words that must not be here, licences
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	cargo xtask check
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; \
	else echo "SKIPPED: cargo deny is not installed (cargo install cargo-deny)"; fi

# Release build with thin LTO: the first run takes some ten minutes.
bench: ## measure, beside the baselines in LIMITS (default ../shared/bench/limits); writes docs/benchmarks.md
	cargo xtask bench
