# The two commands a newcomer needs are `make demo` and `make test`. Everything they use is installed by tools/setup.

SHELL := /bin/bash
CARGO ?= cargo
IMAGES := target/images
export CARGO_TERM_COLOR ?= auto

.PHONY: help setup build man image packages demo demo-stop test lint unit test-board properties-long crash-long right-to-run simulate-long simulate-scale cowfs-crash-long guest test-chaos test-crash test-setbacks test-posix test-root test-edit test-overlayfs test-ssh test-xen test-xen-remotes test-xen-moves eval-xen deb bench bench-cowfs fuzz-cowfs doc deny clean-images

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

setup: ## install what is missing (Debian packages; asks for nothing if all is there)
	@tools/setup

build: setup ## the release build of xeno
	$(CARGO) build --release --locked --workspace --bins
	@! grep -qE 'XENO_CRASH_AT|XENO_COWFS_STOP_AT' target/release/xeno || { echo "xeno was built with the feature lab" >&2; exit 1; }

man: build ## manual pages and completions, in target/share
	target/release/xeno man target/share/man/man1
	@mkdir -p target/share/completions
	@for shell in bash fish zsh; do target/release/xeno completion $$shell >target/share/completions/xeno.$$shell; done

image: setup ## a Debian + Apache root, kernel and modules, from Debian packages, in target/images
	@tools/make-debian-template $(IMAGES)

deb: man ## the Debian package, in target
	@tools/setup dpkg-dev
	@tools/make-deb target/release/xeno target/share target

packages: image ## Debian packages that a guest without network installs and removes, in target/images/packages
	@tools/make-debian-packages $(IMAGES) git sqlite3 python3

demo: build image ## the whole chain, for real: push, plan, boot, page (KEEP=1 leaves it running)
	@target/release/xeno-demo run --xeno target/release/xeno --images $(IMAGES) --dir target/demo $(if $(KEEP),--keep)

demo-stop: ## end what `make demo KEEP=1` left running
	@target/release/xeno-demo stop --dir target/demo

test: setup lint unit test-board guest doc ## everything CI runs: formatting, lints, tests, a real etcd, one real guest, documentation

lint: ## formatting, clippy and shellcheck, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	tools/lint-shell

unit: ## tests that need no guest
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked --workspace

test-board: setup ## the board of a fleet on a real etcd (unpacked from Debian's package, not installed), killed and started again
	@tools/fetch-etcd target/etcd
	XENO_ETCD=$(abspath target/etcd/etcd) $(CARGO) test --locked -p xeno-state --features etcd board::etcd

properties-long: ## the planner and its judge on random nodes (CASES=20000, SEED=random)
	PROPTEST_CASES=$(or $(CASES),20000) PROPTEST_RNG_SEED=$(or $(SEED),$$RANDOM) $(CARGO) test --locked -p xeno-reconciler properties -- --nocapture

crash-long: ## random walks of a whole agent through commits, faults and crashes (WALKS=500, SEED=1)
	XENO_WALKS=$(or $(WALKS),500) XENO_SEED=$(or $(SEED),1) $(CARGO) test --locked -p xeno-agent --test lab walk

simulate-long: ## whole fleets in memory, with everything that goes wrong, from many seeds (SEEDS=10000, SEED=1 or $$RANDOM)
	XENO_SEEDS=$(or $(SEEDS),10000) XENO_SEED=$(or $(SEED),1) $(CARGO) test --locked --release -p xeno-simulate --test seeds -- --nocapture fixed

simulate-scale: ## how long a rollout over 100, 1,000 and 10,000 nodes takes to simulate, a third of them out of reach, and how much memory
	$(CARGO) build --locked --release -p xeno-simulate --example scale
	@for nodes in 100 1000 10000; do target/release/examples/scale $$nodes 33; done

right-to-run: ## every interleaving of two nodes, a board, storage and a person over one sliver, with two faults (a minute and 2 GB, once built)
	$(CARGO) test --locked --release -p xeno-reconciler --lib tenure -- --nocapture --test-threads=1

cowfs-crash-long: ## crashes of writable layers at every moment, thoroughly (WAYS=2000 for each moment, STORIES=400, SEED=1)
	XENO_COWFS_CRASHES=$(or $(WAYS),2000) XENO_COWFS_STORIES=$(or $(STORIES),400) XENO_SEED=$(or $(SEED),1) \
		$(CARGO) test --locked --release -p cowfs --lib durability -- --nocapture

