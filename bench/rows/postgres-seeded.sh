# The copy of a database of pgbench by the seeded road, old idle: the postgres mover's own, from nothing on new until it is followed,
# against `pgcopydb clone`, a subscription that copies, and a bare `pg_basebackup`, the limit. Both servers are alike, on this
# machine's disk, with fsync.
row=postgres-seeded
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
# What new's server is started again with.
{ printf "port = 5502\nunix_socket_directories = '%s'\nlisten_addresses = '127.0.0.1'\n" "$PWD/new"
  sed 's/-c /\n/g' <<<"$setting" | sed '/^ *$/d; s/=\([^ ]*\) *$/ = '"'\1'"'/'; } >>new/data/postgresql.conf
sql old 5501 postgres "CREATE DATABASE bench"
as_postgres $bin/pgbench -q -i -s "$scale" -h "$PWD/old" -p 5501 bench >/dev/null 2>&1
# It has no key, and a subscription would not take its updates.
sql old 5501 bench "ALTER TABLE pgbench_history REPLICA IDENTITY FULL"
from="host=127.0.0.1 port=5501 user=postgres dbname=bench" to="host=127.0.0.1 port=5502 user=postgres dbname=bench"

run_ours() {
  "$programs/bench-copy" --road seeded --new-data "$PWD/new/data" --old-socket "$PWD/old" --old-port 5501 --new-socket "$PWD/new" --new-port 5502 --database bench \
    --state "$PWD/state" --agent "$programs/midstream-agent" >out
  say "  ours: $(cat out)"
  sed -n 's/.*"all":\([0-9.]*\).*/\1/p' out
}
run_basebackup() {
  rm -rf bare && mkdir bare && chown postgres: bare
  local begun
  begun=$(date +%s.%N)
  as_postgres $bin/pg_basebackup -D "$PWD/bare/data" -X stream -c fast -d "$from"
  seconds_since "$begun"
  rm -rf bare
}

mkdir -p state
peers="ours basebackup pgcopydb builtin"
for run in $(seq "$runs"); do
  [ $((run % 2)) = 0 ] && order="builtin pgcopydb basebackup ours" || order=$peers
  for way in $order; do
    [ -z "$only" ] || [[ $way = $only ]] || continue
    calm
    took=$(run_$way)
    say "run $run, $way: $took s"
    echo "$took" >>"times.$way"
  done
done
[ -z "$only" ] || exit 0
what="copy of scale $scale until it is followed"
figure "$what" s "$(median <times.ours)" "$(median <times.pgcopydb)" "pgcopydb clone" less "ratio 2"
figure "$what" s "$(median <times.ours)" "$(median <times.basebackup)" "bare pg_basebackup" less "ratio 0.714"
figure "$what" s "$(median <times.ours)" "$(median <times.builtin)" "built-in subscription" less "ratio 4"
say "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
