.PHONY: help run demo test soak lint bench bench-data screenshots migrate seed install uninstall package check-deploy pin

help:    ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

run:     ## Run the service with config.yaml, or with settings from the environment
	cargo run --locked -- serve

demo:    ## Run everything on this machine: no AWS account, no database server (PORT=3000)
	cargo run --locked -- demo --port $(or $(PORT),3000)

test:    ## Run all tests; finds or starts the servers they need
	scripts/test

soak:    ## Run the long trials: 200 kills, 20 restarts under 500 streams, 500 revocations, calls without a database, races
	SOAK_KILLS=200 SOAK_AWAY_CALLS=25000 SOAK_ROUNDS=100 SOAK_REVOCATIONS=500 ROLLING_RESTARTS=20 ROLLING_STREAMS=500 \
		SOAK_OPENAPI_EXAMPLES=100 CLUSTER_KILLS=200 CLUSTER_REVOCATIONS=500 \
		scripts/test --test api -- --nocapture --test-threads 1 kills:: rolling:: cluster:: openapi:: \
		faults::with_the_database_away lifecycle::fifty of_fifty_ summaries::writers instances::what_one

lint:    ## Check formatting, lints and dependencies
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo deny --locked check bans licenses sources

bench:   ## Measure against nginx and a direct call, and every page with 10 million calls
	scripts/bench
	scripts/bench-data pages

screenshots: ## Take pictures of every page of the demo, into target/screenshots
	scripts/screenshots

bench-data: ## Build, once, 10 million calls on both databases; measure all that reads or writes them
	scripts/bench-data

migrate: ## Apply database migrations
	cargo run --locked -- migrate up

seed:    ## Default prices, and a year of sample usage in a database without any
	cargo run --locked -- seed

install: ## Install the release binary, systemd units and documents (DESTDIR=, PREFIX=/usr)
	scripts/install

uninstall: ## Take away what install put there; settings, secrets and data stay
	scripts/install --remove

package: ## Build a Debian package of the release binary, into target/debian
	scripts/package-deb

check-deploy: ## Check everything that deploys the service: image, compose, Kubernetes, systemd, alerts, backup
	scripts/check-deploy

pin:     ## Write the digests of CI actions and base images beside their versions (needs the network)
	scripts/pin
