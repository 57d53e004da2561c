#!/usr/bin/env bash
# Starts the service in the file system of its image, as an engine would: user 10001, no capabilities, no new privileges, a
# root that cannot be written to, /data alone. Run in a mount namespace of its own: unshare --mount tests/deploy/image.sh TREE
set -euo pipefail
tree=$1
port=$((20000 + RANDOM % 10000))
service=''

mount --make-rprivate /
mount --bind "$tree" "$tree"
mount -o remount,bind,ro "$tree"
mount -t tmpfs -o mode=0700,uid=10001,gid=10001 none "$tree/data"

trap '[[ -z $service ]] || kill -KILL "$service" 2>/dev/null || true' EXIT

# start [COMMAND...]: the binary. Only root may change the root folder; chroot gives the rest up. The credential is none, so
# that nobody off this machine is asked for one.
start() {
  exec setpriv --bounding-set=-all,+sys_chroot,+setuid,+setgid --no-new-privs -- env -i PATH="$PATH" AWS_REGION=us-east-1 \
    AWS_EC2_METADATA_DISABLED=true BEDROCK_AWS__BEARER_TOKEN=none BEDROCK_JWT__SECRET="$secret" \
    BEDROCK_SERVER__HOST=127.0.0.1 BEDROCK_SERVER__PORT="$port" BEDROCK_METRICS__PORT=0 BEDROCK_LOGGING__LEVEL=warn \
    chroot --userspec=10001:10001 --groups= "$tree" /usr/local/bin/bedrock_proxy "$@"
}
secret=$(head -c 48 /dev/urandom | base64 -w 0)

start &
service=$!
for ((tries = 0; tries < 150; tries++)); do
  if (start health) 2>/dev/null; then break; fi
  kill -0 "$service" 2>/dev/null || { echo 'the service ended' >&2; exit 1; }
  sleep 0.1
done
(start health)
status=$(</proc/$service/status)
for line in $'Uid:\t10001' $'NoNewPrivs:\t1' $'CapEff:\t0000000000000000' $'CapPrm:\t0000000000000000'; do
  grep -q "^$line" <<<"$status" || { echo "the service has not: $line" >&2; exit 1; }
done
[[ -e $tree/data/bedrock_sso.db && -d $tree/data/journal ]]
kill -TERM "$service"
wait "$service"
service=''
# The control: without a place to write to it does not start.
mount -o remount,ro "$tree/data"
if (start 2>/dev/null); then echo 'it serves without a place to write to' >&2; exit 1; fi
echo 'the image serves as its own user, with nothing to write to but /data'
