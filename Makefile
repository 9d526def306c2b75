# SPDX-License-Identifier: Apache-2.0

.DEFAULT_GOAL := help
SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.ONESHELL:

# Variables, set on the command line or in the environment; the programs read
# them from there too:
REQUESTS ?= # demo: front page requests per setup; evaluate: requests of a run; mtls: of a main case
RUNS     ?= # evaluate: runs of each case at each rate
FRESH    ?= # evaluate: 1 starts anew instead of going on
TRACER   ?= # demo: tracer of the Envoys, zipkin or opentelemetry
UI       ?= # demo: trace store and its UI, jaeger (API only) or zipkin (needs Java, Maven)
KEEP     ?= # demo: 1 leaves the mesh and the trace store up until Ctrl-C
SEED     ?= # test: seed of the random tests; faults: of the faults that are drawn; mtls: of the load and of what happens to records
CASES    ?= # faults: how many requests, with and without a fault
VARIANT  ?= # faults: mtls, devices, or a condition of the network (bin/lab faults --help)
CASES_DIR ?= # cases: directory with truth.json, captures and vectors.txt (../shared/cases)
TEMPO    ?= # stores: a program of Grafana Tempo, tested as well
FUZZTIME ?= # fuzz: time or number of runs of each target (20s)
VERSION  ?= # wasm: version and name of the image (devel); release: X.Y.Z
REPOSITORY ?= # release: registry and owner of the images, HOST/OWNER
BUILDER  ?= # release: URI of who builds, for the provenance
VULNDB   ?= # vulncheck: URL of a database, file:///DIRECTORY for a copy

# Programs that tests and linting call, and the Debian packages that provide them.
COMMANDS := clang wasm-ld ip clang-format llvm-strip tcpdump tshark ngrep nginx curl pip3 chromium
PACKAGES := clang lld iproute2 clang-format llvm libbpf-dev tcpdump tshark ngrep nginx-light curl python3-pip chromium

