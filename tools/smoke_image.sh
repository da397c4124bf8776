#!/bin/sh
# Starts an image as the Compose file does, and checks what only a running container shows.
#   tools/smoke_image.sh IMAGE [PLATFORM]
set -eu
container=$(docker run ${2:+--platform "$2"} --detach --read-only --cap-drop ALL --security-opt no-new-privileges \
    --publish 127.0.0.1::10465 "$1" --demo)
trap 'docker logs "$container"; docker rm --force "$container" >/dev/null' EXIT
address=$(docker port "$container" 10465/tcp)

for _ in $(seq 30); do
    metrics=$(curl --silent --fail "http://$address/metrics" | grep '^inkit_up{account="demo"} 1' || true)
    [ -z "$metrics" ] || break
    sleep 1
done
[ -n "$metrics" ] || { echo "the simulated account did not come up" >&2; exit 1; }

for _ in $(seq 60); do
    health=$(docker inspect --format '{{.State.Health.Status}}' "$container")
    [ "$health" != healthy ] || break
    sleep 1
done
[ "$health" = healthy ] || { echo "the image's health check says: $health" >&2; exit 1; }

if docker export "$container" | tar --list | grep -E '(^|/)(pip|ensurepip)(/|$)'; then
    echo "the image still has pip" >&2
    exit 1
fi
docker stop --time 10 "$container" >/dev/null
[ "$(docker inspect --format '{{.State.ExitCode}}' "$container")" = 0 ] || { echo "the exporter did not exit with status 0" >&2; exit 1; }
echo "$1: polls, is healthy, stops, has no pip"
