# bmvp: headers need no build; this builds the program, the tests and the benchmarks.
#   make            build/bmvp
#   make demo       phantoms -> prepare -> pre-training of the tiny network -> segmentation, scratch and pre-trained -> demo/run/report.html
#   make experiments  label efficiency, ablation, missing modalities -> experiments/experiments.html (settings: examples/experiments/common.sh)
#   make baselines  every pre-training method before the same fine-tuning -> experiments/baselines.html (examples/experiments/baselines.sh)
#   make course     the lessons of examples/ and the solutions of their exercises (examples/README.md)
#   make course-levels  every lesson on every instruction set, its figures compared: minutes (make test leaves the slow ones out)
#   make twins      lessons beside their twins in PyTorch (PYTHON), whose figures are the same: examples/pytorch
#   make test       everything that needs no Python and no network; BMVP_DATA=DIR adds the tests on real data kept there
#   make bench      speed, beside its peers where they are installed
#   make portable   the same on processors without AVX-512, AVX2, AVX, and on arm64, emulated; and without threads
#   make asan       the tests under AddressSanitizer and UndefinedBehaviorSanitizer; make asan-cuda: the kernels on the CPU shim;
#                   make tsan: threads under ThreadSanitizer
#   make dist       build/bmvp-VERSION.tar.gz of the commit, which builds the same program twice and passes tests (tests/form/dist.sh)
#                   SIGN=KEY signs it: a private key file of ssh's or the name of one of gpg's (tests/form/sign.sh)
#   make analyze    clang --analyze over headers and program, gcc -fanalyzer over bmvp_nifti.h (tests/form/analyze.sh: minutes)
#   make windows    build/windows/bmvp.exe, by mingw-w64 (MINGW): examples/package/windows
#   make install    headers, program, library (static, shared), bmvp.pc, CMake's package, manual page, completion: below PREFIX (DESTDIR/PREFIX)
#   make CUDA=1     build/bmvp with --device cuda (after a build without: make clean-tests first)
#   make MPI=1      build/bmvp whose ranks talk over MPI when mpirun starts them, otherwise over TCP (after a build without: make clean-tests first)
#   make cuda       only bmvp_cuda.cu, for every architecture named, and the tests for a GPU; a kernel that spills registers is an error
#   make fuzz SECONDS=60  the readers under libFuzzer, so long each; make faults: kills, failing allocations, full disks, many of each
#   make test-gpu   PyTorch's numbers and those of the released code (BMVP_DATA/golden) on the GPU that is there
#   make bench-cuda  speed of the heavy kernels, steps and inference on the GPU that is there, beside PyTorch (PYTHON): tables
#   make cuda-shim  the kernels of bmvp_cuda.cu on the CPU against the CPU's own: part of make test, needs a C++17 compiler and no CUDA
# Switches: CC, CFLAGS, ZLIB=1 (gzip by zlib), NO_GZIP=1 (no gzip at all), STATIC=1 (a program without shared libraries: with CC=musl-gcc
# NO_GZIP=1 it runs on any Linux of the processor), PREFIX, BMVP_DATA.
# With MPI=1: MPICC (the compiler that knows the MPI library; mpicc), in place of CC.
# With CUDA: NVCC (the compiler; found in PATH or /usr/local/cuda), CUDA_ARCH (80 90a), CUDA_PTX (80: for GPUs that CUDA_ARCH leaves out),
# NCCL_HOME (several GPUs: the folder of include/nccl.h; that of the CUDA Toolkit or /usr where it is there; NCCL=0: without).

CC      ?= cc
CXX     ?= c++
CFLAGS  ?= -O2
WARN     = -Wall -Wextra -Wpedantic -Wshadow -Wconversion
PREFIX  ?= /usr/local
BMVP_DATA ?= ../shared
LDLIBS   = $(if $(STATIC),-static) -lm -lpthread

ifdef ZLIB
  DEFS   = -DBMVP_NIFTI_ZLIB
  GZ     = -lz
  GZ_APT = zlib1g-dev
  GZ_H   = zlib.h
else ifdef NO_GZIP
  DEFS   = -DBMVP_NIFTI_NO_GZIP
else
  GZ     = -ldeflate
  GZ_APT = libdeflate-dev
  GZ_H   = libdeflate.h
endif

NVCC      ?= $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA_ARCH ?= 80 90a
CUDA_PTX  ?= 80
CUDA_CODE  = $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_$(CUDA_PTX),code=compute_$(CUDA_PTX)
NCCL_HOME ?= $(patsubst %/include/nccl.h,%,$(firstword $(wildcard $(dir $(NVCC))../include/nccl.h /usr/include/nccl.h)))
ifneq ($(NCCL),0)
  ifneq ($(NCCL_HOME),)
    ifeq ($(wildcard $(NCCL_HOME)/include/nccl.h),)
      $(error NCCL_HOME=$(NCCL_HOME): there is no include/nccl.h below it; or build without: make NCCL=0)
    endif
    NCCL_LIB  = $(patsubst %/,%,$(dir $(firstword $(wildcard $(NCCL_HOME)/lib*/libnccl.so))))
    NCCL_DEFS = -DBMVP_NCCL -isystem $(NCCL_HOME)/include
    NCCL_LIBS = $(if $(NCCL_LIB),-L$(NCCL_LIB) -Wl$(comma)-rpath$(comma)$(NCCL_LIB)) -lnccl
  endif
endif
comma = ,
CUDA_LIB  = $(dir $(NVCC))../lib64
CUDA_LINK = -L$(CUDA_LIB) -Wl,-rpath,$(CUDA_LIB) $(NCCL_LIBS) -lcudart -lcublas -lcublasLt -lstdc++
ifdef CUDA
  ifeq ($(NVCC),)
    $(error CUDA=1 needs the CUDA Toolkit: put nvcc into PATH, or name it: make CUDA=1 NVCC=/where/it/is/bin/nvcc)
  endif
  CUDA_O     = build/bmvp_cuda.o
  CUDA_DEFS  = -DPROGRAM_CUDA
  CUDA_LIBS  = $(CUDA_LINK)
endif

ifdef MPI
  MPICC   ?= mpicc
  ifeq ($(shell command -v $(firstword $(MPICC)) 2>/dev/null),)
    $(error MPI=1 needs $(MPICC): apt-get install libopenmpi-dev, or name it: make MPI=1 MPICC=/where/it/is/bin/mpicc)
  endif
  CC       = $(MPICC)
  MPI_DEFS = -DPROGRAM_MPI
endif

