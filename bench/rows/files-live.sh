# From a file closed on old to the same file visible on new, at 1,000 new files a second: ours against lsyncd with a delay of a second; and
# at 10,000 a second, ours alone, how long after the last the last is there. `--seconds N` of writing each; `--only tmpfs` or `ext4`.
row=files-live
runs=5
seconds=10
. bench/lib.sh
. bench/hosts.sh
island
programs=$PWD/build/release/bin
cd "$BENCH_WORK"

live() { "$programs/bench-live" old/tree new/tree --seconds "$seconds" --rate "$1" >live.out || exit 1; say "$medium, $2, $1 a second: $(cat live.out)"; }
start_lsyncd() {
  printf 'settings { nodaemon = true, statusFile = "%s", maxProcesses = 1 }\nsync { default.rsync, source = "/srv/", target = "root@%s:/srv/", delay = 1,\n  rsync = { archive = true, hard_links = true, acls = true, xattrs = true, numeric_ids = true, rsh = "ssh -F %s" } }\n' \
    "$PWD/lsyncd.status" $address_new "$PWD/ssh/client" >lsyncd.lua
  nsenter -t "${host_pid[old]}" --net --mount -- lsyncd "$PWD/lsyncd.lua" >lsyncd.log 2>&1 &
  lsyncd=$!
}
empty_both() { find old/tree new/tree -mindepth 1 -maxdepth 1 -exec rm -rf {} +; }

for medium in tmpfs ext4; do
  [[ $medium = ${only:-$medium} ]] || continue
  start_hosts $medium 8G
  start_agent old && start_agent new
  rm -f live.p50.* live.p99.* live.drained
  for run in $(seq "$runs"); do
    drive copy >/dev/null
    live 1000 ours
    field p50_ms <live.out >>live.p50.ours
    field p99_ms <live.out >>live.p99.ours
    if [ "$run" -le 2 ]; then
      live 10000 ours
      field drained_ms <live.out >>live.drained
    fi
    drive undo >/dev/null
    empty_both
    start_lsyncd
    live 1000 lsyncd
    field p50_ms <live.out >>live.p50.peer
    field p99_ms <live.out >>live.p99.peer
    kill $lsyncd && wait $lsyncd 2>/dev/null || true
    empty_both
  done
  name="lsyncd $(lsyncd --version | sed 's/.*: //'), delay 1"
  figure "closed to visible, 1,000 a second, $medium: p50" ms "$(median <live.p50.ours)" "$(median <live.p50.peer)" "$name" less "ours 25"
  figure "closed to visible, 1,000 a second, $medium: p99" ms "$(median <live.p99.ours)" "$(median <live.p99.peer)" "$name" less "ours 200"
  figure "10,000 a second for $seconds s, $medium: the last one's lag" ms "$(most <live.drained)" 0 "none" less "ours 10000"
  stop_hosts
done
say "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
