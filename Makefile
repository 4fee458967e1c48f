# The commands of the house. Everything is built once, in one configuration.

.PHONY: build demo test bench soak fuzz sanitize packages install clean

build:
	Tests/install-packages build
	swift build -c release --build-tests

# The main job on a real disk, start to end; leaves nothing behind.
demo: build
	examples/quick-start/run

test:
	Tests/install-packages test
	swift build -c release --build-tests
	Tests/run

# Ratios against the raw file, QEMU's FUSE export, and for cold reads rclone and s3backer, interleaved in one run. A dynamic VHD is
# beside them (farshore-vhd): its reads against farshore's own of the raw image, its writes against qemu-vpc.
bench:
	Tests/install-packages bench
	swift build -c release --build-tests
	Tests/bench/run --dynamic-vhd
	Tests/bench/sustained
	Tests/bench/point-cut
	Tests/bench/cold-reads

# The long form of the seeded campaigns.
soak:
	Tests/install-packages test
	swift build -c release --build-tests
	FARSHORE_CAMPAIGN_SCALE=20 Tests/run
	Tests/sanitize thread address

# Every reader of foreign bytes under libFuzzer, 10 million executions or one hour each; FUZZ_SECONDS=60 for a look.
fuzz:
	Tests/install-packages build
	Tests/fuzz

# The Swift suites under the thread and the address sanitizer, each built in a folder of its own (about 10 minutes each).
sanitize:
	Tests/install-packages test
	Tests/sanitize thread address

PREFIX ?= /usr/local
install: build
	install -D -m 755 .build/release/farshore $(DESTDIR)$(PREFIX)/bin/farshore

clean:
	rm -rf .build