HEADERS  = bmvp_tensor.h bmvp_nn.h bmvp_ssl.h bmvp_nifti.h
PROGRAM  = $(wildcard examples/bmvp/*.c examples/bmvp/*/*.c examples/methods/*.c)
PROGRAM_H = $(wildcard examples/bmvp/*/*.h examples/methods/*.h)
PROGRAM_O = $(patsubst %.c,build/%.o,$(notdir $(PROGRAM)))
vpath %.c $(sort $(dir $(PROGRAM)))
COURSE   = $(patsubst examples/%.c,build/%,$(wildcard examples/[0-9]*.c)) build/segment
SOLUTIONS = $(patsubst examples/solutions/%.c,build/solution_%,$(wildcard examples/solutions/*.c))
TESTS    = ops tape memory comm parallel parallel_ft method launch ranks atlas phantom json checkpoint hostile nets networks layers optim state \
           masks step runs labels metrics nifti grids moved stopped register release window predict weights finetune methods methods_unet methods_vit methods_swin
USERS    = layers ops tape memory comm parallel parallel_ft method json optim state masks step runs labels metrics release window weights finetune stopped
INSIDE   = checkpoint hostile networks nets predict
TEST_H   = $(wildcard tests/support/*.h)
SHIM_TESTS = nets optim step # what runs on the GPU that the CPU plays: the tiny networks
HAVE_CXX = $(shell command -v $(CXX) >/dev/null 2>&1 && echo yes)
TEST_BIN = $(TESTS:%=build/test_%) $(if $(HAVE_CXX),build/test_cuda build/test_cuda_steps build/test_cuda_comm $(SHIM_TESTS:%=build/test_%_shim))
COMPILE  = $(CC) -std=c99 -D_FILE_OFFSET_BITS=64 $(CFLAGS) $(WARN) $(DEFS) -I. -Iexamples/bmvp

all: build/bmvp $(COURSE)

build:
	@mkdir -p build
	@test -z "$(GZ_H)" || echo '#include <$(GZ_H)>' | $(CC) -E -x c - >/dev/null 2>&1 || \
	  { echo "missing: $(GZ_H). Fix: apt-get install $(GZ_APT)   (or: make ZLIB=1, make NO_GZIP=1)"; exit 1; }

build/%.o: %.c $(HEADERS) $(PROGRAM_H) | build
	$(COMPILE) $(CUDA_DEFS) $(MPI_DEFS) -c $< -o $@

build/bmvp: examples/bmvp.c $(PROGRAM_O) $(CUDA_O) $(HEADERS) $(PROGRAM_H)
	$(COMPILE) $< $(PROGRAM_O) $(CUDA_O) -o $@ $(GZ) $(CUDA_LIBS) $(LDLIBS)

PAGE_C = $(wildcard examples/experiments/*.c)
build/experiments_page: $(PAGE_C) examples/experiments/results.h $(PROGRAM_O) $(CUDA_O) $(HEADERS) $(PROGRAM_H)
	$(COMPILE) $(PAGE_C) $(PROGRAM_O) $(CUDA_O) -o $@ $(GZ) $(CUDA_LIBS) $(LDLIBS)

build/bmvp_cuda.o: bmvp_cuda.cu bmvp_tensor.h | build
	$(NVCC) --threads 2 -std=c++17 -O3 $(CUDA_CODE) $(CUDA_CHECK) $(NCCL_DEFS) -Xcompiler -Wall,-Wextra -I. -c $< -o $@

# The program and the kernels' tests with tests/gpu/cuda_shim.h in place of CUDA
SHIM_H = tests/gpu/cuda_shim.h tests/gpu/cuda_blas.h
build/bmvp_cuda_shim.o: bmvp_cuda.cu $(SHIM_H) tests/gpu/cuda_nccl.h bmvp_tensor.h | build
	$(CXX) -std=c++17 $(CFLAGS) $(WARN) -DBMVP_CUDA_SHIM -DBMVP_NCCL -I. -Itests/gpu -x c++ -c $< -o $@

build/test_cuda: bmvp_tensor.h
build/test_cuda_steps: $(HEADERS)
build/test_cuda build/test_cuda_steps: build/%: tests/gpu/%.cpp build/bmvp_cuda_shim.o $(SHIM_H) tests/gpu/on_shim.h tests/support/check.h
	$(CXX) -std=c++17 $(CFLAGS) $(WARN) -DBMVP_CUDA_SHIM -I. -Itests/gpu $< build/bmvp_cuda_shim.o -o $@ $(LDLIBS)

build/test_cuda_comm: tests/gpu/test_cuda_comm.cpp build/bmvp_cuda_shim.o build/library.o tests/support/check.h tests/support/pass.h tests/gpu/cuda_nccl.h $(HEADERS)
	$(CXX) -std=c++17 $(CFLAGS) $(WARN) -DBMVP_CUDA_SHIM -I. -Itests/gpu $< build/bmvp_cuda_shim.o build/library.o -o $@ $(GZ) $(LDLIBS)

build/device_shim.o build/ranks_shim.o: build/%_shim.o: %.c $(HEADERS) $(PROGRAM_H) | build
	$(COMPILE) -DPROGRAM_CUDA -c $< -o $@

SHIM_O = $(patsubst build/ranks.o,build/ranks_shim.o,$(patsubst build/device.o,build/device_shim.o,$(PROGRAM_O))) build/bmvp_cuda_shim.o
build/bmvp_shim: examples/bmvp.c $(SHIM_O)
	$(COMPILE) $< $(SHIM_O) -o $@ $(GZ) -lstdc++ $(LDLIBS)

# PyTorch's numbers and those of the released code (BMVP_DATA/golden) on a GPU; on the shim the tiny networks alone
GPU_TESTS = nets optim step release
TEST_LIBRARY = $(if $(filter $*,$(USERS)),build/library.o)$(if $(filter $*,$(INSIDE)),build/inside.o)
$(GPU_TESTS:%=build/test_%_shim): build/test_%_shim: tests/unit/test_%.c build/bmvp_cuda_shim.o build/library.o build/inside.o $(TEST_H) $(HEADERS)
	$(COMPILE) -DTEST_CUDA $< $(TEST_LIBRARY) build/bmvp_cuda_shim.o -o $@ $(GZ) -lstdc++ $(LDLIBS)
$(GPU_TESTS:%=build/test_%_gpu): build/test_%_gpu: tests/unit/test_%.c build/bmvp_cuda.o build/library.o build/inside.o $(TEST_H) $(HEADERS)
	$(COMPILE) -DTEST_CUDA $< $(TEST_LIBRARY) build/bmvp_cuda.o -o $@ $(GZ) $(CUDA_LINK) $(LDLIBS)

# The program as MPI=1 makes it, beside the other: for the tests.
HAVE_MPI = $(shell command -v mpicc >/dev/null 2>&1 && command -v mpirun >/dev/null 2>&1 && echo yes)
build/mpi_mpi.o build/join_mpi.o: build/%_mpi.o: %.c $(HEADERS) $(PROGRAM_H) | build
	mpicc -std=c99 $(CFLAGS) $(WARN) $(DEFS) -I. -Iexamples/bmvp -DPROGRAM_MPI -c $< -o $@
MPI_O = $(patsubst build/mpi.o,build/mpi_mpi.o,$(patsubst build/join.o,build/join_mpi.o,$(PROGRAM_O)))
build/bmvp_mpi: examples/bmvp.c $(MPI_O)
	mpicc -std=c99 $(CFLAGS) $(WARN) $(DEFS) -I. -Iexamples/bmvp $< $(MPI_O) -o $@ $(GZ) $(LDLIBS)

cuda: CUDA_CHECK = -Xptxas -warn-spills,-warn-lmem-usage,-Werror
cuda: $(GPU_TESTS:%=build/test_%_gpu) build/bench_cuda build/bench_step_cuda
test-gpu: $(GPU_TESTS:%=build/test_%_gpu)
	@for t in $^; do echo "== $$t"; BMVP_DATA="$(BMVP_DATA)" $$t || exit 1; done
cuda-shim: build/test_cuda build/test_cuda_steps build/test_cuda_comm $(SHIM_TESTS:%=build/test_%_shim) build/bmvp_shim
	build/test_cuda
	build/test_cuda_steps
	build/test_cuda_comm
	@for t in $(SHIM_TESTS); do build/test_$${t}_shim || exit 1; done
	sh tests/gpu/cuda_cli.sh

# A lesson is one file that compiles by itself (its head has the line); here all take the program's implementation, which is compiled once.
LESSON_H = examples/picture.h examples/bmvp/report/png.h tests/support/ranks.h
build/%: examples/%.c $(LESSON_H) build/library.o $(HEADERS)
	sed 's/^#define BMVP_IMPLEMENTATION$$//' $< | $(COMPILE) -Iexamples -x c - -x none build/library.o -o $@ $(GZ) $(LDLIBS)

# examples/solutions/: those of the lessons' exercises
# Some include their lesson, for its functions: they find a copy without the implementation.
LESSONS = $(patsubst examples/%,build/lessons/%,$(wildcard examples/[0-9]*.c))
build/lessons/%.c: examples/%.c | build
	@mkdir -p build/lessons
	sed 's/^#define BMVP_IMPLEMENTATION$$//' $< >$@
build/solution_%: examples/solutions/%.c $(LESSONS) $(LESSON_H) build/library.o $(HEADERS)
	sed 's/^#define BMVP_IMPLEMENTATION$$//' $< | $(COMPILE) -Ibuild/lessons -Iexamples -x c - -x none build/library.o -o $@ $(GZ) $(LDLIBS)
course: $(COURSE) $(SOLUTIONS)
course-levels: course
	@CC="$(CC)" CXX="$(CXX)" GZ="$(GZ)" COURSE_LEVELS=all sh tests/program/course.sh
twins: $(patsubst examples/pytorch/%.py,build/%,$(wildcard examples/pytorch/*.py))
	$(or $(PYTHON),python3) tests/reference/course_reference.py

# Tests of the public functions are linked with the program's implementation; those that look inside with one that has doors for them.
# Those of bmvp_nifti.h alone and of the kernels have their own.
build/inside.o: tests/support/inside.c tests/support/inside.h $(HEADERS) | build
	$(COMPILE) -c $< -o $@
ifdef ONE_LIBRARY # sanitizers: two to three minutes to compile each
build/library.o: build/inside.o
	cp $< $@
endif
$(INSIDE:%=build/test_%): build/test_%: tests/unit/test_%.c build/inside.o $(TEST_H) $(HEADERS)
	$(COMPILE) $< build/inside.o -o $@ $(GZ) $(LDLIBS)
$(USERS:%=build/test_%): build/test_%: tests/unit/test_%.c build/library.o $(TEST_H) $(HEADERS)
	$(COMPILE) $< build/library.o -o $@ $(GZ) $(LDLIBS)

METHODS_O = $(patsubst examples/methods/%.c,build/%.o,$(wildcard examples/methods/*.c))
build/test_methods build/test_methods_vit: build/%: tests/unit/%.c $(METHODS_O) build/library.o $(TEST_H) $(HEADERS)
	$(COMPILE) $< $(METHODS_O) build/library.o -o $@ $(GZ) $(LDLIBS)
build/test_methods_swin build/test_methods_unet: build/%: tests/unit/%.c $(METHODS_O) build/inside.o $(TEST_H) $(HEADERS)
	$(COMPILE) $< $(METHODS_O) build/inside.o -o $@ $(GZ) $(LDLIBS)

build/test_%: tests/unit/test_%.c $(TEST_H) $(HEADERS) | build
	$(COMPILE) $< -o $@ $(GZ) $(LDLIBS)

LAUNCH_O = $(patsubst %,build/%.o,launch sockets rendezvous star tcp mpi queue join library)
PHANTOM_O = $(patsubst %,build/%.o,anatomy head physics scanner shapes variety library)
build/test_phantom: tests/program/test_phantom.c $(PHANTOM_O) tests/support/check.h $(PROGRAM_H)
	$(COMPILE) $< $(PHANTOM_O) -o $@ $(GZ) $(LDLIBS)
build/test_launch build/test_ranks: build/%: tests/program/%.c $(LAUNCH_O) tests/support/check.h tests/support/places.h bmvp_tensor.h $(PROGRAM_H)
	$(COMPILE) $< $(LAUNCH_O) -o $@ $(GZ) $(LDLIBS)

ATLAS_O = build/atlas.o build/files.o build/library.o
build/test_atlas: tests/program/test_atlas.c $(ATLAS_O) tests/support/check.h $(HEADERS) $(PROGRAM_H)
	$(COMPILE) $< $(ATLAS_O) -o $@ $(GZ) $(LDLIBS)

# The readers under libFuzzer (clang; without SIMD, which takes minutes to compile), and its harnesses on files that are there (any compiler)
FUZZ    = checkpoint json nifti lists meet texts trainers
# meet.c holds these, whose static functions it calls
MET     = %rendezvous.o %star.o %launch.o
build/harness_meet.o build/fuzz_meet: $(addprefix examples/bmvp/ranks/,rendezvous.c star.c launch.c)
SECONDS ?= 60
# counted.c looks at what the program takes by malloc
COUNTED = $(foreach f,malloc calloc realloc free,-Wl,--wrap=$(f))
FUZZ_H  = tests/fuzz/fuzz.h $(HEADERS) $(PROGRAM_H)
build/harness_%.o: tests/fuzz/%.c $(FUZZ_H) | build
	$(COMPILE) -DFUZZ_ONE=fuzz_$* -c $< -o $@
build/replay: tests/fuzz/replay.c $(FUZZ:%=build/harness_%.o) build/harness_counted.o $(PROGRAM_O) $(CUDA_O) tests/support/check.h
	$(COMPILE) $(COUNTED) $< $(FUZZ:%=build/harness_%.o) build/harness_counted.o $(filter-out $(MET),$(PROGRAM_O)) $(CUDA_O) -o $@ $(GZ) $(CUDA_LIBS) $(LDLIBS)
CLANG_FUZZ = clang -std=c99 -O1 -g1 -DBMVP_NO_SIMD $(DEFS) -I. -Iexamples/bmvp -fsanitize=address,undefined -fno-sanitize-recover=undefined
FUZZ_O  = $(patsubst %.c,build/fuzzed_%.o,$(notdir $(PROGRAM)))
build/fuzzed_%.o: %.c $(HEADERS) $(PROGRAM_H) | build
	$(CLANG_FUZZ) -fsanitize=fuzzer-no-link -c $< -o $@
build/fuzz_%: tests/fuzz/%.c tests/fuzz/counted.c $(FUZZ_H) $(FUZZ_O)
	$(CLANG_FUZZ) -fsanitize=fuzzer $(COUNTED) $< tests/fuzz/counted.c $(if $(filter meet,$*),$(filter-out $(MET),$(FUZZ_O)),$(FUZZ_O)) -o $@ $(GZ) $(LDLIBS)
fuzz: $(FUZZ:%=build/fuzz_%)
	@sh tests/fuzz/run.sh $(SECONDS) $(FUZZ)
faults: build/bmvp
	@CC="$(CC)" sh tests/faults/faults.sh long

build/bench_%: tests/bench/bench_%.c tests/support/formula.h $(HEADERS) | build
	$(COMPILE) $< -o $@ $(GZ) $(LDLIBS) $(BENCH_LIBS)

# bench_step.c for a GPU, and, to try it without one, small on the shim
build/bench_step build/bench_step_cuda build/bench_step_shim: tests/bench/rows.h tests/bench/kernels.h
build/bench_cuda build/bench_step_cuda: tests/bench/gpu.h build/bmvp_cuda.o
build/bench_cuda: tests/bench/bench_cuda.c bmvp_tensor.h
	$(COMPILE) -isystem $(dir $(NVCC))../include $< build/bmvp_cuda.o -o $@ $(CUDA_LINK) $(LDLIBS)
build/bench_step_cuda: tests/bench/bench_step.c tests/support/formula.h $(HEADERS)
	$(COMPILE) -DBENCH_CUDA -isystem $(dir $(NVCC))../include $< build/bmvp_cuda.o -o $@ $(GZ) $(CUDA_LINK) $(LDLIBS)
build/bench_step_shim: tests/bench/bench_step.c tests/bench/gpu.h build/bmvp_cuda_shim.o tests/support/formula.h $(HEADERS)
	$(COMPILE) -DBENCH_CUDA -DBMVP_CUDA_SHIM -DBENCH_CROP=32 -DBENCH_NET='"uniformer_tiny"' $< build/bmvp_cuda_shim.o -o $@ $(GZ) -lstdc++ $(LDLIBS)
bench-cuda: build/bench_cuda build/bench_step_cuda
	build/bench_cuda
	@sh tests/bench/cuda.sh

demo: build/bmvp build/experiments_page
	@sh examples/demo.sh demo

experiments: build/bmvp build/experiments_page
	@sh examples/experiments/run.sh

baselines: build/bmvp build/experiments_page
	@sh examples/experiments/baselines.sh

tests: build/bmvp build/replay build/experiments_page $(TEST_BIN) $(if $(HAVE_CXX),build/bmvp_shim) $(if $(HAVE_MPI),build/bmvp_mpi) course

test: tests
	@BMVP_DATA="$(BMVP_DATA)" CC="$(CC)" CXX="$(CXX)" GZ="$(GZ)" DEFS="$(DEFS)" sh tests/run.sh $(TEST_BIN)

bench: build/bmvp build/bench_step build/bench_metrics
	@BMVP_DATA="$(BMVP_DATA)" CC="$(CC)" GZ="$(GZ)" DEFS="$(DEFS)" sh tests/bench/run.sh

portable: build/test_ops build/test_tape build/library.o
	@CC="$(CC)" CFLAGS="$(CFLAGS)" GZ="$(GZ)" sh tests/form/portable.sh

SAN = -O1 -g1 -fno-omit-frame-pointer
ASAN = $(SAN) -fsanitize=address,undefined -fno-sanitize-recover=undefined
# Not under sanitizers: what compiles and reads (form), the lessons, long training (methods: a step of each is in test_methods), and the
# program on the shim; nor fine-tuning by ranks (test_parallel has the ranks, test_finetune the steps). The kernels on the shim, which looks
# after their memory itself (pages without access around every block), have a target of their own, as they take as long as all the rest.
ASAN_LESS = form/house form/forms form/readme program/methods program/baselines program/course program/install gpu/cuda_cli faults/faults
CUDA_BIN  = $(filter build/test_cuda%,$(TEST_BIN))
ASAN_BIN  = $(filter-out $(CUDA_BIN) %_shim build/test_parallel_ft,$(TEST_BIN))
asan asan-cuda:
	$(MAKE) clean-tests
	$(MAKE) -j2 CFLAGS="$(ASAN)" ONE_LIBRARY=1 sanitized-$@
	$(MAKE) clean-tests
sanitized-asan: build/bmvp build/replay $(if $(HAVE_MPI),build/bmvp_mpi) $(ASAN_BIN)
	@BMVP_DATA="$(BMVP_DATA)" LEAVE_OUT="$(ASAN_LESS)" CC="$(CC)" CXX="$(CXX)" GZ="$(GZ)" DEFS="$(DEFS)" sh tests/run.sh $(ASAN_BIN)
sanitized-asan-cuda: $(CUDA_BIN)
	@for t in $(CUDA_BIN); do SHIM_ORDERS=1 $$t || exit 1; done
TSAN_TESTS = ops tape memory comm parallel launch ranks
tsan:
	$(MAKE) clean-tests
	$(MAKE) CFLAGS="$(SAN) -fsanitize=thread" $(TSAN_TESTS:%=build/test_%)
	for t in "ops threads" "tape threads" "memory threads" comm parallel launch ranks; do build/test_$$t || exit 1; done
	$(MAKE) clean-tests
clean-tests:
	rm -f build/test_* build/replay build/bmvp build/bmvp_shim build/bmvp_mpi build/*.o

# The program for Windows, by mingw-w64 on Linux: what it asks of POSIX is in examples/package/windows. With gzip where zlib is there for it.
MINGW ?= x86_64-w64-mingw32-gcc
WIN = examples/package/windows
WIN_O = $(patsubst %.c,build/windows/%.o,$(filter-out sockets.c tcp.c star.c rendezvous.c,$(notdir $(PROGRAM))) posix.c bmvp.c)
WIN_ZLIB = $(shell echo '\#include <zlib.h>' | $(MINGW) -E - >/dev/null 2>&1 && echo yes)
WIN_DEFS = $(if $(WIN_ZLIB),-DBMVP_NIFTI_ZLIB,-DBMVP_NIFTI_NO_GZIP)
build/windows/%.o: %.c $(HEADERS) $(PROGRAM_H) $(WIN)/posix.h
	@mkdir -p build/windows
	$(MINGW) -std=gnu99 $(CFLAGS) $(WARN) -Wno-float-conversion $(WIN_DEFS) -I. -Iexamples/bmvp $(if $(filter library,$*),,-include $(WIN)/posix.h -I$(WIN)/include) -c $< -o $@
build/windows/posix.o build/windows/bmvp.o: build/windows/%.o:
	@mkdir -p build/windows
	$(MINGW) -std=gnu99 $(CFLAGS) $(WARN) -Wno-float-conversion $(WIN_DEFS) -I. -Iexamples/bmvp $(if $(filter bmvp,$*),-include $(WIN)/posix.h) -I$(WIN) -I$(WIN)/include -c $< -o $@
build/windows/posix.o: $(WIN)/posix.c $(WIN)/posix.h
build/windows/bmvp.o: examples/bmvp.c $(WIN)/posix.h $(PROGRAM_H)
build/windows/bmvp.exe: $(WIN_O)
	$(MINGW) -static $^ -o $@ $(if $(WIN_ZLIB),-lz) -lm -lpthread
windows: build/windows/bmvp.exe

# What is installed (examples/package/). Before 1.0 a minor version may change the interface, so it is part of the library's name.
VERSION := $(shell sed -n '1s/.* v\([0-9.]*\) .*/\1/p' bmvp_tensor.h)
NUMBERS := $(subst ., ,$(VERSION))
SOVERSION := $(word 1,$(NUMBERS)).$(word 2,$(NUMBERS))
PACKAGE = examples/package
build/libbmvp.o: examples/bmvp/library.c $(HEADERS) | build
	$(COMPILE) -fPIC -fvisibility=hidden '-DBMVP_API=__attribute__((visibility("default")))' -c $< -o $@
build/libbmvp.a: build/libbmvp.o
	rm -f $@
	$(AR) rcs $@ $<
build/libbmvp.so: build/libbmvp.o
	$(CC) -shared -Wl,-soname,libbmvp.so.$(SOVERSION) $(CFLAGS) $< -o $@ $(GZ) $(LDLIBS)
FILL = sed -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@VERSION@|$(VERSION)|g' -e 's|@SOVERSION@|$(SOVERSION)|g' -e 's|@LIBS@|$(GZ) $(LDLIBS)|g' \
  -e 's|@LIBRARIES@|$(subst $() ,;,$(patsubst -l%,%,$(strip $(GZ) $(filter-out -lpthread,$(LDLIBS)))))|g' \
  -e 's|@MAJOR@|$(word 1,$(NUMBERS))|g' -e 's|@MINOR@|$(word 2,$(NUMBERS))|g'
TO = $(DESTDIR)$(PREFIX)
install: build/bmvp build/libbmvp.a build/libbmvp.so
	install -d $(TO)/include $(TO)/bin $(TO)/lib/pkgconfig $(TO)/lib/cmake/bmvp $(TO)/share/man/man1 \
	  $(TO)/share/bash-completion/completions $(TO)/share/zsh/site-functions
	install -m 644 $(HEADERS) bmvp_cuda.cu $(TO)/include
	install -m 755 build/bmvp $(TO)/bin
	install -m 644 build/libbmvp.a $(TO)/lib
	install -m 755 build/libbmvp.so $(TO)/lib/libbmvp.so.$(VERSION)
	ln -sf libbmvp.so.$(VERSION) $(TO)/lib/libbmvp.so.$(SOVERSION)
	ln -sf libbmvp.so.$(SOVERSION) $(TO)/lib/libbmvp.so
	$(FILL) $(PACKAGE)/bmvp.pc.in >$(TO)/lib/pkgconfig/bmvp.pc
	$(FILL) $(PACKAGE)/bmvpConfig.cmake.in >$(TO)/lib/cmake/bmvp/bmvpConfig.cmake
	$(FILL) $(PACKAGE)/bmvpConfigVersion.cmake.in >$(TO)/lib/cmake/bmvp/bmvpConfigVersion.cmake
	sh $(PACKAGE)/pages.sh build/bmvp man >$(TO)/share/man/man1/bmvp.1
	sh $(PACKAGE)/pages.sh build/bmvp bash >$(TO)/share/bash-completion/completions/bmvp
	sh $(PACKAGE)/pages.sh build/bmvp zsh >$(TO)/share/zsh/site-functions/_bmvp

dist:
	@CC="$(CC)" CFLAGS="$(CFLAGS)" GZ="$(GZ)" DEFS="$(DEFS)" VERSION="$(VERSION)" SIGN="$(SIGN)" sh tests/form/dist.sh
analyze:
	@DEFS="$(DEFS)" sh tests/form/analyze.sh

clean:
	rm -rf build demo experiments


.PHONY: all dist analyze windows course course-levels twins fuzz faults cuda cuda-shim test-gpu bench-cuda demo experiments baselines tests test bench portable asan asan-cuda sanitized-asan sanitized-asan-cuda tsan install clean clean-tests
.SECONDARY:
