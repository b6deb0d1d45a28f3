#!/bin/sh
# Installs what the tests need besides Python packages; with the argument `ceph`, what those against Ceph need. Without
# root or apt-get it says what is missing and goes on: tests that lack a tool are skipped, and counted.
set -eu

packages=""
need() { # command, Debian package
    command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}

case "${1-}" in
ceph)
    need radosgw radosgw
    need ceph-mon ceph-mon
    need ceph-osd ceph-osd
    ;;
*)
    need strace strace
    need mkfs.xfs xfsprogs
    need xfs_io xfsprogs
    need mkfs.ext4 e2fsprogs
    need unshare util-linux
    need mount mount
    ;;
esac

[ -n "$packages" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing$packages …"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
else
    echo "Missing for some tests:$packages" >&2
fi
