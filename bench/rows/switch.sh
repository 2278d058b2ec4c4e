# A switch as clients feel it, 200 sessions of pgbench, 500 transactions a second in sum: ours through the gate in session mode, to and fro,
# against a script that has PgBouncer 1.18 PAUSE (transaction mode), and takes the database over as well as a script can. In session
# mode PAUSE is shown not to return. A figure is the longest wait of the transactions that were under way when a hold ended,
# of each switch. `--only tmpfs` (data in memory, the default) or `--only disk` (fsync; its 99th percentile is measured beside).
row=switch
runs=2
. bench/lib.sh
. bench/pair.sh
island
switches=${scale:-10}
programs=$PWD/build/release
medium=${only:-tmpfs}
[ "$medium" = disk ] || mount -t tmpfs none "$BENCH_WORK"
chmod 1777 "$BENCH_WORK"
mount --bind "$BENCH_WORK" /tmp  # where the test of the gate puts its servers
cd /tmp
client_script >script
clients=200 rate=500

run_ours() {
  TMPDIR=/tmp MIDSTREAM_CLIENTS=$clients MIDSTREAM_RATE=$rate MIDSTREAM_TORTURE=0 MIDSTREAM_SWITCHES=$switches \
    "$programs/test/gated_live_test" --gtest_filter='Gated.ToAndFro*' >ours.log 2>&1 || { grep -v ' info ' ours.log | tail -n 30 >&2; return 1; }
  sed -n 's/^  each, over the end of the hold: //p' ours.log | tr ' ' '\n' >>stalls.ours
  sed -n 's/^  each, all of it: //p' ours.log | tr ' ' '\n' >>all.ours
  sed -n 's/^[0-9]* switches, .*/  ours: &/p' ours.log >&2
}

# bouncer_ini MODE PORT: where it leads now.
bouncer_ini() {
  printf '[databases]\nshop = host=127.0.0.1 port=%s dbname=shop\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = 6432\nunix_socket_dir =\n' "$2"
  printf 'auth_type = trust\nauth_file = /tmp/users\npool_mode = %s\nmax_client_conn = 400\ndefault_pool_size = %s\nadmin_users = postgres\n' "$1" $([ "$1" = session ] && echo 220 || echo 20)
}
start_bouncer() {
  printf '"client" ""\n"postgres" ""\n' >users
  bouncer_ini "$1" 5601 >bouncer.ini
  chmod 644 bouncer.ini users
  setpriv --reuid=postgres --regid=postgres --init-groups pgbouncer -q /tmp/bouncer.ini 2>bouncer.log &
  bouncer=$!
  until psql -X -q -h 127.0.0.1 -p 6432 -U client -d shop -c '' 2>/dev/null; do sleep 0.1; done
}
start_clients() {
  rm -f log.*
  pgbench -h 127.0.0.1 -p 6432 -U client -n -M simple -c $clients -j 2 -R $rate -T "$1" -f script -l --log-prefix=log shop >bench.out 2>&1 &
  bench=$!
  sleep 3
}

# hand_over FROM TO FROM_PORT TO_PORT SLOT BACK: PAUSE to RESUME; prints nothing. SLOT is what TO follows by, BACK what FROM will.
hand_over() {
  local values from=$1 to=$2 slot=$5 back=$6
  ask bouncer "PAUSE shop;"
  fence_by_hand "$from" "$slot"
  ask "$to" "ALTER SUBSCRIPTION $slot DISABLE;"
  ask "$from" "SELECT format('SELECT setval(%L, %s, %L) \\g /dev/null', schemaname || '.' || sequencename, coalesce(last_value, start_value), last_value IS NOT NULL) FROM pg_sequences;"
  values=$answer
  ask "$to" "$values
SELECT pg_create_logical_replication_slot('$back', 'pgoutput') \\g /dev/null
ALTER DATABASE shop CONNECTION LIMIT -1;"
  bouncer_ini transaction "$4" >bouncer.ini
  ask bouncer "RELOAD;"
  ask bouncer "RESUME shop;"
  now_us >>resumed
  # After the hold: the way back.
  ask "$from" "CREATE SUBSCRIPTION $back CONNECTION 'host=127.0.0.1 port=$4 user=postgres dbname=shop' PUBLICATION everything WITH (create_slot = false, slot_name = '$back', copy_data = false, synchronous_commit = on);"
  ask "$to" "ALTER SUBSCRIPTION $slot SET (slot_name = NONE); DROP SUBSCRIPTION $slot;"
  ask "$from" "DO \$\$ BEGIN WHILE (SELECT active FROM pg_replication_slots WHERE slot_name = '$slot') LOOP PERFORM pg_sleep(0.01); END LOOP; PERFORM pg_drop_replication_slot('$slot'); END \$\$;"
  [ -z "${answer:-}" ] || { say "the script's way back: $answer"; return 1; }
}

