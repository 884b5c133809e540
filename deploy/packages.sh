#!/usr/bin/env bash
# Installs what is missing. Usage: packages.sh build|test|bench
# build = what compiling needs; test = also the programs that the test suite drives; bench = what the benchmarks compare with.
set -euo pipefail

# Programs whose presence is enough, and the Debian package of each.
build=(g++:g++ make:make ccache:ccache)
# tmux, vim and top are what the attach tests run; runuser drops privileges; systemd-analyze checks the units.
test=(tmux:tmux vim:vim-tiny top:procps ip:iproute2 runuser:util-linux systemd-analyze:systemd)
tools="$HOME/.cache/stratavore/bin"

say() { printf '%s\n' "$*" >&2; }

has() {
  case "$1" in
    vim) command -v vim >/dev/null || command -v vim.tiny >/dev/null ;;
    *) command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] ;;
  esac
}

# RocksDB's bindings are made with libclang and its own C headers, which is a package of its own.
has_libclang() {
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null && compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null
}

libclang_packages() {
  local version
  version=$(apt-cache pkgnames libclang-common- | sed -n 's/^libclang-common-\([0-9]*\)-dev$/\1/p' | sort -n | tail -n 1)
  if [ -n "$version" ]; then echo "libclang1-$version" "libclang-common-$version-dev"; else echo libclang-dev; fi
}

# Empty when root's rights can be had without asking for a password.
missing_rights() {
  if [ "$(id -u)" -ne 0 ] && ! sudo -n true 2>/dev/null; then echo yes; fi
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then env DEBIAN_FRONTEND=noninteractive "$@"; else sudo -n env DEBIAN_FRONTEND=noninteractive "$@"; fi
}

# fetch PROGRAM PACKAGE: only the program out of a package that would also start a server.
fetch() {
  local dir
  dir=$(mktemp -d)
  # apt drops to an unprivileged user for downloads, who must be able to write here.
  chmod 0777 "$dir"
  (cd "$dir" && apt-get download -qq "$2" && dpkg-deb -x "$2"_*.deb tree) >&2 &&
    install -D -m 0755 "$dir/tree/usr/bin/$1" "$tools/$1"
  local result=$?
  rm -rf "$dir"
  return $result
}

case "${1:-}" in
  build) wanted=("${build[@]}") ;;
  test) wanted=("${build[@]}" "${test[@]}") ;;
  bench) wanted=("${build[@]}") ;;
  *) say "usage: $0 build|test|bench"; exit 2 ;;
esac

missing=()
for entry in "${wanted[@]}"; do has "${entry%%:*}" || missing+=("${entry#*:}"); done
if ! has_libclang; then missing+=(libclang); fi
# Checks metrics and rules (test), and the peer of the benchmarks.
program='' package=''
case "$1" in
  test) program=promtool package=prometheus ;;
  bench) program=etcd package=etcd-server ;;
esac
if command -v "${program:-true}" >/dev/null || [ -x "$tools/$program" ]; then program=''; fi
[ "${#missing[@]}" -gt 0 ] || [ -n "$program" ] || exit 0

if ! command -v apt-get >/dev/null; then
  say "error: missing: ${missing[*]} $program, and this is no Debian"
  say "next: install them with your own package manager, then make again"
  exit 2
fi

if [ "${#missing[@]}" -gt 0 ]; then
  if [ -n "$(missing_rights)" ]; then
    names=${missing[*]}
    say "error: packages are missing, and installing them needs root"
    say "next: run the line below, then make again"
    say "run: sudo apt-get update && sudo apt-get install -y --no-install-recommends ${names/%libclang/$(libclang_packages)}"
    exit 2
  fi
  say "installing: ${missing[*]}"
  as_root apt-get update -qq >&2
  names=()
  for name in "${missing[@]}"; do
    if [ "$name" = libclang ]; then read -r -a found <<<"$(libclang_packages)"; names+=("${found[@]}"); else names+=("$name"); fi
  done
  as_root apt-get install -y -qq --no-install-recommends "${names[@]}" >&2
fi

if [ -n "$program" ]; then
  say "fetching: $program into $tools"
  if ! fetch "$program" "$package"; then
    # The package lists may be missing or old.
    if [ -z "$(missing_rights)" ] && as_root apt-get update -qq >&2 && fetch "$program" "$package"; then exit 0; fi
    say "error: the package $package cannot be downloaded"
    say "next: put $program on PATH, or run the line below, then make again"
    say "run: sudo apt-get update"
    exit 2
  fi
fi
