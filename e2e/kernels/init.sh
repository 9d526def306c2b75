#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
#
# The init process of the machine sets up what tests expect.
/bin/busybox --install -s /bin
ln -s /bin /sbin
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 none /sys/fs/cgroup
mount -t tracefs none /sys/kernel/tracing
mkdir -p /dev/net /run/netns
echo /bin/modprobe > /proc/sys/kernel/modprobe
ip link set lo up
for module in veth tun bridge sch_ingress cls_bpf sch_tbf dummy; do modprobe $module; done
# The default of newer kernels; --mode socket-filter needs it.
echo 131072 > /proc/sys/net/core/optmem_max
cd /tmp
