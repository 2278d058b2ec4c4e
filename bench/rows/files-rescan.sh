# A tree of a million entries in which nothing has changed: from the start of old's agent, which was ended, until it follows again, which is
# a walk over everything, against a run of rsync over ssh. `--count N` entries. In memory, or with `--only ext4` on this machine's disk.
row=files-rescan
runs=5
. bench/lib.sh
. bench/hosts.sh
island
programs=$PWD/build/release/bin
cd "$BENCH_WORK"
: "${count:=1000000}"
medium=${only:-tmpfs}

start_hosts $medium 8G
"$programs/bench-files" make old/tree --count "$count" --size 0
start_agent old && start_agent new
drive copy >/dev/null
for run in $(seq "$runs"); do
  stop_agent old
  settle
  begun=$EPOCHREALTIME
  start_agent old
  drive reach --until caught-up >/dev/null
  seconds_since "$begun" | tee -a times.ours | sed "s/^/run $run, ours: /" >&2
  begun=$EPOCHREALTIME
  rsync_tree --exclude /.midstream
  seconds_since "$begun" | tee -a times.rsync | sed "s/^/run $run, rsync: /" >&2
done
figure "$count entries, nothing changed, $medium: restart of the agent until it follows" s "$(median <times.ours)" "$(median <times.rsync)" "$rsync_name" less "ratio 5"
figure "$count entries, $medium: restart of the agent until it follows" s "$(median <times.ours)" 0 none less "ours 5"
stop_hosts
say "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
