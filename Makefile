# The commands of the house; README.md explains them.
SWIFT_BUILD = swift build -c release
PACKAGES = libfuse3-dev libssl-dev libzstd-dev libsqlite3-dev libisal-dev fuse3 pkg-config

.PHONY: build
build:
	$(SWIFT_BUILD) --build-tests
