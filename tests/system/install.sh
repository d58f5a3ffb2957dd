#!/usr/bin/env bash
# Installs what the system tests need and Python does not bring: Chromium and Prometheus. They are
# never skipped: without these programs this ends with the line to type.
set -euo pipefail
packages=()
command -v chromium >/dev/null && command -v chromedriver >/dev/null || packages+=(chromium chromium-driver)
command -v prometheus >/dev/null && command -v promtool >/dev/null || packages+=(prometheus)
[ ${#packages[@]} -eq 0 ] && exit 0
line="apt-get install -y --no-install-recommends ${packages[*]}"
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "the system tests need ${packages[*]}; on Debian: sudo $line" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# The package starts a Prometheus of its own where there is a service manager; the tests need none.
$line -qq
