#!/bin/bash
# One monitor, one manager, one OSD in memory and a gateway on port 7480. Users: "owner" with S3_ACCESS_KEY and
# S3_SECRET_KEY, "writer" with S3_WRITER_KEY and S3_WRITER_SECRET.
set -euo pipefail

ADDRESS=$(hostname -i | cut -d ' ' -f 1)
FSID=$(cat /proc/sys/kernel/random/uuid)
readonly ADDRESS FSID

cat > /etc/ceph/ceph.conf <<EOF
[global]
fsid = $FSID
mon host = [v1:$ADDRESS:6789]
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 1
osd crush chooseleaf type = 0
osd objectstore = memstore
osd crush update on start = false
osd class update on start = false
memstore device bytes = ${S3_MEMORY:-6442450944}
ms bind msgr2 = false
ms bind ipv6 = false
log to stderr = false
mon cluster log to file = false

[client.rgw.a]
rgw frontends = beast port=7480
rgw thread pool size = 64
EOF

mkdir -p /var/lib/ceph/mon/ceph-a /var/lib/ceph/mgr/ceph-a /var/lib/ceph/osd/ceph-0 /var/lib/ceph/radosgw/ceph-rgw.a
monmaptool --create --fsid "$FSID" --addv a "[v1:$ADDRESS:6789]" /tmp/monmap >/dev/null
ceph-mon --mkfs -i a --monmap /tmp/monmap
ceph-mon -i a
ceph-osd -i 0 --mkfs --osd-uuid "$FSID"
ceph osd new "$FSID" 0 >/dev/null
ceph osd crush add osd.0 1 root=default >/dev/null
ceph-osd -i 0
ceph-mgr -i a

user() { # name key secret
  radosgw-admin user create --uid "$1" --display-name "$1" --access-key "$2" --secret-key "$3" >/dev/null
}
user owner "${S3_ACCESS_KEY:?}" "${S3_SECRET_KEY:?}"
user writer "${S3_WRITER_KEY:?}" "${S3_WRITER_SECRET:?}"
exec radosgw -f --no-mon-config -n client.rgw.a -c /etc/ceph/ceph.conf
