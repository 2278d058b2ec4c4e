# Sourced by ./demo and ./test: the machine's fitness, the packages, the build.

fail() { printf '%s: %s\n' "$(basename "$0")" "$1" >&2; exit 1; }

# Debian 12, root: said at once, before anything is touched.
require_debian_root() {
  [ -r /etc/os-release ] && . /etc/os-release || fail "this needs Debian 12 (no /etc/os-release here)"
  [ "${ID:-}" = debian ] && [ "${VERSION_ID:-}" = 12 ] || fail "this needs Debian 12, and this is ${PRETTY_NAME:-something else}"
  [ "$(id -u)" = 0 ] || fail "this needs root: it makes network namespaces, mounts and file systems (try: sudo $0)"
}

# install_packages [LIST...]: what packages.txt, or these lists, name and is missing. Daemons that come with packages are not
# started.
install_packages() {
  local wanted missing="" package
  wanted=$(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "${@:-packages.txt}")
  for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
  done
  [ -z "$missing" ] && return 0
  echo "installing:$missing"
  # policy-rc.d keeps apt from starting the daemons that the lab runs in namespaces of its own.
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy && made=1; fi
  # Without this, postgresql-common makes and enables a cluster of its own on installation.
  if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  fi
  # Postfix asks what kind of mail host this is, and unasked makes it one: the lab's hosts bring their own configuration.
  if ! dpkg-query -W -f '${Status}' postfix 2>/dev/null | grep -q 'ok installed'; then
    echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
  fi
  local log=build/apt.log code=0
  mkdir -p build
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } >$log 2>&1 || code=$?
  [ -n "$made" ] && rm -f $policy
  [ $code = 0 ] || { tail -n 15 $log >&2; fail "the packages could not be installed (whole log: $log)"; }
}

configure() {
  local log=build/$1.log
  mkdir -p build
  cmake --preset "$1" >$log 2>&1 || { tail -n 30 $log >&2; fail "cmake failed (whole log: $log)"; }
}

# build_preset NAME [target...]
build_preset() {
  local preset=$1 log=build/$1.log
  shift
  configure "$preset"
  cmake --build --preset "$preset" ${1:+--target "$@"} >>$log 2>&1 || { grep -A8 -m5 -E 'error|FAILED' $log >&2; fail "the build failed (whole log: $log)"; }
}

# The programs of the tests with one label; a test is named after its program, checks on the source have none.
test_programs() { ctest --preset "$1" -N -L "$2" | sed -n 's/^ *Test *#[0-9]*: //p' | sed -E 's/_(long|alone)$//' | sort -u | grep -v -E '^(source|trial|demo)_' || true; }
