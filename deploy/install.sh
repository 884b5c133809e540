#!/usr/bin/env bash
# install.sh install|uninstall PREFIX PROGRAM...  -- programs into PREFIX/bin; as root also the systemd units.
set -euo pipefail
cd "$(dirname "$0")/.."
verb=$1 prefix=$2
shift 2
units=/etc/systemd/system
users=/etc/sysusers.d
say() { printf '%s\n' "$*" >&2; }

has_systemd() { [ "$(id -u)" -eq 0 ] && [ -d "$units" ]; }

# Only where systemd runs: in a container the files alone are enough.
reload() { if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi; }

case "$verb" in
  install)
    for program in "$@"; do
      [ -x "target/release/$program" ] || { say "error: $program is not built"; say "next: make build"; exit 2; }
    done
    install -d "$prefix/bin"
    for program in "$@"; do install -m 0755 "target/release/$program" "$prefix/bin/$program"; done
    say "installed: $* in $prefix/bin"
    if has_systemd; then
      for unit in deploy/systemd/*.service; do
        sed "s|/usr/local/bin/|$prefix/bin/|g" "$unit" >"$units/$(basename "$unit")"
      done
      install -D -m 0644 deploy/systemd/stratavore-agent.sysusers.conf "$users/stratavore-agent.conf"
      if command -v systemd-sysusers >/dev/null; then systemd-sysusers "$users/stratavore-agent.conf" >&2; fi
      reload
      say "installed: $(cd deploy/systemd && echo *.service) in $units; each says at its top what to do before the first start"
    fi ;;
  uninstall)
    for program in "$@"; do rm -f "$prefix/bin/$program"; done
    if has_systemd; then
      for unit in deploy/systemd/*.service; do rm -f "$units/$(basename "$unit")"; done
      rm -f "$users/stratavore-agent.conf"
      reload
    fi
    say "removed: $* from $prefix/bin; data directories and the user stratavore-agent are left alone" ;;
  *) say "usage: $0 install|uninstall PREFIX PROGRAM..."; exit 2 ;;
esac