guest: image ## real guests: the QEMU driver, one push followed to its page, one guest that moves there and back, one whose node is replaced, a minute of chaos
	@tools/fetch-etcd target/etcd
	$(CARGO) build --locked --workspace --bins
	XENO_IMAGES=$(abspath $(IMAGES)) $(CARGO) test --locked -p xeno-qemu --features guest -- --test-threads=1
	XENO_IMAGES=$(abspath $(IMAGES)) $(CARGO) test --locked -p xeno-tests --features guest --test guest -- --nocapture
	XENO_IMAGES=$(abspath $(IMAGES)) $(CARGO) test --locked -p xeno-tests --features guest --test moves -- --nocapture
	XENO_IMAGES=$(abspath $(IMAGES)) XENO_ETCD=$(abspath target/etcd/etcd) $(CARGO) test --locked -p xeno-tests --features guest --test failover -- --nocapture
	XENO_IMAGES=$(abspath $(IMAGES)) XENO_ETCD=$(abspath target/etcd/etcd) $(CARGO) test --locked -p xeno-tests --features guest --test chaos -- --nocapture

test-chaos: image ## six nodes over an etcd: agents, file servers and the etcd killed while guests move (SECONDS=600, SEED=1)
	@tools/fetch-etcd target/etcd
	$(CARGO) build --locked --workspace --bins
	XENO_CHAOS_SECONDS=$(or $(SECONDS),600) XENO_SEED=$(or $(SEED),1) XENO_IMAGES=$(abspath $(IMAGES)) XENO_ETCD=$(abspath target/etcd/etcd) \
		$(CARGO) test --locked -p xeno-tests --features guest --test chaos -- --nocapture

test-crash: image ## every kind of action once on a real guest, its agent ended by kill -9 just after the effect; and a move with a fault at every step
	@tools/fetch-etcd target/etcd
	$(CARGO) build --locked --workspace --bins
	XENO_IMAGES=$(abspath $(IMAGES)) $(CARGO) test --locked -p xeno-tests --features guest --test crash -- --nocapture
	XENO_IMAGES=$(abspath $(IMAGES)) XENO_ETCD=$(abspath target/etcd/etcd) $(CARGO) test --locked -p xeno-tests --features guest --test moves_faults -- --nocapture

test-setbacks: image ## disks below a whole node that are full, read-only or from another day (root)
	$(CARGO) build --locked --workspace --bins
	XENO_IMAGES=$(abspath $(IMAGES)) $(CARGO) test --locked -p xeno-tests --features guest --test setbacks -- --nocapture --test-threads=1

test-posix: image ## what programs expect of a root file system: 723 cases on four kinds of objects in a guest, and on ext4 (root)
	$(CARGO) build --locked --workspace --bins
	XENO_IMAGES=$(abspath $(IMAGES)) $(CARGO) test --locked -p xeno-tests --features guest --test posix -- --nocapture

test-root: packages ## in a guest: packages installed, checked and removed, git fsck, databases while the file server is killed
	$(CARGO) build --locked --workspace --bins
	XENO_IMAGES=$(abspath $(IMAGES)) $(CARGO) test --locked -p xeno-tests --features guest --test root -- --nocapture

test-edit: image ## an overlay made by hand: a guest's kernel mounts what `xeno overlay edit` serves
	$(CARGO) build --locked --workspace --bins
	XENO_IMAGES=$(abspath $(IMAGES)) $(CARGO) test --locked -p xeno-tests --features guest --test edit -- --nocapture

test-overlayfs: ## random operations on cowfs, on the kernel's overlayfs and in memory, compared step by step (root; OVERLAY_SECONDS=45, SEED=1)
	XENO_OVERLAY_SECONDS=$(or $(OVERLAY_SECONDS),45) XENO_SEED=$(or $(SEED),1) $(CARGO) test --locked -p xeno-tests --features overlayfs --test overlayfs -- --nocapture

test-ssh: ## a repository read over ssh from a real sshd (needs openssh-server, which `make setup` leaves alone: it opens a port)
	$(CARGO) test --locked -p xeno-agent --lib --features sshd ssh

