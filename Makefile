# make            fetches libtorch, compiles the C++ and leaves ./mp
# make demo       trains scenenet on this machine for a few minutes (DATA=DIR for your own MiniPlaces)
# make attack-compare DATA=DIR CHECKPOINT=F   mp attack beside torchattacks, which it fetches; hours (IMAGES=, EPS=, ATTACKS= shorten it)
# make test       everything CI checks
# make web-check   looks at the web page with headless Chromium while mp trains; pictures in build/screenshots
# make drills     hurts a cluster of processes in every way that is on the list of mp drill, half an hour (TLS=on: one that speaks TLS; root for all of it)
# make soak       random faults every 15 s on average for 30 minutes, then every 60 s (MINUTES= shortens it)
# make nightly    race, fuzz, drills and soak, one after another, and their table in docs/nightly.md; some hours
# make s3-check   copies of checkpoints against a server that speaks S3, versitygw, which it builds (S3_ENDPOINT=URL: your own)
# make kube-check the manifests against a real control plane of Kubernetes, which it builds, as root; half an hour, the first time an hour (DATA=DIR: your own packs)
# make image-root the root of the container image, under build/image
# make gpu-check  what a GPU has to show, in ten minutes; DEVICE=cpu rehearses it (make venv first)
# make gpu-bundle build/gpucheck.tgz, with which deploy/gpucheck.sh runs where nothing is built
# make cuda       compiles the CUDA sources (no GPU needed)
# make V=1        shows whole commands
# make explain-compare DATA=DIR CHECKPOINT=F   mp explain beside captum, which it fetches
# make tensorboard-check   reads the files for TensorBoard with the real one, which it fetches
# make venv       build/venv/bin/python: this machine's Python with the same torch, for the comparisons with PyTorch
# eval "$(make env)"   lets plain go commands find libtorch

SHELL      := /bin/bash
BUILD      := $(CURDIR)/build
SITE       := $(BUILD)/site
LIB        := $(BUILD)/lib
OBJ        := $(BUILD)/obj
LIBTORCH   ?= $(SITE)/torch
CXX        := g++
GOTORCH     = $(shell go mod download github.com/wangkuiyi/gotorch && go list -m -f '{{.Dir}}' github.com/wangkuiyi/gotorch)

CXXFLAGS   := -std=c++20 -O3 -fPIC -fvisibility=default
OURS       := -Wall -Wextra -Werror

# GPUs: sm_80 code runs on all of generation 8; from the last entry the driver compiles for newer ones than are named here.
NVCC       := $(BUILD)/cuda/nvidia/cu13/bin/nvcc
NVFLAGS    := -std=c++20 -O3 -Werror all-warnings -Xcompiler -fPIC,-Wall,-Wextra,-Werror $(foreach sm,80 90a 100,-gencode arch=compute_$(sm),code=sm_$(sm)) \
              -gencode arch=compute_100,code=compute_100

TORCHFLAGS := -isystem $(LIBTORCH)/include -isystem $(LIBTORCH)/include/torch/csrc/api/include
TORCHLINK  := -L$(LIBTORCH)/lib -ltorch_cpu -lc10 -Wl,-rpath,$(LIBTORCH)/lib -Wl,-rpath,'$$ORIGIN/../site/torch/lib'

# An empty libtorch.so comes first on the link path: gotorch names -ltorch, whose real library drags all of CUDA in.
# Not deprecated: NVIDIA's header marks what the module that reads it has functions for.
export CGO_CFLAGS  := -O2 -Wno-deprecated-declarations
# Lazy: NVIDIA's management library (ops/nvml) has its symbols only once it is loaded.
export CGO_LDFLAGS := -L$(LIB) -L$(LIBTORCH)/lib -Wl,-z,lazy -Wl,--as-needed -Wl,--allow-shlib-undefined -Wl,-rpath,$(LIB) -Wl,-rpath,$(LIBTORCH)/lib

