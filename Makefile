# flatdhcp. `make` alone says what each target does.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# No C, no paths of this machine, no symbol table: one static file a program.
GOBUILD  = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)"

PREFIX  ?= /usr/local
CNIDIR  ?= /opt/cni/bin
DESTDIR ?=
FUZZTIME ?= 10s
FUZZ ?=

# Each program: its name and the package it is built from.
PLUGINS  = flat-bridge flat-ipam
PROGRAMS = $(PLUGINS) flat-dhcpd flatctl
pkg_flat-bridge = ./plugins/flat-bridge
pkg_flat-ipam   = ./plugins/flat-ipam
pkg_flat-dhcpd  = ./dhcpd
pkg_flatctl     = ./flatctl

# The lab's own commands; they are never installed.
LABTOOLS = demo labctl bench benchdhcp
pkg_demo   = ./hack/cmd/demo
pkg_labctl = ./hack/cmd/labctl
pkg_bench  = ./hack/cmd/bench
pkg_benchdhcp = ./hack/cmd/benchdhcp

.DEFAULT_GOAL := help
.PHONY: help build test lint vuln demo lab lab-down bench bench-dhcp bench-store fuzz image install uninstall clean deps \
	unit e2e e2e-bin soak need-root FORCE

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(PROGRAMS:%=bin/%) ## build the four programs into bin/ (static, trimmed, with their version)

# The compiler's cache decides what is out of date, hence FORCE: make cannot see imports.
$(PROGRAMS:%=bin/%) $(LABTOOLS:%=bin/%): bin/%: FORCE
	@$(GOBUILD) -o $@ $(pkg_$*)

# The same programs with fault points compiled in; only the end-to-end tests run these.
e2e-bin: $(PROGRAMS:%=bin/e2e/%)
$(PROGRAMS:%=bin/e2e/%): bin/e2e/%: FORCE
	@$(GOBUILD) -tags faults -o $@ $(pkg_$*)

# Tools have modules of their own, so that their dependencies are never ours. cni: cnitool and
# the reference plugins; lint; vuln.
bin/tools/%/.built: hack/tools/%/go.mod hack/tools/%/go.sum
	@echo "building the tools of hack/tools/$*"
	@mkdir -p $(@D)
	@cd hack/tools/$* && CGO_ENABLED=0 GOFLAGS=-mod=readonly $(GO) build -trimpath -buildvcs=false -ldflags "-s -w" -o $(CURDIR)/$(@D)/ tool
	@touch $@

deps: ## install what this Debian machine lacks (needs root only if something is missing)
	@hack/deps

test: need-root ## run every test, as root: unit tests with the race detector, then end to end
	@hack/deps test
	@$(MAKE) --no-print-directory unit e2e
	@echo "make test: every part passed"

# What e2e runs needs the programs built, so unit leaves it out.
E2E_ONLY = /e2e(/conformance|/seed)?$$

# Tests that need root must not skip here: FLATDHCP_REQUIRE_ROOT turns a skip into a failure.
unit: bin/tools/cni/.built
	@echo "== unit tests and tests on network namespaces, with the race detector"
	@$(GO) build ./...
	@FLATDHCP_REQUIRE_ROOT=1 CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 15m \
		$$($(GO) list ./... | grep -vE '$(E2E_ONLY)')

e2e: bin/tools/cni/.built build e2e-bin bin/bench bin/benchdhcp bin/labctl bin/demo
	@echo "== end to end: the programs through cnitool, with real DHCP clients"
	@! grep -l FLATDHCP_FAULT $(PROGRAMS:%=bin/%) || { echo "a fault point is in a program that is installed"; exit 1; }
	@rm -f bin/samples bin/acceptance
	@FLATDHCP_REQUIRE_ROOT=1 FLATDHCP_BIN=$(CURDIR)/bin/e2e FLATDHCP_CNI_BIN=$(CURDIR)/bin/tools/cni \
		FLATDHCP_SAMPLES=$(CURDIR)/bin/samples FLATDHCP_ACCEPTANCE=$(CURDIR)/bin/acceptance \
		$(GO) test -tags faults -count=1 -timeout 15m -p 1 ./e2e ./e2e/conformance ./e2e/seed
	@cat bin/samples bin/acceptance

# What takes too long for every change; make test runs a sample of it and says which.
soak: need-root bin/tools/cni/.built build e2e-bin ## as root: each way, and moment, in which ADD and DEL can fail (make test runs a part)
	@hack/deps test
	@FLATDHCP_SOAK=1 FLATDHCP_REQUIRE_ROOT=1 FLATDHCP_BIN=$(CURDIR)/bin/e2e FLATDHCP_CNI_BIN=$(CURDIR)/bin/tools/cni \
		$(GO) test -tags faults -count=1 -timeout 2h -run '^TestEvery' ./e2e

