# What the agents keep in memory (private and resident) for a million entries, both following, beside what they had before. `--count N` entries.
row=files-memory
runs=1
. bench/lib.sh
. bench/hosts.sh
island
programs=$PWD/build/release/bin
cd "$BENCH_WORK"
: "${count:=1000000}"

resident() { awk '/^Rss:/ {all = $2} /^Shared/ {all -= $2} END {print all / 1024}' "/proc/${agent_pid[$1]}/smaps_rollup"; }
start_hosts tmpfs 8G
"$programs/bench-files" make old/tree --count "$count" --size 0
start_agent old && start_agent new
drive observe >/dev/null 2>&1 || true
declare -A before
for host in old new; do before[$host]=$(resident $host); done
drive copy >/dev/null
drive reach --until caught-up >/dev/null
for host in old new; do
  now=$(resident $host)
  say "$host: ${before[$host]} MiB before, $now MiB after"
  figure "$count entries, $host, after the first copy" MiB "$(awk -v a="$now" -v b="${before[$host]}" 'BEGIN {print a - b}')" 0 none less "ours $((150 * count / 1000000))"
done
for host in old new; do stop_agent $host; done
start_agent old && start_agent new
drive reach --until caught-up >/dev/null
for host in old new; do
  figure "$count entries, $host, after a restart" MiB "$(awk -v a="$(resident $host)" -v b="${before[$host]}" 'BEGIN {print a - b}')" 0 none less "ours $((150 * count / 1000000))"
done
stop_hosts
say "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
