# bmvp: headers need no build; this builds the program, the tests and the benchmarks.
#   make            build/bmvp
#   make demo       phantoms -> prepare -> pre-training of the tiny network -> segmentation, scratch and pre-trained -> demo/run/report.html
#   make experiments  label efficiency, ablation, missing modalities -> experiments/experiments.html (settings: examples/experiments/common.sh)
#   make test       everything that needs no Python and no network; BMVP_DATA=DIR adds the tests on real data kept there
#   make bench      speed, beside its peers where they are installed
#   make portable   the same on processors without AVX-512, AVX2, AVX, and on arm64, emulated; and without threads
#   make asan       the tests under AddressSanitizer and UndefinedBehaviorSanitizer; make tsan: threads under ThreadSanitizer
#   make install    headers and program below PREFIX
# Switches: CC, CFLAGS, ZLIB=1 (gzip by zlib), NO_GZIP=1 (no gzip at all), PREFIX, BMVP_DATA.

CC      ?= cc
CXX     ?= c++
CFLAGS  ?= -O2
WARN     = -Wall -Wextra -Wpedantic -Wshadow -Wconversion
PREFIX  ?= /usr/local
BMVP_DATA ?= ../shared
LDLIBS   = -lm -lpthread

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

HEADERS  = bmvp_tensor.h bmvp_nn.h bmvp_ssl.h bmvp_nifti.h
PROGRAM  = $(wildcard examples/bmvp/*.c)
PROGRAM_H = $(wildcard examples/bmvp/*.h)
COURSE   = $(patsubst examples/%.c,build/%,$(wildcard examples/[0-9]*.c))
TESTS    = tensor io nn ssl labels metrics nifti release window finetune
TEST_BIN = $(TESTS:%=build/test_%)
COMPILE  = $(CC) -std=c99 $(CFLAGS) $(WARN) $(DEFS) -I.

all: build/bmvp $(COURSE)

build:
	@mkdir -p build
	@test -z "$(GZ_H)" || echo '#include <$(GZ_H)>' | $(CC) -E -x c - >/dev/null 2>&1 || \
	  { echo "missing: $(GZ_H). Fix: apt-get install $(GZ_APT)   (or: make ZLIB=1, make NO_GZIP=1)"; exit 1; }

build/%.o: examples/bmvp/%.c $(HEADERS) $(PROGRAM_H) | build
	$(COMPILE) -c $< -o $@

build/bmvp: examples/bmvp.c $(PROGRAM:examples/bmvp/%.c=build/%.o) $(HEADERS) $(PROGRAM_H)
	$(COMPILE) $< $(PROGRAM:examples/bmvp/%.c=build/%.o) -o $@ $(GZ) $(LDLIBS)

build/experiments_page: examples/experiments/page.c $(PROGRAM:examples/bmvp/%.c=build/%.o) $(HEADERS) $(PROGRAM_H)
	$(COMPILE) $< $(PROGRAM:examples/bmvp/%.c=build/%.o) -o $@ $(GZ) $(LDLIBS)

build/%: examples/%.c $(HEADERS) | build
	$(COMPILE) $< -o $@ $(GZ) $(LDLIBS)

build/test_%: tests/test_%.c tests/check.h $(HEADERS) | build
	$(COMPILE) $< -o $@ $(GZ) $(LDLIBS)

build/bench_%: tests/bench/bench_%.c tests/formula.h $(HEADERS) | build
	$(COMPILE) $< -o $@ $(GZ) $(LDLIBS) $(BENCH_LIBS)

demo: build/bmvp build/experiments_page
	@sh examples/demo.sh demo

experiments: build/bmvp build/experiments_page
	@sh examples/experiments/run.sh

tests: build/bmvp $(TEST_BIN) $(COURSE)

test: tests
	@BMVP_DATA="$(BMVP_DATA)" CC="$(CC)" CXX="$(CXX)" GZ="$(GZ)" DEFS="$(DEFS)" sh tests/run.sh $(TEST_BIN)

bench: build/bmvp build/bench_step build/bench_metrics
	@BMVP_DATA="$(BMVP_DATA)" CC="$(CC)" GZ="$(GZ)" DEFS="$(DEFS)" sh tests/bench/run.sh

portable: build/test_tensor
	@CC="$(CC)" CFLAGS="$(CFLAGS)" sh tests/portable.sh

SAN = -O1 -g -fno-omit-frame-pointer
ASAN = $(SAN) -fsanitize=address,undefined -fno-sanitize-recover=undefined
asan:
	$(MAKE) clean-tests
	$(MAKE) -j2 CFLAGS="$(ASAN)" build/bmvp $(TEST_BIN)
	$(MAKE) CFLAGS="$(ASAN)" test
	$(MAKE) clean-tests
tsan:
	$(MAKE) clean-tests
	$(MAKE) CFLAGS="$(SAN) -fsanitize=thread" build/test_tensor && build/test_tensor threads
	$(MAKE) clean-tests
clean-tests:
	rm -f build/test_* build/bmvp build/*.o

install: build/bmvp
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(HEADERS) $(DESTDIR)$(PREFIX)/include
	install -m 755 build/bmvp $(DESTDIR)$(PREFIX)/bin

clean:
	rm -rf build demo experiments

.PHONY: all demo experiments tests test bench portable asan tsan install clean clean-tests
.SECONDARY:
