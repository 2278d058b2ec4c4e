# Sourced, after tools/setup.sh, by what needs PostgreSQL's own programs for tests: Debian's source package postgresql-15.

# apt with the sources of the lists that this machine has, apart from its own state, which is in $1.
apt_source() {
  "$2" -o Dir::Etc::SourceList="$1/apt/sources.list" -o Dir::Etc::SourceParts="$1/apt/parts" -o Dir::State::Lists="$1/apt/lists" \
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root "${@:3}"
}

# postgres_source DIRECTORY: unpacked in DIRECTORY/source; that of the server which is installed, else the newest that can be had.
postgres_source() {
  local there=$1 file installed version
  mkdir -p "$there/apt/parts" "$there/apt/lists/partial"
  { grep -hs '^deb .*bookworm' /etc/apt/sources.list /etc/apt/sources.list.d/*.list || true; } | sed 's/^deb /deb-src /' >"$there/apt/sources.list"
  for file in $(grep -ls '^Suites:.*bookworm' /etc/apt/sources.list.d/*.sources || true); do
    sed 's/^Types:.*/Types: deb-src/' "$file" >"$there/apt/parts/$(basename "$file")"
  done
  apt_source "$there" apt-get update
  installed=$(dpkg-query -W -f '${Version}' postgresql-15)
  for version in $installed $(apt_source "$there" apt-cache showsrc postgresql-15 | sed -n 's/^Version: //p' | sort -ruV); do
    (cd "$there" && apt_source "$there" apt-get source --download-only "postgresql-15=$version") && dpkg-source -x --no-check "$there/postgresql-15_$version.dsc" "$there/source" && return 0
  done
  return 1
}