test-xen: image deb ## a node on real Xen, in an emulated machine (root; tests/xen-lab/README.md)
	@tests/xen-lab/lab setup
	@tests/xen-lab/lab build
	XENO_IMAGES=$(abspath $(IMAGES)) XENO_PROGRAM=$(abspath target/release/xeno) XENO_DEB=$$(echo $(abspath target)/xenoslice_*.deb) \
		XENO_CONTRACT=$$($(CARGO) test --locked --no-run --message-format json -p xeno-xen --features lab --test contract | \
			sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1) \
		$(CARGO) test --locked -p xeno-tests --features xen --test xen -- --nocapture --test-threads=1 --skip remotes --skip moves:: --skip the_driver_moves

test-xen-remotes: image deb ## layers on another machine, by NFS, cut off and brought back (root; two emulated machines; FULL=1: full disks and reads that fail too)
	@tests/xen-lab/lab setup
	@[ -e target/xen-lab/image/dom0.ext4 ] || tests/xen-lab/lab build
	XENO_IMAGES=$(abspath $(IMAGES)) XENO_PROGRAM=$(abspath target/release/xeno) XENO_DEB=$$(echo $(abspath target)/xenoslice_*.deb) \
		$(CARGO) test --locked -p xeno-tests --features xen --test xen remotes::$(if $(FULL),full,layers) -- --nocapture

test-xen-moves: image deb ## guests that move between two nodes on real Xen, and what is done to them meanwhile (root; two emulated machines)
	@tests/xen-lab/lab setup
	@tools/fetch-etcd target/etcd
	@[ -e $${XEN_LAB_DIR:-target/xen-lab}/image/dom0.ext4 ] || tests/xen-lab/lab build
	@[ -e $${XEN_LAB_DIR:-target/xen-lab}/image/xen-shadow ] || tests/xen-lab/lab build-hypervisor
	XENO_IMAGES=$(abspath $(IMAGES)) XENO_PROGRAM=$(abspath target/release/xeno) XENO_DEB=$$(echo $(abspath target)/xenoslice_*.deb) \
		XENO_CONTRACT=$$($(CARGO) test --locked --no-run --message-format json -p xeno-xen --features lab --test contract | \
			sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1) \
		XENO_ETCD=$(abspath target/etcd/etcd) $(CARGO) test --locked -p xeno-tests --features xen --test xen moves -- --nocapture --test-threads=1

eval-xen: image deb ## what deploying a sliver on Xen costs, operation by operation and byte by byte: docs/evaluation.md (root; 20 minutes)
	@tests/xen-lab/lab setup
	@tests/xen-lab/lab build
	@tests/xen-lab/make-roots
	$(CARGO) build --locked -p xeno-tests --bin xeno-evaluation
	target/debug/xeno-evaluation measure --xeno target/release/xeno --package $$(echo target/xenoslice_*.deb) \
		--images $(IMAGES) --roots "$${XEN_LAB_DIR:-target/xen-lab}/roots" --report target/xen-lab/evaluation.json
	target/debug/xeno-evaluation write --report target/xen-lab/evaluation.json --docs docs

bench: build ## measure what is promised: a table, and target/bench/report.json (tests/bench/README.md)
	$(CARGO) build --release --locked -p xeno-bench --features lab
	@target/release/xeno-bench --report target/bench/report.json

bench-cowfs: setup ## the file server beside nfs-ganesha over overlayfs (root; installs nfs-ganesha; tests/bench-cowfs/README.md)
	@tools/setup nfs-ganesha nfs-ganesha-vfs rpcbind iproute2 e2fsprogs
	$(CARGO) build --release --locked -p xeno-bench-cowfs
	@mkdir -p target/bench
	@target/release/xeno-bench-cowfs --dir target/bench/ground --report target/bench/cowfs.json
	@target/release/xeno-bench-cowfs --scale --dir target/bench/scale --report target/bench/cowfs-scale.json

fuzz-cowfs: ## hostile input for the file server (TARGET=wire, calls, log or index; SECONDS=3600), with idle time only
	drivers/cowfs/fuzz/run $(or $(TARGET),wire) $(or $(SECONDS),3600)

doc: ## the code's own documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items

deny: ## licences and bans of every dependency (needs cargo-deny)
	$(CARGO) deny --locked check bans licenses sources
