# From the fence to the barrier passed, at 500 transactions a second from 20 clients, with 10 and with 1,000 tables besides theirs: ours in
# switches through the gate, to and fro, with its proof that the fence holds, against a shell script that shuts the database by hand, ends
# who is there, and waits for the marker, with none. Data in memory or, with `--only disk`, on this machine's disk.
row=fence
runs=10
. bench/lib.sh
. bench/pair.sh
island
programs=$PWD/build/release
[ "$only" = disk ] || mount -t tmpfs none "$BENCH_WORK"
chmod 1777 "$BENCH_WORK"
mount --bind "$BENCH_WORK" /tmp  # where the test of the gate puts its servers
cd /tmp
client_script >script
clients=20 rate=500

run_ours() {
  TMPDIR=/tmp MIDSTREAM_CLIENTS=$clients MIDSTREAM_RATE=$rate MIDSTREAM_TORTURE=0 MIDSTREAM_SWITCHES=$runs MIDSTREAM_TABLES=$1 \
    "$programs/test/gated_live_test" --gtest_filter='Gated.ToAndFro*' >ours.log 2>&1 || { grep -v ' info ' ours.log | tail -n 30 >&2; return 1; }
  sed -n 's/^  each, (from the fence to the barrier): //p' ours.log | tr ' ' '\n'
}
run_peer() {
  local i begun ended
  start_pair /tmp/pair "$1"
  open old -h /tmp/pair/old -p 5601 -d shop
  ask old "SET client_min_messages = error;"
  for i in $(seq "$runs"); do
    pgbench -h 127.0.0.1 -p 5601 -U client -n -M prepared -c $clients -j 2 -R $rate -T 60 -f script shop >/dev/null 2>&1 &
    sleep 2
    begun=$(now_us)
    fence_by_hand old fwd
    ended=$(now_us)
    echo $((ended - begun))
    wait $! || true
    ask old "ALTER DATABASE shop CONNECTION LIMIT -1;"
  done
  shut old
  stop_pair /tmp/pair
}

ms() { awk '{print $1 / 1000}' "$1"; }
for tables in 10 1000; do
  run_peer $tables >peer.$tables
  run_ours $tables >ours.$tables
  what="$tables tables, fence to barrier passed"
  name="shell script, without proof"
  figure "$what: median" ms "$(ms ours.$tables | median)" "$(ms peer.$tables | median)" "$name" less "ours 40"
  figure "$what: worst" ms "$(ms ours.$tables | most)" "$(ms peer.$tables | most)" "$name" less "ours 40"
done
say "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
