# Sourced by bench/rows/*.sh, which run in namespaces of their own as process 1's child: what they share.
set -euo pipefail
bin=/usr/lib/postgresql/15/bin
runs=${runs:-9} seconds=5 scale= only= count=
while [ $# -gt 0 ]; do
  case $1 in
    --runs) runs=$2 ;; --seconds) seconds=$2 ;; --scale) scale=$2 ;; --only) only=$2 ;; --count) count=$2 ;;
    *) echo "bench/run: what is '$1'? --runs N, --seconds N, --scale N, --count N, --only WORD" >&2; exit 64 ;;
  esac
  shift 2
done

say() { printf '%s\n' "$*" >&2; }

# A loopback interface, and shared memory that goes with us.
island() {
  ip link set lo up
  mount -t tmpfs none /dev/shm
  say "machine: $(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo), $(uname -sr)"
  say "load before: $(cut -d' ' -f1-3 /proc/loadavg)"
  say "command: $BENCH_COMMAND"
}

as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/tmp "$@"; }

# start_cluster DIR PORT [-c name=value ...]: a server with its data in DIR/data and its socket in DIR.
start_cluster() {
  local dir=$1 port=$2
  shift 2
  mkdir -p "$dir"
  chown postgres: "$dir"
  as_postgres $bin/initdb --no-sync -A trust -E UTF8 --locale=C.UTF-8 -D "$dir/data" >/dev/null
  as_postgres $bin/pg_ctl -D "$dir/data" -w -l "$dir/log" -o "-p $port -k $dir -c listen_addresses=127.0.0.1 $*" start >/dev/null
}
# sql DIR PORT DATABASE: statements from stdin, or one as the fourth argument.
sql() { as_postgres psql -X -q -At -v ON_ERROR_STOP=1 -h "$(realpath "$1")" -p "$2" -d "$3" ${4:+-c "$4"}; }

median() { sort -g | awk '{v[NR] = $1} END {if (NR == 0) exit 1; print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
least() { sort -g | head -n 1; }
most() { sort -g | tail -n 1; }

# figure WHAT UNIT OURS PEER PEER_NAME BETTER GOAL: BETTER is more or less; GOAL is "ratio N" (at least), "ours N" (at most) or "".
figure() {
  awk -v row="$row" -v what="$1" -v unit="$2" -v ours="$3" -v peer="$4" -v name="$5" -v better="$6" -v goal="$7" -v runs="$runs" 'BEGIN {
    ratio = ours > 0 && peer > 0 ? (better == "more" ? ours / peer : peer / ours) : 0
    split(goal, part, " ")
    ok = goal == "" ? "null" : part[1] == "ratio" ? (ratio >= part[2] ? "true" : "false") : (ours <= part[2] ? "true" : "false")
    printf "{\"row\": \"%s\", \"what\": \"%s\", \"unit\": \"%s\", \"ours\": %.6g, \"peer\": %.6g, \"peer_name\": \"%s\", \"ratio\": %.3f, \"goal\": \"%s\", \"runs\": %d, \"ok\": %s}\n",
      row, what, unit, ours, peer, name, ratio, goal, runs, ok
  }'
}