run_peer() {
  local i from=old to=new from_port=5601 to_port=5602 slot=fwd
  start_pair /tmp/pair 0
  start_bouncer transaction
  : >resumed
  open old -h /tmp/pair/old -p 5601 -d shop
  ask old "SET client_min_messages = error;"
  open new -h /tmp/pair/new -p 5602 -d shop
  ask new "SET client_min_messages = error;"
  open bouncer -h 127.0.0.1 -p 6432 -U postgres -d pgbouncer
  start_clients $((switches * 2 + 6))
  for i in $(seq "$switches"); do
    hand_over $from $to $from_port $to_port $slot "way_$i"
    slot=way_$i
    [ $from = old ] && from=new to=old from_port=5602 to_port=5601 || from=old to=new from_port=5601 to_port=5602
    sleep 1
  done
  wait $bench
  awk '/processed:/ {n = $NF} /failed transactions/ {f = $5} END {printf "  peer: %s transactions, %s failed\n", n, f}' bench.out >&2
  local told=$(awk '/actually processed:/ {print $NF}' bench.out) there
  there=$(sql /tmp/pair/$from $from_port shop "SELECT count(*) FROM orders")
  [ "$told" = "$there" ] || say "  peer: told $told are committed, $there are there"
  # client, number, wait, script, second, microsecond of its end
  while read -r at; do
    cat log.* | awk -v at="$at" '{end = $5 * 1000000 + $6} end >= at && end - $3 <= at && $3 > most {most = $3} END {print most + 0}'
  done <resumed >>stalls.peer
  shut old; shut new; shut bouncer
  kill $bouncer
  wait $bouncer 2>/dev/null || true
  stop_pair /tmp/pair
}

# PAUSE where every client has a server connection to itself: it waits until the last one has gone.
pause_in_session_mode() {
  start_pair /tmp/pair 0
  start_bouncer session
  open bouncer -h 127.0.0.1 -p 6432 -U postgres -d pgbouncer
  start_clients 18
  local begun=$EPOCHREALTIME
  patience=10 ask bouncer "PAUSE shop;" && say "PAUSE in session mode returned" || true
  awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN {print (b - a) * 1000}'
  kill $bench $bouncer
  wait $bench $bouncer 2>/dev/null || true
  stop_pair /tmp/pair
}

worst_fsync() {
  local n
  for n in $(seq 400); do
    local a=$EPOCHREALTIME
    dd if=/dev/zero of="$BENCH_WORK/fsync-probe" bs=8k count=1 conv=fsync,notrunc status=none
    awk -v a="$a" -v b="$EPOCHREALTIME" 'BEGIN {print (b - a) * 1000}'
    sleep 0.05
  done | sort -g | awk '{v[NR] = $1} END {print v[int(NR * 0.99)]}'
}

: >stalls.ours >stalls.peer >all.ours
worst=150
[ "$medium" = disk ] && { worst_fsync >fsync.p99 & probe=$!; }
for run in $(seq "$runs"); do
  order="ours peer"
  [ $((run % 2)) = 0 ] && order="peer ours"
  for way in $order; do run_$way; done
done
if [ "$medium" = disk ]; then
  wait $probe
  say "fsync of a page, and the process that asks for it: p99 $(cat fsync.p99) ms"
  worst=$(awk '{print 150 + 3 * $1}' fsync.p99)
fi
ms() { awk '{print $1 / 1000}' "$1"; }
share() { sort -g | awk -v s="$1" '{v[NR] = $1} END {i = int(NR * s + 0.999); print v[i < 1 ? 1 : i]}'; }
what="data on $medium, longest wait over the end of the hold, $(wc -l <stalls.ours) switches"
name="PgBouncer PAUSE, transaction mode"
figure "$what: p50" ms "$(ms stalls.ours | median)" "$(ms stalls.peer | median)" "$name" less "ours 60"
figure "$what: p95" ms "$(ms stalls.ours | share 0.95)" "$(ms stalls.peer | share 0.95)" "$name" less "ours 150"
figure "$what: worst" ms "$(ms stalls.ours | most)" "$(ms stalls.peer | most)" "$name" less "ours $worst"
session=$(pause_in_session_mode)
figure "session mode: a switch's stall (p50), and how long PAUSE was waited for in vain" ms "$(ms stalls.ours | median)" "$session" "PgBouncer PAUSE, session mode" less ""
say "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
