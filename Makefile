# The two commands: `make run` serves, `make test` proves. Both install what is missing on a Debian-like machine.
.PHONY: run test

PACKAGES := tests/packages.sh
VENV := target/interop/python
NODE := tests/interop/javascript

run:
	@$(PACKAGES) build
	cargo build --release --locked
	./target/release/keyround serve --dev

test: $(VENV)/ready $(NODE)/node_modules/ready
	tests/postgres.sh cargo test --locked

.PHONY: packages
packages:
	@$(PACKAGES) build postgres node python tools

$(NODE)/node_modules/ready: $(NODE)/package.json $(NODE)/package-lock.json | packages
	npm ci --prefix $(NODE) --no-audit --no-fund
	@touch $@

$(VENV)/ready: tests/interop/python/requirements.txt | packages
	python3 -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement tests/interop/python/requirements.txt
	@touch $@
