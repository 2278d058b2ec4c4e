# The copy of a database of pgbench, old idle: the postgres mover's own, from nothing on new until it is followed, against
# `pgcopydb clone` and against a subscription that copies. Both servers are alike, on this machine's disk, with fsync.
row=postgres-logical
runs=5
. bench/lib.sh
. bench/copies.sh
island
programs=$PWD/build/release/bin
cd "$BENCH_WORK"
setting="-c wal_level=logical -c shared_buffers=512MB -c max_wal_size=8GB -c checkpoint_timeout=30min -c max_connections=60
  -c max_worker_processes=16 -c max_logical_replication_workers=8 -c max_sync_workers_per_subscription=4 -c wal_retrieve_retry_interval=100ms"
say "making the database, scale ${scale:=100}"
start_cluster "$PWD/old" 5501 $setting
start_cluster "$PWD/new" 5502 $setting
for side in old new; do
  printf 'local all all trust\nhost all,replication all 127.0.0.1/32 trust\n' >$side/data/pg_hba.conf
  as_postgres $bin/pg_ctl -D $side/data reload >/dev/null
done
sql old 5501 postgres "CREATE DATABASE bench"
as_postgres $bin/pgbench -q -i -s "$scale" -h "$PWD/old" -p 5501 bench >/dev/null 2>&1
# It has no key, and a subscription would not take its updates.
sql old 5501 bench "ALTER TABLE pgbench_history REPLICA IDENTITY FULL"
from="host=127.0.0.1 port=5501 user=postgres dbname=bench" to="host=127.0.0.1 port=5502 user=postgres dbname=bench"

run_ours() {
  "$programs/bench-copy" --old-socket "$PWD/old" --old-port 5501 --new-socket "$PWD/new" --new-port 5502 --database bench --state "$PWD/state" \
    --agent "$programs/midstream-agent" >out
  say "  ours: $(cat out)"
  sed -n 's/.*"all":\([0-9.]*\).*/\1/p' out
}

mkdir -p state
# Processor time, in s, that both servers and we ourselves have used up, with all whose end has been waited for.
processor() { cat /proc/{$$,$(head -n 1 old/data/postmaster.pid),$(head -n 1 new/data/postmaster.pid)}/stat | awk -v h="$(getconf CLK_TCK)" '{n += $14 + $15 + $16 + $17} END {print n / h}'; }

peers="ours pgcopydb builtin"
for run in $(seq "$runs"); do
  [ $((run % 2)) = 0 ] && order="builtin pgcopydb ours" || order=$peers
  for way in $order; do
    [ -z "$only" ] || [[ $way = $only ]] || continue
    calm
    before=$(processor)
    took=$(run_$way)
    used=$(awk -v a="$before" -v b="$(processor)" 'BEGIN {printf "%.2f", b - a}')
    say "run $run, $way: $took s, $used s of processors"
    echo "$took" >>"times.$way"
    echo "$used" >>"used.$way"
  done
done
[ -z "$only" ] || exit 0
for peer in "pgcopydb:pgcopydb clone:ratio 1" "builtin:built-in subscription:"; do
  IFS=: read -r way name goal <<<"$peer"
  what="copy of scale $scale until it is followed"
  figure "$what" s "$(median <times.ours)" "$(median <times.$way)" "$name" less "$goal"
  figure "$what: processor time" s "$(median <used.ours)" "$(median <used.$way)" "$name" less ""
done
say "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