OPS_SRC    := $(wildcard ops/csrc/*.cc)
PIXEL_SRC  := $(wildcard ops/pixel/csrc/*.cc)
CUDA_SRC   := $(wildcard ops/csrc/*.cu ops/pixel/csrc/*.cu)
CUDA_OBJ   := $(patsubst ops/csrc/%.cu,$(OBJ)/cuda/ops/%.o,$(patsubst ops/pixel/csrc/%.cu,$(OBJ)/cuda/pixel/%.o,$(CUDA_SRC)))
HEADERS    := $(wildcard ops/csrc/*.h ops/pixel/csrc/*.h)
GOTORCH_CC := cuda device functional init memory optim pickle tensor torch
LIBS       := $(LIB)/libtorch.so $(LIB)/libcgotorch.so $(LIB)/libmpops.so $(LIB)/libmppixel.so
GO_SRC      = $(shell find . -path ./build -prune -o -name '*.go' -print) go.mod

JOBS       := $(shell nproc)
Q          := $(if $(V),,@)
.DEFAULT_GOAL := all
.PHONY: all libs system demo gpu-check gpu-bundle web-check drills soak nightly s3-check attack-compare explain-compare tensorboard-check test vet lint vuln race fuzz cuda venv env proto clean

all: system
	@$(MAKE) --no-print-directory -j$(JOBS) $(LIBS)
	@$(MAKE) --no-print-directory mp
	@echo "mp is up to date: ./mp --help"

libs: system
	@$(MAKE) --no-print-directory -j$(JOBS) $(LIBS)

# In the container image its libraries are found by its own place (deploy/rootfs.sh). It names its commit (`mp version`) where git tells one.
mp: $(LIBS) $(GO_SRC)
	go build -buildvcs=$(if $(shell git rev-parse HEAD 2>/dev/null),true,false) -ldflags '-extldflags=-Wl,-rpath,$$ORIGIN/../lib/mp/lib' -o mp .

# The two headers that no registry of Go or Python carries.
system:
	@if ! command -v go >/dev/null || ! command -v g++ >/dev/null || ! command -v python3 >/dev/null; then \
		echo "mp needs go, g++ and python3 with pip: apt-get install golang g++ python3 python3-pip" >&2; exit 1; fi
	@if ! echo '#include <stdio.h>\n#include <jpeglib.h>' | sed 's/\\n/\n/' | g++ -E -x c++ - >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq libjpeg62-turbo-dev || apt-get install -y -qq libjpeg-turbo8-dev; \
		else echo "missing libjpeg-turbo headers; run: sudo apt-get install -y libjpeg-dev" >&2; exit 1; fi; fi

$(LIBTORCH)/lib/libtorch_cpu.so:
	@if [ "$(LIBTORCH)" != "$(SITE)/torch" ]; then echo "LIBTORCH=$(LIBTORCH) holds no lib/libtorch_cpu.so" >&2; exit 1; fi
	deploy/libtorch.sh $(SITE)
	@touch $@

$(LIB)/libtorch.so:
	@mkdir -p $(LIB)
	@echo | $(CXX) -shared -x c++ - -o $@

$(OBJ)/gotorch/%.o: go.mod $(LIBTORCH)/lib/libtorch_cpu.so
	@mkdir -p $(@D)
	@echo "compile gotorch's $*.cc"
	$(Q)$(CXX) $(CXXFLAGS) -w $(TORCHFLAGS) -I$(GOTORCH) -c $(GOTORCH)/cgotorch/$*.cc -o $@

# Its SetNumThreads gives way to ours (threads.cc), which allows a machine of one processor.
$(OBJ)/gotorch/device.o: CXXFLAGS += -DSetNumThreads=gotorch_SetNumThreads

$(OBJ)/gotorch/threads.o: ops/csrc/gotorch/threads.cc $(LIBTORCH)/lib/libtorch_cpu.so
	@mkdir -p $(@D)
	@echo "compile $<"
	$(Q)$(CXX) $(CXXFLAGS) $(OURS) $(TORCHFLAGS) -c $< -o $@

$(LIB)/libcgotorch.so: $(GOTORCH_CC:%=$(OBJ)/gotorch/%.o) $(OBJ)/gotorch/threads.o
	@mkdir -p $(LIB)
	@echo "link $(@F)"
	$(Q)$(CXX) -shared $^ -o $@ $(TORCHLINK)

# at::parallel_for is a plain loop where OpenMP is off. The runtime is libtorch's own: nothing links another.
$(OBJ)/ops/%.o: CXXFLAGS += -fopenmp
$(OBJ)/ops/%.o: ops/csrc/%.cc $(HEADERS) $(LIBTORCH)/lib/libtorch_cpu.so
	@mkdir -p $(@D)
	@echo "compile $<"
	$(Q)$(CXX) $(CXXFLAGS) $(OURS) $(TORCHFLAGS) -c $< -o $@

# Square roots without errno vectorise; without fused multiply-adds the CPU and the GPU compute the same bits.
$(OBJ)/ops/update.o: CXXFLAGS += -fno-math-errno -ffp-contract=off
# What is computed again must be the same bits.
$(OBJ)/ops/fusednorm.o: CXXFLAGS += -fno-trapping-math -ffp-contract=off
$(OBJ)/ops/fixed.o: CXXFLAGS += -fno-math-errno -fno-trapping-math
$(OBJ)/cuda/ops/update.o: NVFLAGS += -fmad=false

$(LIB)/libmpops.so: $(OPS_SRC:ops/csrc/%.cc=$(OBJ)/ops/%.o)
	@mkdir -p $(LIB)
	@echo "link $(@F)"
	$(Q)$(CXX) -shared $^ -o $@ $(TORCHLINK)

# Resizing has floats whose last bit counts.
$(OBJ)/pixel/resize.o: CXXFLAGS += -ffp-contract=off
$(OBJ)/pixel/%.o: ops/pixel/csrc/%.cc $(HEADERS)
	@mkdir -p $(@D)
	@echo "compile $<"
	$(Q)$(CXX) $(CXXFLAGS) $(OURS) -c $< -o $@

$(LIB)/libmppixel.so: $(PIXEL_SRC:ops/pixel/csrc/%.cc=$(OBJ)/pixel/%.o)
	@mkdir -p $(LIB)
	@echo "link $(@F)"
	$(Q)$(CXX) -shared $^ -o $@ -ljpeg

cuda:
	@$(MAKE) --no-print-directory -j$(JOBS) $(LIB)/libmpcuda.so

$(NVCC):
	deploy/libtorch.sh $(BUILD)/cuda cuda
	@touch $@

$(OBJ)/cuda/ops/%.o: ops/csrc/%.cu $(HEADERS) $(NVCC)
	@mkdir -p $(@D)
	@echo "compile $<"
	$(Q)$(NVCC) $(NVFLAGS) -c $< -o $@

$(OBJ)/cuda/pixel/%.o: ops/pixel/csrc/%.cu $(HEADERS) $(NVCC)
	@mkdir -p $(@D)
	@echo "compile $<"
	$(Q)$(NVCC) $(NVFLAGS) -c $< -o $@

$(LIB)/libmpcuda.so: $(CUDA_OBJ)
	@mkdir -p $(LIB)
	@echo "link $(@F)"
	$(Q)$(CXX) -shared $^ -o $@ -L$(BUILD)/cuda/nvidia/cu13/lib -Wl,-z,defs -Wl,--exclude-libs,ALL -lcudart_static -lrt -lpthread -ldl

venv: $(LIBTORCH)/lib/libtorch_cpu.so
	@deploy/venv.sh $(BUILD)/venv $(dir $(LIBTORCH))

# captum without what it does not need: torch is there, and its plots are not drawn.
CAPTUM := captum==0.9.0 tqdm packaging matplotlib pillow contourpy cycler fonttools kiwisolver pyparsing python-dateutil six
$(BUILD)/captum/captum/__init__.py: | venv
	$(BUILD)/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(BUILD)/captum $(CAPTUM)

explain-compare: all $(BUILD)/captum/captum/__init__.py
	@if [ -z "$(DATA)" -o -z "$(CHECKPOINT)" ]; then echo "give DATA=DIR, a MiniPlaces folder, and CHECKPOINT=F, a SimpleNet" >&2; exit 64; fi
	CAPTUM=$(BUILD)/captum $(BUILD)/venv/bin/python explain/testdata/compare.py --data $(DATA) --checkpoint $(CHECKPOINT)

# tensorboard without what only its server needs; numpy is torch's.
$(BUILD)/tensorboard/tensorboard/__init__.py: | venv
	$(BUILD)/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(BUILD)/tensorboard tensorboard==2.20.0 absl-py protobuf

tensorboard-check: $(BUILD)/tensorboard/tensorboard/__init__.py
	TENSORBOARD=$(BUILD)/tensorboard go test -count=1 -v -run Real ./metrics/tensorboard

demo: all
	deploy/demo.sh $(DATA)

gpu-check: all cuda
	deploy/gpucheck.sh

gpu-bundle: libs cuda
	deploy/gpucheck.sh pack

# Root installs the browser; others are told.
web-check: libs
	@if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then \
		if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq chromium; \
		else echo "missing Chromium; run: sudo apt-get install -y chromium" >&2; exit 1; fi; fi
	SCREENSHOTS=$(BUILD)/screenshots go test -count 1 -timeout 15m -run 'TestPage' ./coordinator/web ./cmd

TLS ?= off
drills: all
	go test -tags long -timeout 30m ./internal/testcluster
	./mp drill all --tls $(TLS) --out $(BUILD)/drills.json

MINUTES ?= 30
soak: all
	./mp drill soak --minutes $(MINUTES) --every 15s
	./mp drill soak --minutes $(MINUTES) --every 60s

image-root: all
	deploy/rootfs.sh $(BUILD)/image

# A module of its own: mp needs no client of Kubernetes.
kube-check: image-root
	@if [ "$$(id -u)" != 0 ]; then echo "make kube-check makes namespaces and mounts: run it as root" >&2; exit 1; fi
	deploy/kube.sh $(BUILD)/kube
	cd deploy/kubetest && MP=$(CURDIR)/mp IMAGE=$(BUILD)/image CONTROL_PLANE=$(BUILD)/kube/bin KINDS=$(BUILD)/kube/kinds DATA=$(abspath $(DATA)) \
		go test -count=1 -timeout 60m -v ./...

# torchattacks without what it does not need: torch is there, and its list of models is not read.
$(BUILD)/torchattacks/torchattacks/__init__.py: | venv
	$(BUILD)/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(BUILD)/torchattacks torchattacks==3.5.1 scipy

IMAGES  ?= 500
EPS     ?= 0.25/255,0.5/255,1/255
ATTACKS ?= fgsm,pgd,apgd-ce,apgd-t,fab-t,square,autoattack
attack-compare: all $(BUILD)/torchattacks/torchattacks/__init__.py
	@if [ -z "$(DATA)" -o -z "$(CHECKPOINT)" ]; then echo "give DATA=DIR, a MiniPlaces folder, and CHECKPOINT=F, a SimpleNet" >&2; exit 64; fi
	TORCHATTACKS=$(BUILD)/torchattacks $(BUILD)/venv/bin/python attack/testdata/compare.py --data $(DATA) --checkpoint $(CHECKPOINT) \
		--images $(IMAGES) --eps $(EPS) --attacks $(ATTACKS)

# Everything CI checks. Packages without libtorch also run under the race detector. Tests that need PyTorch skip where
# venv.sh says (3) that this machine's Python has none.
test: all lint cuda
	@deploy/venv.sh $(BUILD)/venv $(dir $(LIBTORCH)) || [ $$? = 3 ]
	go test ./...
	$(MAKE) --no-print-directory race
	@said=$$($(MAKE) --no-print-directory vuln 2>&1); rc=$$?; echo "$$said"; case "$$rc $$said" in 0\ *) ;; *fetching\ vulnerabilities:*) \
		echo "vuln.go.dev cannot be asked from here: what mp is made of was NOT compared with it (make vuln)" ;; *) exit 1 ;; esac

PURE := ./job ./data ./checkpoint ./metrics/... ./allreduce/... ./coordinator/... ./mppb ./internal/archtest ./internal/shared ./ops/pixel
race: libs
	go test -race -short $(PURE)

# Ten minutes for each reader of files that strangers write.
FUZZTIME ?= 10m
fuzz: libs
	@for target in data:FuzzList data:FuzzPack data:FuzzUnpack checkpoint:FuzzSafetensors checkpoint:FuzzPickle checkpoint:FuzzZip job:FuzzJobFile allreduce:FuzzPairs allreduce/rpc:FuzzFrame; do \
		go test ./$${target%%:*} -run '^$$' -fuzz "^$${target##*:}$$" -fuzztime $(FUZZTIME) || exit 1; done

# All night: the race detector, the readers of strangers' files, every drill, an hour of random faults. The table is docs/nightly.md.
nightly: all
	deploy/nightly.sh

s3-check: all
	deploy/s3check.sh $(BUILD)

vet: libs
	go vet ./...

# The version is pinned here rather than in go.mod, so that nothing that mp is made of depends on it.
lint: vet
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

# Known faults in what mp is made of: it asks vuln.go.dev. make test goes on where that cannot be reached, and says so.
vuln: libs
	go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

# Writes the Go files of the protocol; the first run compiles buf, some minutes.
proto:
	go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate --template mppb/buf.gen.yaml --path mppb

env:
	@echo "export CGO_CFLAGS='$(CGO_CFLAGS)'"
	@echo "export CGO_LDFLAGS='$(CGO_LDFLAGS)'"

clean:
	rm -rf $(OBJ) $(LIB) mp
