# The last pass: 100 files changed, then the barrier, on trees of 10,000, 100,000 and 1,000,000 entries, against the last pass of rsync over
# ssh. `--count N`: that size alone. In memory, or with `--only ext4` on this machine's disk.
row=files-barrier
runs=5
. bench/lib.sh
. bench/hosts.sh
island
programs=$PWD/build/release/bin
cd "$BENCH_WORK"
medium=${only:-tmpfs}

change() { local n; for n in $(seq 100); do echo "$RANDOM $1" >"old/tree/d$(printf %05d $((RANDOM % folders)))/changed-$n"; done; }
for entries in ${count:-10000 100000 1000000}; do
  folders=$((entries / 100))
  start_hosts $medium 8G
  "$programs/bench-files" make old/tree --count "$entries" --size 0
  start_agent old && start_agent new
  drive copy >/dev/null
  drive reach --until caught-up >/dev/null
  rm -f times.*
  for run in $(seq "$runs"); do
    change "$run"
    begun=$EPOCHREALTIME
    drive barrier >barrier.out
    seconds_since "$begun" | tee -a times.ours | sed "s/^/$entries entries, run $run, ours: /" >&2
    begun=$EPOCHREALTIME
    rsync_tree --delete --exclude /.midstream
    seconds_since "$begun" | tee -a times.rsync | sed "s/^/$entries entries, run $run, rsync: /" >&2
  done
  [ -z "$(differences | tee different | head -n 3)" ] || { say "differs: $(head -n 3 different)"; exit 1; }
  figure "the last pass, 100 entries pending of $entries, $medium" s "$(median <times.ours)" "$(median <times.rsync)" "$rsync_name" less "ours 1"
  stop_hosts
done
say "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
