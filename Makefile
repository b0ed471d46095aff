# parzen: `make` builds one binary; `make demo` runs a search with it; `make test` tests it. GNU make, gcc or clang.
CC ?= cc
NVCC ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc),nvcc)
# Warnings are errors with WERROR=1 (as .ci/run does), and only warnings for users.
WERROR ?= 0
OPT ?= -O2 -g
WARN = -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes $(if $(filter 1,$(WERROR)),-Werror)
ALL_CFLAGS = -std=gnu11 $(OPT) -fno-math-errno -ffp-contract=off -pthread $(WARN) $(CFLAGS)
LDLIBS = -lm

# One build of each kind in a folder of its own: make BUILD=build/asan OPT="-O1 -g -fsanitize=address,undefined"
BUILD ?= build
BIN ?= parzen

# The CPU's operations are one text, compiled for each instruction set; the program chooses at run time.
ISAS = base
FLAGS_base =
ifeq ($(firstword $(subst -, ,$(shell $(CC) -dumpmachine))),x86_64)
ISAS += avx2 avx512
FLAGS_avx2 = -mavx2 -mfma
FLAGS_avx512 = -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma
endif

ROOMS = space script points checkpoint tpe data config net report search worker base threads device_cpu
OBJECTS = $(ROOMS:%=$(BUILD)/%.o) $(ISAS:%=$(BUILD)/layers_cpu_%.o)

# The CUDA device is built in where there is an nvcc (and its source): cudart is linked in, so the binary also starts
# where there is no GPU. ARCH=native builds for the GPU at hand alone. CUDA=0 leaves it out.
ifneq ($(wildcard layers.cu),)
ifneq ($(shell command -v $(NVCC) 2>/dev/null),)
CUDA ?= 1
endif
endif
ifeq ($(CUDA),1)
# One image for each generation, whose later members (8.6, 8.9, ...) run it too, and PTX of the last for those to come.
# 90a: Hopper with its own instructions, which -arch=native would leave out. 12.0's image is made of 10.0's PTX, which
# is that of those to come too: one compilation less. An nvcc before 12.8 does not know the last two (it lists 90, not
# 90a); then the PTX for those to come is 9.0's, for 90a's is Hopper's alone.
comma = ,
ifeq ($(ARCH),native)
ARCH_HERE = $(subst .,,$(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1))
GENCODE = $(if $(filter 90,$(ARCH_HERE)),-gencode arch=compute_90a$(comma)code=sm_90a,-arch=native)
else
FROM_120 = 100
from = $(or $(FROM_$(1)),$(1))
KNOWN = $(shell $(NVCC) --list-gpu-code | sed 's/sm_\(.*\)/\1 \1a/')
IMAGES = $(or $(ARCH),$(filter $(KNOWN),80 90a 100 120))
TO_COME = $(patsubst %a,%,$(call from,$(lastword $(IMAGES))))
GENCODE = $(foreach a,$(IMAGES),-gencode arch=compute_$(call from,$(a))$(comma)code=sm_$(a)) \
          -gencode arch=compute_$(TO_COME),code=compute_$(TO_COME)
endif
OBJECTS += $(BUILD)/layers_cuda.o
ALL_CFLAGS += -DPARZEN_CUDA
$(BUILD)/tests/bench: ALL_CFLAGS += -isystem $(dir $(NVCC))../include
LDLIBS += -L$(dir $(NVCC))../lib64 -lcudart_static -ldl -lrt -lpthread -static-libgcc -Wl,-Bstatic -lstdc++ -Wl,-Bdynamic
endif

CUDA_TEXT = layers.cu $(wildcard *.cuh) layers.h base.h philox.h

TESTS = $(patsubst tests/%.c,%,$(wildcard tests/test_*.c))

# The CUDA device's text also runs without a GPU, as C++ (tests/cuda_host.h), against the CPU device.
CXX ?= c++
HOST_CUDA ?= $(if $(shell command -v $(CXX) 2>/dev/null),1,0)
ifeq ($(HOST_CUDA),1)
TESTS += test_cuda_layers test_cuda_host
else
TESTS := $(filter-out test_cuda,$(TESTS))
endif

.PHONY: all test demo cifar100 asan valgrind fuzz lint format clean
all: $(BIN)

