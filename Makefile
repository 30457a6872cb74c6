# make help lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | column -t -s '|'

.PHONY: build
build: ## build bin/controlplane
	@mkdir -p bin
	go build -trimpath -buildvcs=auto -tags grpcnotrace -o bin/controlplane ./cmd/controlplane

IMAGE ?= evenkeel/controlplane:dev
ENGINE ?= $(notdir $(or $(shell command -v docker),$(shell command -v podman)))

.PHONY: image
image: ## build the container image IMAGE with ENGINE (docker or podman)
	@[ -n "$(ENGINE)" ] || { echo "make: there is neither docker nor podman; ENGINE=PROGRAM names another" >&2; exit 1; }
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) DOCKER_BUILDKIT=1 $(ENGINE) build --tag $(IMAGE) .

.PHONY: demo
demo: build ## see weights move traffic, and a limit hold, on a real Envoy (KEEP=1 stays up)
	@command -v envoy >/dev/null || hack/tools.sh envoy
	bin/controlplane demo $(if $(KEEP),--keep)

.PHONY: test
test: lint ## install what the tests need, then run all of them
	@hack/tools.sh kube ratelimit envoy-old
	@hack/tools.sh prometheus || echo "make: the test that needs Prometheus is skipped" >&2
	@hack/tools.sh redis || echo "make: the tests that need Redis are skipped" >&2
	EVENKEEL_REQUIRE_KUBE=1 go test -race -timeout 20m ./...

.PHONY: lint
lint: ## formatting, vet, staticcheck, generated files
	@hack/tools.sh
	@hack/lint.sh

.PHONY: generate
generate: ## generated code and reference documentation
	@hack/tools.sh controller-gen
	go generate ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (default 1m)
	hack/fuzz.sh $(or $(FUZZTIME),1m)

.PHONY: bench
bench: build ## Go benchmarks; the rigs of bench/ have commands of their own (see docs/benchmarks)
	go test -run '^$$' -bench . -benchmem ./...
