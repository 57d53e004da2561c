# shellcheck shell=bash
# What the other parts share: messages, missing packages, running a command, tidying up.

# A folder for private services; empty until one is needed.
work=''
# The process group of the command under way.
group=''
# Files outside the repository that are to go again.
passing_files=()

say() {
  printf 'scripts/test: %s\n' "$*" >&2
}

die() {
  say "$@"
  exit 1
}

# Runs a command in a process group of its own, so that a signal can end it with everything it
# started, and at once: bash answers signals while it waits, but not while a command is in front.
run() {
  local status=0
  set -m
  "$@" </dev/null &
  group=$!
  set +m
  wait "$group" || status=$?
  end_group
  return "$status"
}

# Ends what is left of that group.
end_group() {
  if [[ -n $group ]] && kill -TERM -- "-$group" 2>/dev/null; then
    wait "$group" 2>/dev/null || true
  fi
  group=''
}

clean_up() {
  trap '' HUP INT TERM # a second Ctrl-C must not leave half of it behind
  end_group
  stop_services
  rm -rf "${passing_files[@]}" ${work:+"$work"}
}

# The folder for private services. Always below /tmp: root's own TMPDIR may be closed to the user
# that Postgres has to run as.
make_work_folder() {
  if [[ -z $work ]]; then
    work=$(mktemp -d /tmp/bedrock-proxy-test.XXXXXX)
    chmod 711 "$work"
  fi
}

# install_packages WHAT PACKAGE...: installs Debian packages, if this is root on Debian; else says
# what is missing and ends.
install_packages() {
  local what=$1
  shift
  if ! can_install; then
    die "$what is needed; please install it (Debian: apt-get install --no-install-recommends $*)"
  fi
  say "installing $*"
  # Packages of servers start them, unless this file says that they may not.
  if [[ ! -e /usr/sbin/policy-rc.d ]]; then
    passing_files+=(/usr/sbin/policy-rc.d)
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
  fi
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
  "${apt[@]}" update >&2 || say 'the package lists could not be renewed; trying with the old ones'
  "${apt[@]}" install -y --no-install-recommends "$@" </dev/null >&2 ||
    die "apt-get could not install $*"
}

can_install() {
  ((EUID == 0)) && command -v apt-get >/dev/null
}

require_compiler() {
  command -v cargo >/dev/null || die 'cargo is needed; please install Rust: https://rustup.rs'
  # SQLite and the cryptography are compiled from their C sources.
  command -v cc >/dev/null || install_packages 'a C compiler' build-essential
  command -v cc >/dev/null || die 'build-essential is installed, but there is no cc'
}
