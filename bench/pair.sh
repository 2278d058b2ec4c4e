# Two servers and what a shell script needs to hand a database from one to the other, for the rows that measure that. Sourced after
# bench/lib.sh. The database is what the tests of the gate use, in the parts that matter: `orders`, which clients fill, and
# `customers`, which they update.

# start_pair DIR TABLES: servers DIR/old (port 5601) and DIR/new (5602), database `shop` followed by new.
start_pair() {
  local dir=$1 tables=$2 side port
  for side in old new; do
    [ $side = old ] && port=5601 || port=5602
    start_cluster "$dir/$side" $port -c wal_level=logical -c max_connections=500 -c max_worker_processes=16 -c max_logical_replication_workers=12 \
      -c shared_buffers=32MB -c max_wal_size=256MB -c wal_retrieve_retry_interval=100ms
    sql "$dir/$side" $port postgres "CREATE ROLE client LOGIN" && sql "$dir/$side" $port postgres "CREATE DATABASE shop OWNER client"
    { echo "CREATE TABLE customers (id int PRIMARY KEY, note text); CREATE TABLE orders (key bigint PRIMARY KEY, customer int, body text);"
      echo "CREATE SEQUENCE tickets; ALTER TABLE customers OWNER TO client; ALTER TABLE orders OWNER TO client;"
      for i in $(seq "$tables"); do echo "CREATE TABLE more_$i (id int PRIMARY KEY, v text);"; done
    } | sql "$dir/$side" $port shop
  done
  sql "$dir/old" 5601 shop "INSERT INTO customers SELECT g, 'x' FROM generate_series(1, 500) g"
  for side in old new; do
    [ $side = old ] && port=5601 || port=5602
    sql "$dir/$side" $port shop "CREATE PUBLICATION everything FOR ALL TABLES"
  done
  sql "$dir/new" 5602 shop "CREATE SUBSCRIPTION fwd CONNECTION 'host=127.0.0.1 port=5601 user=postgres dbname=shop' PUBLICATION everything WITH (synchronous_commit = on)" 2>/dev/null
  until [ "$(sql "$dir/new" 5602 shop "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'")" = 0 ]; do sleep 0.05; done
}
stop_pair() {
  local side
  for side in old new; do as_postgres $bin/pg_ctl -D "$1/$side/data" -m immediate stop >/dev/null; done
  rm -rf "$1"
}

# What clients do, as the tests of the gate have them do it.
client_script() {
  printf '\\set c random(1, 500)\n\\set k random(1, 1000000000000000)\nBEGIN;\nINSERT INTO orders (key, customer, body) VALUES (:k, :c, '"'order'"');\n'
  printf 'UPDATE customers SET note = '"'seen'"' WHERE id = :c;\nEND;\n'
}

# A psql that stays connected: open NAME ARGUMENTS..., then ask NAME STATEMENTS (rows in $answer), shut NAME.
declare -A into out_of
open() {
  local name=$1 a b
  shift
  rm -f "$name.in" "$name.out"
  mkfifo "$name.in" "$name.out"
  chmod 666 "$name.in" "$name.out"
  as_postgres psql -X -q -At -v ON_ERROR_STOP=0 "$@" <"$name.in" >"$name.out" 2>&1 &
  exec {a}>"$name.in" {b}<"$name.out"
  into[$name]=$a out_of[$name]=$b
}
ask() {
  local line
  answer=
  printf '%s\n\\echo .\n' "$2" >&"${into[$1]}"
  while IFS= read -r -t "${patience:-20}" line <&"${out_of[$1]}"; do
    [ "$line" = . ] && return
    answer+=${answer:+$'\n'}$line
  done
  return 1
}
shut() {
  local a=${into[$1]} b=${out_of[$1]}
  exec {a}>&- {b}<&-
}

# Fence and barrier by hand on the giving server: nobody logs in, whoever is there is ended, and what is committed has arrived.
# fence_by_hand NAME SLOT, NAME being a session of its superuser.
fence_by_hand() {
  ask "$1" "ALTER DATABASE shop CONNECTION LIMIT 0;
    DO \$\$ BEGIN LOOP PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shop' AND usename = 'client' AND backend_type = 'client backend';
    PERFORM pg_stat_clear_snapshot(); EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'shop' AND usename = 'client'); PERFORM pg_sleep(0.001); END LOOP; END \$\$;
    SELECT pg_logical_emit_message(true, 'bench', 'fence') \\g /dev/null
    DO \$\$ DECLARE f pg_lsn := pg_current_wal_flush_lsn(); BEGIN WHILE (SELECT confirmed_flush_lsn < f FROM pg_replication_slots WHERE slot_name = '$2')
    LOOP PERFORM pg_sleep(0.001); END LOOP; END \$\$;"
  [ -z "$answer" ] || { say "fence by hand: $answer"; return 1; }
}
now_us() { echo "${EPOCHREALTIME/./}"; }