need-root:
	@[ "$$(id -u)" = 0 ] || { echo "make test needs root, for network namespaces: sudo make test" >&2; exit 1; }

lint: bin/tools/lint/.built ## gofmt, go vet, staticcheck, golangci-lint
	@bad=$$(gofmt -l .); \
		[ -z "$$bad" ] || { echo "not formatted, run gofmt -w on:"; echo "$$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags faults ./...
	bin/tools/lint/staticcheck -tags faults ./...
	bin/tools/lint/golangci-lint run

vuln: bin/tools/vuln/.built ## look our dependencies up in Go's vulnerability database (needs the network)
	bin/tools/vuln/govulncheck ./...

demo: build bin/demo bin/tools/cni/.built ## watch it work: no root needed, under 30 seconds, touches nothing
	@hack/deps
	@bin/demo

lab: build bin/labctl bin/tools/cni/.built ## leave a node up to play in: hack/lab sh node
	@hack/deps
	@hack/lab up

lab-down: ## remove it
	@hack/lab down

bench: build bin/bench bin/tools/cni/.built ## ADD and DEL beside bridge + host-local; BENCHFLAGS='-workloads 0 -json'
	@hack/deps bench
	@bin/bench $(BENCHFLAGS)

bench-dhcp: build bin/benchdhcp ## leases beside dnsmasq, Kea and ISC dhcpd; BENCHFLAGS='-reservations 1000 -json'
	@hack/deps bench-dhcp
	@bin/benchdhcp $(BENCHFLAGS)

bench-store: ## cost of reserve, release and look-up with 0, 1,000 and 60,000 reservations
	@$(GO) test -run '^$$' -bench . -benchmem -count=1 -timeout 20m ./ipam

fuzz: ## run each fuzz target for FUZZTIME (10s), of FUZZ alone (dhcpd: what the daemon receives)
	@hack/fuzz $(FUZZTIME) $(FUZZ)

# Any builder does; FROM scratch needs neither a registry nor a runtime.
IMAGE ?= localhost/flatdhcp:$(VERSION)
IMAGETOOL ?= $(firstword $(foreach t,podman buildah docker,$(shell command -v $(t))))

image: build ## an image of the four programs that installs the plugins (podman, buildah or docker)
	@[ -n "$(IMAGETOOL)" ] || { echo "make image needs podman, buildah or docker: apt-get install buildah" >&2; exit 1; }
	$(IMAGETOOL) build -t $(IMAGE) .

# Written beside its place and renamed into it: a runtime never executes half a plugin.
define put
	@install -d "$(DESTDIR)$(2)"
	@install -m $(or $(3),0755) bin/$(1) "$(DESTDIR)$(2)/.$(notdir $(1)).new"
	@mv -f "$(DESTDIR)$(2)/.$(notdir $(1)).new" "$(DESTDIR)$(2)/$(notdir $(1))"
	@echo "$(DESTDIR)$(2)/$(notdir $(1))"

endef

# Where bash-completion looks for what completes a command, by the command's name.
BASHCOMPDIR = $(PREFIX)/share/bash-completion/completions

# Where systemd looks for units that packages and administrators install.
UNITDIR = $(PREFIX)/lib/systemd/system

install: build bin/completion/flatctl bin/systemd/flat-dhcpd.service ## plugins to CNIDIR (/opt/cni/bin), the rest below PREFIX (/usr/local)
	$(foreach p,$(PLUGINS),$(call put,$(p),$(CNIDIR)))
	$(call put,flat-dhcpd,$(PREFIX)/sbin)
	$(call put,flatctl,$(PREFIX)/sbin)
	$(call put,completion/flatctl,$(BASHCOMPDIR),0644)
	$(call put,systemd/flat-dhcpd.service,$(UNITDIR),0644)

bin/completion/flatctl: bin/flatctl
	@mkdir -p $(@D)
	@bin/flatctl completion bash >$@.new
	@mv -f $@.new $@

# PREFIX may be another one each time.
bin/systemd/flat-dhcpd.service: deploy/flat-dhcpd.service FORCE
	@mkdir -p $(@D)
	@sed 's|^ExecStart=/usr/local/|ExecStart=$(PREFIX)/|' $< >$@

uninstall: ## remove what install put there; stores and conflists stay
	rm -f $(PLUGINS:%="$(DESTDIR)$(CNIDIR)/%") "$(DESTDIR)$(PREFIX)/sbin/flat-dhcpd" "$(DESTDIR)$(PREFIX)/sbin/flatctl" \
		"$(DESTDIR)$(BASHCOMPDIR)/flatctl" "$(DESTDIR)$(UNITDIR)/flat-dhcpd.service"

clean: ## remove bin/
	rm -rf bin
