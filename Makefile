# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Both install what they need from Debian's packages (test/deps.sh).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where Go may be that test/deps.sh has installed or the machine has.
export PATH := $(PATH):/usr/local/go/bin:/usr/local/lib/purple-go/bin
PREFIX ?= /usr
GO ?= go

# purple is a C program too: all of it that the dynamic loader writes is read-only once it
# runs. It is not position-independent: docs/security.md says why.
HARDENED := -ldflags='-extldflags=-Wl,-z,relro,-z,now'

SUITE := ../bin/suite.test -test.v -test.timeout 60m
# In the emulated VMs, where a run takes seconds, the part of the suite that runs for
# users, too: the limits, which cgroup v1 has not got, and what is most their own.
# Natively it is all of it.
USER_TESTS := ^TestUser|TestTables|TestMemoryLimit|TestTasksLimit|TestCPULimit|LimitsAreIn|TestEvery|TestIdentity|OutputPaths|ExitStatus|HaveABeginning|DeniedPathsAre|StayDenied|ListedPort|BarePort|TestPublishedPort$$

# How often the race for the first packet is run there: 200 times take five minutes
# each. Natively it is 200.
VM_STARTS ?= 25

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 20

.PHONY: build
build: ## bin/purple and its two helpers
	@test/deps.sh build
	CGO_ENABLED=1 $(GO) build -trimpath $(HARDENED) -o bin/purple ./cmd/purple
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o bin/purple-init ./cmd/purple-init
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o bin/purple-net ./cmd/purple-net
	chmod go-w bin bin/*

.PHONY: demo
demo: build ## an agent in a real unit; boots a private systemd if PID 1 is none
	@test/deps.sh test
	test/hosts/native -- test/demo/run

.PHONY: test
test: ## everything that CI runs
	@test/deps.sh test
	$(MAKE) --no-print-directory -j2 test-here vm-images
	$(MAKE) --no-print-directory test-vms

# Beside vm-images, but one after the other.
.PHONY: test-here
test-here:
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory test-unit
	$(MAKE) --no-print-directory test-native

.PHONY: lint
lint: build ## gofmt, go vet, the layers
	@unformatted=$$(gofmt -l cmd internal journal policies translate units test); \
	if [[ $$unformatted ]]; then echo "gofmt these: $$unformatted" >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags integration ./test/...

.PHONY: test-unit
test-unit: build ## pure code: tables, goldens, simulators
	@test/deps.sh test
	$(GO) test ./...

.PHONY: suite
suite: build
	@test/deps.sh test
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/probe ./test/probe
	CGO_ENABLED=0 $(GO) test -c -tags integration -trimpath -o bin/suite.test ./test

.PHONY: test-native
test-native: suite ## the suite and the demo on this machine's systemd, or on a private one
	cd test && ./hosts/native -- $(SUITE)
	cd test && PURPLE_TEST_MANAGER=user ./hosts/native -- $(SUITE)
	test/hosts/native -- test/demo/run

# Both at once: where the machine has no KVM, one of them leaves half of its two
# processors idle. Each line says whose it is.
.PHONY: test-vms
test-vms: suite ## the suite in both VMs
	$(MAKE) --no-print-directory -j2 test-vm-bookworm test-vm-trixie || \
		{ test/failures bin/test-vm-bookworm.log bin/test-vm-trixie.log; exit 1; }

.PHONY: test-vm-bookworm test-vm-trixie
test-vm-bookworm test-vm-trixie: test-vm-%: suite ## the suite in a VM of Debian 12, 13
	payload=$$(mktemp -d); trap 'rm -rf "$$payload"' EXIT; \
	mkdir "$$payload/test"; cp -r bin "$$payload"; cp -r test/testdata test/demo "$$payload/test"; cp -r README.md docs packaging "$$payload"; \
	test/hosts/vm $* --payload "$$payload" --timeout 4500 -- bash -c 'cd test && export PURPLE_TEST_STARTS=$(VM_STARTS) && $(SUITE) && PURPLE_TEST_MANAGER=user $(SUITE) -test.run "$(USER_TESTS)"' | sed -u 's/^/$*: /' | tee bin/test-vm-$*.log

.PHONY: vm-images
vm-images: ## make the VM images, once, with what other work leaves of the processors
	@test/deps.sh test
	nice -n 19 test/hosts/vm bookworm image
	nice -n 19 test/hosts/vm trixie image

.PHONY: bench
bench: suite ## start to exit, beside systemd-run, bubblewrap and runc; what a network, a denied call and the audit cost
	test/hosts/native -- test/bench/bench.py
	test/hosts/native -- test/bench/net.py
	test/hosts/native -- test/bench/deny.py
	test/hosts/native -- test/bench/build.py

.PHONY: golden
golden: ## rewrite the golden files
	$(GO) test ./policies ./translate -update

.PHONY: fuzz
fuzz: ## each fuzz target for half a minute
	$(GO) test ./policies -run '^$$' -fuzz FuzzParse -fuzztime 30s -fuzzminimizetime 1x
	$(GO) test ./internal/spec -run '^$$' -fuzz FuzzDecodeMessage -fuzztime 30s
	$(GO) test ./translate -run '^$$' -fuzz FuzzBuild -fuzztime 30s
	$(GO) test ./internal/confine -run '^$$' -fuzz FuzzParsePacket -fuzztime 30s
	$(GO) test ./internal/confine -run '^$$' -fuzz FuzzParseLogged -fuzztime 30s
	$(GO) test ./journal -run '^$$' -fuzz FuzzFromFields -fuzztime 30s
	$(GO) test ./journal -run '^$$' -fuzz FuzzParseEntry -fuzztime 30s
	$(GO) test ./journal -run '^$$' -fuzz FuzzLine -fuzztime 30s

.PHONY: install
install: build ## into $(DESTDIR)$(PREFIX)
	install -D -m 0755 bin/purple $(DESTDIR)$(PREFIX)/bin/purple
	install -D -m 0755 bin/purple-init $(DESTDIR)$(PREFIX)/libexec/purple/purple-init
	install -D -m 0755 bin/purple-net $(DESTDIR)$(PREFIX)/libexec/purple/purple-net
	install -D -m 0644 packaging/apparmor/purple-init $(DESTDIR)/etc/apparmor.d/purple-init
	install -D -m 0644 packaging/examples/purple-io.conf $(DESTDIR)$(PREFIX)/share/doc/purple/examples/purple-io.conf
	install -D -m 0644 packaging/purple.catalog $(DESTDIR)$(PREFIX)/lib/systemd/catalog/purple.catalog

.PHONY: clean
clean: ## remove bin/
	rm -rf bin