GOTEST        := go test
TEST_PACKAGES := ./...
GOLANGCI_LINT := go tool -modfile=tools/go.mod golangci-lint
C_SOURCES     := $(wildcard bpf/*.c bpf/*/*.c bpf/include/*.h wasm-filter/compact/src/*)
# Packages whose tests need neither root nor Envoy.
UNIT_PACKAGES  = $(shell go list ./... | grep -Ev '/(bpf|e2e|agent/internal/probe)(/|$$)')

# Packages of the agent with several goroutines, whose tests need no root. The race detector
# makes pools drop things by chance, so allocations are not counted there.
RACE_PACKAGES := $(addprefix ./agent/internal/,accesslog agent breakdown encrypted export iface identity join span unseen watch) ./internal/recent

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; awk -F '[?]= # ' '/[?]= # / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: root lab ## Follow requests through a mesh, and find where a slow one was slow (KEEP=1, UI=zipkin)
	@exec bin/lab demo $(if $(strip $(REQUESTS)),--requests=$(REQUESTS)) $(if $(strip $(TRACER)),--tracer=$(TRACER)) $(if $(strip $(UI)),--ui=$(UI))

.PHONY: test
test: root packages ## Run all tests, including the end-to-end test of the lab
	$(GOTEST) -count=1 -timeout=45m $(TEST_PACKAGES)

.PHONY: test-unit
test-unit: ## Run the fast tests, without root and Envoy: less than a minute
	go test -short $(UNIT_PACKAGES)

.PHONY: race
race: ## Run the agent's tests with the race detector, some two minutes (needs a C compiler)
	@CC=$${CC:-$$(command -v gcc || command -v clang)} go test -race -short -count=1 -skip='^TestAllocations' $(RACE_PACKAGES)

.PHONY: fuzz
fuzz: ## Fuzz each target for a while (FUZZTIME); inputs that fail are written to testdata/fuzz
	@failed=()
	while IFS=: read -r file target; do
		echo "=== $$target in $${file%/*}"
		go test "./$${file%/*}" -run='^$$' -fuzz="^$$target$$" -fuzztime=$(or $(strip $(FUZZTIME)),20s) -fuzzminimizetime=10x || failed+=("$$target in $${file%/*}")
	done < <(git grep -oE '^func Fuzz[A-Za-z0-9]+' -- '*_test.go' | sed 's/:func /:/')
	[ $${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "$${failed[@]}" >&2; exit 1; }

.PHONY: e2e-k8s
e2e-k8s: COMMANDS += nft runc /usr/lib/cni/bridge
e2e-k8s: PACKAGES += nftables runc containernetworking-plugins
e2e-k8s: root packages lab ## Test install and reordering on a real Kubernetes API server with Istio
	@exec bin/lab e2e-k8s

.PHONY: kernels
kernels: COMMANDS += qemu-system-x86_64 busybox cpio xz
kernels: PACKAGES += qemu-system-x86 busybox-static cpio xz-utils
kernels: packages lab ## Test the BPF programs on older kernels, in emulated machines
	@exec bin/lab kernels

.PHONY: bench
bench: root lab ## Measure the cost of a packet, a request and the agent
	@exec bin/lab bench

.PHONY: bench-peers
bench-peers: root packages lab ## Compare the cost with that of tcpdump, ngrep and tshark, half an hour
	@exec bin/lab bench-peers

.PHONY: growth
growth: root packages lab ## Measure how the cost grows with interfaces, connections, pods and spans
	@exec bin/lab growth

.PHONY: evaluate
evaluate: COMMANDS += java mvn
evaluate: PACKAGES += default-jre-headless maven
evaluate: root packages lab ## Repeat the paper's evaluation, less than 20 minutes (RUNS, REQUESTS, FRESH=1)
	@exec bin/lab evaluate $(if $(strip $(RUNS)),--runs=$(RUNS)) $(if $(strip $(REQUESTS)),--requests=$(REQUESTS))

.PHONY: reorder
reorder: lab ## Test the header-reordering filters against golden files, and measure their cost
	@exec bin/lab reorder

.PHONY: faults
faults: root lab ## Inject faults into each layer of a mesh and check explain's verdicts
	@exec bin/lab faults $(if $(strip $(SEED)),--seed=$(SEED)) $(if $(strip $(CASES)),--cases=$(CASES)) $(if $(strip $(VARIANT)),--variant=$(VARIANT))

.PHONY: cases
cases: root packages lab ## Run captures whose truth is known through decode and the BPF programs (CASES_DIR)
	@CGO_ENABLED=0 go build -trimpath -o bin/layertrace ./agent/cmd/layertrace
	dir="$(or $(strip $(CASES_DIR)),../shared/cases)"
	[ -d "$$dir" ] || { echo "no directory $$dir: only the project's own cases" >&2; dir=; }
	exec bin/lab cases --dir="$$dir"

.PHONY: attack
attack: root lab ## Do to an agent what hostile traffic does, and check that each bound holds (CASE)
	@CGO_ENABLED=0 go build -trimpath -o bin/layertrace ./agent/cmd/layertrace
	exec bin/lab attack $(if $(strip $(CASE)),--case="$(strip $(CASE))")

.PHONY: live-cases
live-cases: root lab ## Check explain on pauses, slow readers and an outage, by the client's clock
	@exec bin/lab live-cases $(if $(strip $(VARIANT)),--variant="$(strip $(VARIANT))") $(if $(strip $(CASE)),--case="$(strip $(CASE))") $(if $(strip $(TIMES)),--times=$(TIMES))

.PHONY: devices
devices: root lab ## Send 10,000 requests through two routers that read TCP headers only, and check their spans
	@exec bin/lab devices $(if $(strip $(REQUESTS)),--requests=$(REQUESTS))

.PHONY: mtls
mtls: root packages lab ## Check the joins of encrypted connections against captures that tshark decrypts (SEED)
	@exec bin/lab mtls $(if $(strip $(REQUESTS)),--requests=$(REQUESTS)) $(if $(strip $(SEED)),--seed=$(SEED))

.PHONY: mtls-cost
mtls-cost: COMMANDS += valgrind
mtls-cost: PACKAGES += valgrind
mtls-cost: root packages lab ## Measure what the access log for the agents costs Envoy
	@exec bin/lab mtls-cost

.PHONY: open-exchanges
open-exchanges: root lab ## Keep 100,000 responses open for 10 minutes and watch the agent
	@exec bin/lab open-exchanges

.PHONY: stores
stores: COMMANDS += java mvn
stores: PACKAGES += default-jre-headless maven
stores: root packages ## Test that explain reads the same from Jaeger, Zipkin, Tempo (TEMPO=program) and files
	$(GOTEST) -count=1 -timeout=15m ./e2e/stores -args -zipkin $(if $(strip $(TEMPO)),-tempo=$(abspath $(TEMPO)))

.PHONY: pictures
pictures: COMMANDS += java mvn
pictures: PACKAGES += default-jre-headless maven
pictures: root packages lab ## Make the pictures of the documents again, from a run of the lab
	@exec bin/lab pictures

.PHONY: soak-agent
soak-agent: root build ## Run an agent for 2 hours beside pods that come and go, and check that nothing grows
	@exec bin/lab soak

.PHONY: soak
soak: root ## Load each module of the Wasm filter for 10 minutes and watch memory and crashes
	go test ./e2e/reorder -count=1 -run=TestSoak -v -timeout=1h -soak=10m -soak-requests=1000000

.PHONY: lint
lint: packages ## Check Go and C style and the import order
	@$(GOLANGCI_LINT) run ./...
	echo "clang-format of $(words $(C_SOURCES)) files"; clang-format --dry-run --Werror $(C_SOURCES)

.PHONY: structure
structure: ## Measure files, packages and comments, and check the file lists of docs/architecture.md
	@go run tools/structure/main.go

.PHONY: build
build: ## Build bin/layertrace, bin/bookinfo, bin/peer and bin/lab
	CGO_ENABLED=0 go build -trimpath -o bin/layertrace ./agent/cmd/layertrace
	CGO_ENABLED=0 go build -trimpath -o bin/bookinfo ./e2e/bookinfo
	CGO_ENABLED=0 go build -trimpath -o bin/peer ./e2e/peer
	CGO_ENABLED=0 go build -trimpath -o bin/lab ./e2e/cmd/lab

.PHONY: wasm-compact
wasm-compact: ## Write bin/layertrace-compact.wasm, the same filter in C, which takes less memory, and its image layout
	go run ./wasm-filter/compact/write -o bin/layertrace-compact.wasm -oci bin/layertrace-compact.oci $(if $(strip $(VERSION)),-version=$(VERSION))

.PHONY: wasm
wasm: ## Build bin/layertrace.wasm, the filter, and bin/layertrace.oci, its image layout
	go run ./wasm-filter/build -o bin/layertrace.wasm -oci bin/layertrace.oci $(if $(strip $(VERSION)),-version=$(VERSION))

.PHONY: images
images: ## Build the agents' image for amd64 and arm64, without docker: bin/agent.oci, bin/agent.tar
	go run ./release -images -o bin

.PHONY: release
release: ## Build what a release publishes into out/release (VERSION, REPOSITORY, BUILDER)
	@[ -n "$(strip $(VERSION))" ] || { echo "make release VERSION=X.Y.Z" >&2; exit 1; }
	go run ./release -version $(strip $(VERSION)) -o out/release $(if $(strip $(REPOSITORY)),-repository=$(strip $(REPOSITORY))) $(if $(strip $(BUILDER)),-builder=$(strip $(BUILDER)))

.PHONY: vulncheck
vulncheck: ## Check the agent and the filter for known vulnerabilities (needs Go's database, or VULNDB)
	go tool -modfile=tools/go.mod govulncheck $(if $(strip $(VULNDB)),-db=$(strip $(VULNDB))) ./agent/cmd/... ./wasm-filter/...

.PHONY: generate
generate: packages ## Compile the BPF programs and the compact Wasm module, and update all generated files
	go generate ./internal/tracecontext/... ./bpf/... ./wasm-filter/compact ./istio ./agent/internal/span ./agent/internal/agent ./agent/internal/join ./agent/internal/install ./agent/internal/cli/manual

.PHONY: man
man: ## Write the man pages of layertrace to out/man
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} go run ./agent/internal/cli/manual out/man
	echo "out/man: $$(ls out/man | wc -l) pages; man -l out/man/layertrace.1"

.PHONY: setup
setup: packages lab ## Install what the tests need: packages, Envoy, Jaeger, Prometheus, Helm
	@bin/lab setup

.PHONY: clean
clean: ## Remove build and measurement output (Envoy and Jaeger stay in the user's cache)
	rm -rf bin out

# A built program, because go run does not pass SIGTERM on.
.PHONY: lab
lab:
	@CGO_ENABLED=0 go build -trimpath -o bin/lab ./e2e/cmd/lab

.PHONY: packages
packages:
	@missing=()
	for c in $(COMMANDS); do command -v $$c >/dev/null || missing+=($$c); done
	[ -e /usr/include/bpf/bpf_helpers.h ] || missing+=(bpf/bpf_helpers.h)
	[ $${#missing[@]} -gt 0 ] || exit 0
	echo "missing: $${missing[*]}"
	if [ $$(id -u) -ne 0 ] || ! command -v apt-get >/dev/null; then
		echo "install them; on Debian, as root: apt-get install $(PACKAGES)" >&2
		exit 1
	fi
	apt-get update -qq
	if [ -d /run/systemd/system ] && ! command -v nginx >/dev/null; then
		# Only the program is needed: Debian would start a server on port 80, now and at each boot.
		systemctl mask --runtime --quiet nginx
		trap 'systemctl unmask --runtime --quiet nginx; systemctl disable --quiet nginx || true' EXIT
	fi
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(PACKAGES)

.PHONY: root
root:
	@if [ $$(id -u) -eq 0 ]; then exit 0; fi
	echo "network namespaces and BPF programs need root: run this as root, with Go in its PATH" >&2
	echo "(make test-unit runs the tests that do not need it)" >&2
	exit 1
