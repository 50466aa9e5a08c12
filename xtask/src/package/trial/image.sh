#!/bin/sh
# Makes the disk of the trial's machine: a small Debian with systemd that is a router between lan0 and wan0, and that does
# what it is told over a virtio-serial port. Run as root in a mount namespace of its own, so that nothing stays mounted.
# usage: image.sh FOLDER ARCHIVE
set -eu
folder=$1
archive=$2
root=$folder/root
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
rm -rf "$root"
mkdir -p "$folder"
debootstrap --variant=minbase \
    --include=systemd-sysv,dbus,udev,kmod,procps,iproute2,iputils-ping,adduser,logrotate,linux-image-cloud-amd64 \
    bookworm "$root" "$archive" >"$folder/debootstrap.log"

echo gateway >"$root/etc/hostname"
mkdir "$root/srv/trial"
echo '/dev/vdb /srv/trial ext4 ro 0 0' >"$root/etc/fstab"
echo 'root:trial' | chroot "$root" chpasswd

# Names by address: the order in which cards are found is no promise.
number=1
for name in lan0 wan0; do
    cat >"$root/etc/systemd/network/10-$name.link" <<END
[Match]
MACAddress=02:00:00:00:00:0$number
[Link]
Name=$name
END
    number=$((number + 1))
done
# Who stands at the other ends only counts frames, and answers no question for its address.
cat >"$root/etc/systemd/network/lan0.network" <<END
[Match]
Name=lan0
[Network]
Address=192.0.2.1/24
Address=2001:db8:1::1/64
LinkLocalAddressing=no
IPv6AcceptRA=no
IPv6DuplicateAddressDetection=0
[Neighbor]
Address=192.0.2.10
LinkLayerAddress=02:00:00:00:01:01
[Neighbor]
Address=2001:db8:1::10
LinkLayerAddress=02:00:00:00:01:01
END
cat >"$root/etc/systemd/network/wan0.network" <<END
[Match]
Name=wan0
[Network]
Address=203.0.113.1/24
Address=2001:db8:2::1/64
Gateway=203.0.113.2
Gateway=2001:db8:2::2
LinkLocalAddressing=no
IPv6AcceptRA=no
IPv6DuplicateAddressDetection=0
[Neighbor]
Address=203.0.113.2
LinkLayerAddress=02:00:00:00:01:02
[Neighbor]
Address=2001:db8:2::2
LinkLayerAddress=02:00:00:00:01:02
END
cat >"$root/etc/sysctl.d/50-router.conf" <<END
net.ipv4.ip_forward = 1
net.ipv6.conf.all.forwarding = 1
END

# Reads "NUMBER LENGTH SECONDS" and a script of that length, and answers "NUMBER CODE LENGTH" and what the script said.
cat >"$root/usr/local/sbin/trial-agent" <<'END'
#!/bin/bash
exec 3<>/dev/virtio-ports/trial || exit 1
printf 'ready %s\n' "$(cat /proc/sys/kernel/random/boot_id)" >&3
while read -r -u 3 number length seconds; do
    if [ "$length" = 0 ]; then
        exec 3>&-
        exec systemctl reboot
    fi
    head -c "$length" <&3 >/run/trial-script
    timeout "$seconds" bash /run/trial-script </dev/null >/run/trial-said 2>&1 3>&-
    code=$?
    printf '%s %s %s\n' "$number" "$code" "$(stat -c %s /run/trial-said)" >&3
    cat /run/trial-said >&3
done
END
chmod 0755 "$root/usr/local/sbin/trial-agent"
cat >"$root/etc/systemd/system/trial-agent.service" <<'END'
[Unit]
Description=Does what the trial says
Wants=network-online.target
After=network-online.target
[Service]
ExecStart=/usr/local/sbin/trial-agent
KillMode=process
[Install]
WantedBy=multi-user.target
END
# What a packaged gateway has no use for, and what would cost an emulated one minutes.
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer logrotate.timer getty@tty1.service
chroot "$root" systemctl --quiet enable systemd-networkd.service systemd-networkd-wait-online.service trial-agent.service

# The drivers of the disk and no others: cards are for the system proper to find, as on a real gateway.
version=$(ls "$root/lib/modules")
sed -i s/^MODULES=.*/MODULES=list/ "$root/etc/initramfs-tools/initramfs.conf"
printf '%s\n' virtio_pci virtio_blk ext4 >"$root/etc/initramfs-tools/modules"
mount -t proc proc "$root/proc"
chroot "$root" mkinitramfs -o /boot/initrd.img "$version"
umount "$root/proc"
rm -rf "$root/var/cache/apt/archives"/*.deb "$root/var/lib/apt/lists"/* "$root/etc/apt/sources.list"

cp "$root/boot/vmlinuz-$version" "$folder/vmlinuz"
cp "$root/boot/initrd.img" "$folder/initrd"
chroot "$root" dpkg-query -W -f '${Package} ${Version}\n' systemd "linux-image-$version" libc6 >"$folder/versions"
rm -rf "$root/usr/share/doc" "$root/usr/share/locale" "$root"/boot/*
mke2fs -q -t ext4 -d "$root" -F "$folder/disk.part" 1500M
rm -rf "$root"
chmod 0644 "$folder"/*
mv "$folder/disk.part" "$folder/disk"