$(BIN): $(BUILD)/main.o $(OBJECTS)
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)
ifneq ($(CUDA),1)
	@echo "built $@ for the CPU alone: no CUDA device in this build"
endif

$(BUILD)/%.o: %.c | $(BUILD)
	$(CC) $(ALL_CFLAGS) -MMD -c -o $@ $<

$(BUILD)/layers_cuda.o: $(CUDA_TEXT) | $(BUILD)
	$(NVCC) -O1 -std=c++17 $(GENCODE) --threads 0 -Xcompiler -Wall,-Wextra -c -o $@ $<

define isa_rule
$(BUILD)/layers_cpu_$(1).o: layers_cpu.c | $(BUILD)
	$$(CC) $$(ALL_CFLAGS) -O3 -ffp-contract=fast $$(FLAGS_$(1)) -DCPU_ISA=$(1) -MMD -c -o $$@ $$<
endef
$(foreach isa,$(ISAS),$(eval $(call isa_rule,$(isa))))

$(BUILD):
	mkdir -p $@

$(BUILD)/tests/%: tests/%.c $(OBJECTS) | $(BUILD)
	@mkdir -p $(BUILD)/tests
	$(CC) $(ALL_CFLAGS) -I. $(LDFLAGS) -MMD -o $@ $< $(OBJECTS) $(LDLIBS)

HOST_OPT = -O1 -g
$(BUILD)/layers_cuda_host.o: $(CUDA_TEXT) tests/cuda_host.h | $(BUILD)
	$(CXX) -x c++ -std=gnu++17 -DCUDA_HOST $(HOST_OPT) -Wall -Wextra -Wno-unknown-pragmas -c -o $@ $<
CUDA_TESTED = $(filter-out $(BUILD)/layers_cuda.o,$(OBJECTS))
$(BUILD)/tests/test_cuda: tests/test_cuda.c $(CUDA_TESTED) $(BUILD)/layers_cuda_host.o
$(BUILD)/tests/test_cuda_layers: tests/test_layers.c tests/layers_reference.h tests/layers_differences.h $(CUDA_TESTED) $(BUILD)/layers_cuda_host.o
$(BUILD)/tests/occupancy: tests/occupancy.c tests/witness.h $(CUDA_TESTED) $(BUILD)/layers_cuda_host.o
$(BUILD)/tests/test_cuda $(BUILD)/tests/test_cuda_layers $(BUILD)/tests/occupancy:
	@mkdir -p $(BUILD)/tests
	$(CC) $(ALL_CFLAGS) -I. -DTEST_CUDA -c -o $@.o $<
	$(CXX) $(HOST_OPT) -pthread -o $@ $@.o $(CUDA_TESTED) $(BUILD)/layers_cuda_host.o -lm

$(BUILD)/tests/test_cuda_host: tests/test_cuda_host.cc tests/cuda_host.h
	@mkdir -p $(BUILD)/tests
	$(CXX) -std=gnu++17 $(HOST_OPT) -Wall -Wextra -Wno-unused-function -pthread -o $@ $<

# The same on a GPU, in memory that host and device both reach; and longer.
$(BUILD)/layers_cuda_managed.o: $(CUDA_TEXT) | $(BUILD)
	$(NVCC) -O3 -std=c++17 $(GENCODE) -DPARZEN_MANAGED -c -o $@ $<
$(BUILD)/tests/gpu_%: tests/test_%.c $(CUDA_TESTED) $(BUILD)/layers_cuda_managed.o
	@mkdir -p $(BUILD)/tests
	$(CC) $(ALL_CFLAGS) -I. -DTEST_CUDA -DTEST_GPU -o $@ $< $(CUDA_TESTED) $(BUILD)/layers_cuda_managed.o $(LDLIBS)
.PHONY: gpu test-gpu sass
ifeq ($(CUDA),1)
gpu: $(BUILD)/tests/gpu_cuda $(BUILD)/tests/gpu_layers $(BUILD)/tests/bench
test-gpu: gpu
	@BUILD=$(BUILD) sh tests/gpu_tests
# What nvcc makes of the kernels: warnings, spills, tensor core instructions, occupancy.
sass: $(BUILD)/tests/occupancy
	@NVCC=$(NVCC) BUILD=$(BUILD) sh tests/sass
