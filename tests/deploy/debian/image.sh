#!/usr/bin/env bash
# A disk of a clean Debian 12 with Postgres, Redis and what the trial brings, to be booted in an emulated machine.
#
#   tests/deploy/debian/image.sh BASE PACKAGE DISK
#
# BASE is a folder with the system, made by debootstrap if it is not there and kept for the next time. The trial's own way in is
# a socket on port 2222 that hands root a shell: the machine is reached from this one alone, through its emulated network.
set -euo pipefail
base=$1 package=$2 disk=$3
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")

if [[ ! -e $base/boot/vmlinuz ]]; then
  rm -rf "$base" "$base.part"
  debootstrap --include=systemd-sysv,dbus,udev,linux-image-cloud-amd64,postgresql,redis-server,openssl,curl,ca-certificates,python3 \
    bookworm "$base.part" >"$base.log" 2>&1 || { tail -n 5 "$base.log" >&2; exit 1; }
  # Where a server runs here, the cluster that is made in the folder keeps off its port.
  sed -i 's/^port = .*/port = 5432/' "$base.part"/etc/postgresql/*/main/postgresql.conf
  rm -rf "$base.part"/var/cache/apt/archives/*.deb
  ln -f "$base.part"/boot/vmlinuz-* "$base.part/boot/vmlinuz"
  ln -f "$base.part"/boot/initrd.img-* "$base.part/boot/initrd.img"
  mv "$base.part" "$base"
fi

etc=$base/etc
echo proxy >"$etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 proxy\n::1 localhost\n' >"$etc/hosts"
printf 'auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\n' >"$etc/network/interfaces"
echo '/dev/vda / ext4 errors=remount-ro 0 1' >"$etc/fstab"
: >"$etc/machine-id"
rm -f "$etc/resolv.conf" # nothing outside is to be found
cat >"$etc/systemd/system/trial.socket" <<'UNIT'
[Socket]
ListenStream=2222
Accept=yes
MaxConnections=16
UNIT
cat >"$etc/systemd/system/trial@.service" <<'UNIT'
[Unit]
CollectMode=inactive-or-failed
[Service]
ExecStart=-/bin/bash
Environment=HOME=/root DEBIAN_FRONTEND=noninteractive
WorkingDirectory=/root
StandardInput=socket
StandardOutput=socket
StandardError=inherit
UNIT
mkdir -p "$etc/systemd/system/sockets.target.wants"
ln -sf ../trial.socket "$etc/systemd/system/sockets.target.wants/trial.socket"
rm -f "$base"/root/*.deb
cp "$package" "$here/client.py" "$base/root/"
rm -f "$disk"
mke2fs -q -t ext4 -d "$base" "$disk" 6G
