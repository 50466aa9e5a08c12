#!/usr/bin/env bash
# Proves that a fresh clone on a bare Debian sets itself up: makes a minimal Debian in a folder, clones the committed
# state of this repository into it, and does there what a newcomer does, as an ordinary user with sudo.
#
#   xtask/bare-debian.sh [TASK...]      TASK: for `cargo xtask` in the end, for example: test 'run --seconds 5'
#
# Needs root and debootstrap. The mirror and the certificates are those of this machine; SUITE (default: bookworm)
# chooses the release. The folder is removed in the end.
set -euo pipefail

repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
suite=${SUITE:-bookworm}
mirror=$(sed -n 's/^URIs: \(.*\/debian\)$/\1/p' /etc/apt/sources.list.d/debian.sources | head -n 1)

# Mounts in a namespace of our own: they end with us, whatever happens.
if [ "${1-}" != --inside ]; then
    exec unshare --mount --propagation private "$0" --inside "$@"
fi
shift

root=$(mktemp -d)
chmod 755 "$root"
# A mount of its own: what is started inside may set the propagation of its root.
mount --bind "$root" "$root"
trap 'umount -R "$root" && rm -rf --one-file-system "$root"' EXIT

step() {
    local start=$SECONDS
    echo "## $*"
    "$@"
    echo "## done in $((SECONDS - start)) s"
}
as_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
as_user() {
    echo "newcomer\$ $*"
    # Not chroot alone: who enters a mount namespace, as the tests do, comes out at its root, which must be ours.
    unshare --mount --propagation private sh -c 'cd "$1" && pivot_root . . && umount -l . && shift && exec "$@"' sh \
        "$root" chroot --userspec=newcomer / env -i HOME=/srv/newcomer PATH=/usr/local/bin:/usr/bin:/bin TERM=dumb \
        sh -c "cd /srv/newcomer && { [ ! -d naikon ] || cd naikon; } && $*"
}

make_debian() { debootstrap --variant=minbase "$suite" "$root" $mirror >/dev/null; }
give_network() {
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    if [ -n "$mirror" ]; then
        echo "deb $mirror-security $suite-security main" >>"$root/etc/apt/sources.list"
    fi
    for mount in proc sys dev; do mount --rbind "/$mount" "$root/$mount"; done
}
# What a newcomer has: git, a cargo (here Debian's, rustup's does as well) and sudo. Nothing of it is naikon's.
install_precondition() {
    as_root apt-get -qq update
    as_root apt-get -qq -y install --no-install-recommends git ca-certificates cargo-web sudo >/dev/null 2>&1
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    as_root useradd --create-home --base-dir /srv newcomer
    echo 'newcomer ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/newcomer"
    # As on a machine whose package lists were never fetched.
    rm -rf "$root"/var/lib/apt/lists/*
}
clone() {
    git clone --quiet --no-hardlinks "$repository" "$root/srv/newcomer/naikon"
    as_root chown -R newcomer: /srv/newcomer/naikon
}

step make_debian
step give_network
step install_precondition
step clone
step as_user cargo --version
step as_user cargo xtask setup
step as_user cargo xtask setup
step as_user cargo build --quiet --package naikon-userspace --bin naikon
as_user 'sha256sum target/debug/build/naikon-userspace-*/out/naikon.bpf.o'
for task in "$@"; do
    step as_user cargo xtask "$task"
done