else
gpu test-gpu sass:
	@echo "$@ needs nvcc: install the CUDA toolkit, or name it with NVCC=" && exit 2
endif

# parzen with maps rounded to bf16 on the CPU, as a GPU stores them: what that costs in accuracy.
$(BUILD)/tests/parzen_rounded: tests/device_rounded.c $(BUILD)/main.o $(OBJECTS) | $(BUILD)
	@mkdir -p $(BUILD)/tests
	$(CC) $(ALL_CFLAGS) -O3 -I. $(LDFLAGS) -MMD -o $@ $< $(filter-out $(BUILD)/device_cpu.o,$(BUILD)/main.o $(OBJECTS)) $(LDLIBS)

# Replays a folder of hyperopt goldens: tests/golden_tpe DIR
.PHONY: tests/golden_tpe
tests/golden_tpe: $(BUILD)/tests/golden_tpe
	cp $< $@

-include $(wildcard $(BUILD)/*.d $(BUILD)/tests/*.d)

test: $(BIN) $(TESTS:%=$(BUILD)/tests/%) $(BUILD)/tests/golden_tpe
	@BUILD=$(BUILD) BIN=./$(BIN) sh tests/run

# A real search of the whole space, on the built-in images: fewer epochs and narrower layers, the same program.
demo: $(BIN)
	@BIN=./$(BIN) sh tests/demo

# A training step of five configurations, measured: on the GPU where there is one. BENCH="--ops" adds each operation.
BENCH ?=
.PHONY: bench account
bench: $(BUILD)/tests/bench
	@BUILD=$(BUILD) sh tests/bench_run $(BENCH)

# What a step must move and multiply, and what the kernels do, for an H200: needs no GPU.
account: $(BUILD)/tests/bench
	@$< --device none tests/configurations/*.json

cifar100:
	@sh tests/cifar100

# The tests again, the CUDA device's text among them, under AddressSanitizer and UndefinedBehaviorSanitizer.
SANITIZE = -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
asan:
	$(MAKE) BUILD=build/asan BIN=build/asan/parzen OPT="$(SANITIZE)" HOST_OPT="$(SANITIZE)" test

valgrind: $(BIN) $(TESTS:%=$(BUILD)/tests/%)
	@BUILD=$(BUILD) BIN=./$(BIN) sh tests/valgrind

# FUZZ_SECONDS on each reader, with clang's libFuzzer, from the kept corpus.
FUZZ_SECONDS ?= 60
fuzz:
	@FUZZ_SECONDS=$(FUZZ_SECONDS) sh tests/fuzz

# A search among faults, in minutes; as root it also mounts small file systems. SECTIONS="torn flips" tries those alone.
.PHONY: faults
faults: $(BIN) $(BUILD)/tests/flip_log
	@BUILD=$(BUILD) timeout 1800 bash tests/faults ./$(BIN) $(SECTIONS)

# What has threads, and workers beside each other, under ThreadSanitizer.
.PHONY: tsan
tsan: SECTIONS = threads workers
tsan:
	$(MAKE) BUILD=build/tsan BIN=build/tsan/parzen OPT="-O1 -g -fsanitize=thread" build/tsan/parzen
	@BUILD=build/tsan TSAN_OPTIONS="halt_on_error=1 exitcode=66" ROUNDS=1 timeout 1800 bash tests/faults build/tsan/parzen $(SECTIONS)

# A cluster of two nodes on this machine: root, with Debian's slurm-wlm and munge.
.PHONY: slurm
slurm: $(BIN)
	@timeout 1200 sh tests/slurm ./$(BIN)

# Against hyperopt and Keras, which it installs into .venv.
.PHONY: conformance
conformance: $(BIN) $(BUILD)/tests/tpe_probe $(BUILD)/tests/net_probe
	@BUILD=$(BUILD) BIN=$(BIN) sh tests/conformance

# invalidFunctionArg: the log of a mass that may be 0 is -inf on purpose.
lint:
	cppcheck --quiet --std=c11 --suppress=invalidFunctionArg --enable=warning,performance,portability --inline-suppr --error-exitcode=1 -DCPU_ISA=base -I. *.c tests/*.c

format:
	clang-format -i *.c *.h *.cu *.cuh tests/*.c tests/*.cc tests/*.h

clean:
	rm -rf build parzen tests/golden_tpe
