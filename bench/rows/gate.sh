# The gate against PgBouncer in session mode, pgbench select-only: transactions a second, CPU a transaction, and what each adds to
# the median latency of one client. TLS is on on both legs, or off on both. The server's data are in memory.
row=gate
. bench/lib.sh
island
mount -t tmpfs none "$BENCH_WORK"
chmod 755 "$BENCH_WORK"
cd "$BENCH_WORK"
program=$OLDPWD/build/release/bin/midstream
export PGPASSWORD=w0rd

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=bench -addext "subjectAltName=IP:127.0.0.1" \
  -keyout key -out crt 2>/dev/null
cp key server.key && chown postgres: key server.key && chmod 600 key server.key
say "making the database"
start_cluster "$PWD/pg" 5432 -c fsync=off -c shared_buffers=512MB -c max_connections=300 -c autovacuum=off -c ssl=on \
  -c ssl_cert_file="$PWD/crt" -c ssl_key_file="$PWD/server.key"
sql pg 5432 postgres "CREATE ROLE app LOGIN PASSWORD 'w0rd'; CREATE ROLE looker LOGIN SUPERUSER PASSWORD 'w0rd'"
sql pg 5432 postgres "CREATE DATABASE bench OWNER app"
printf 'local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n' >pg/data/pg_hba.conf
as_postgres $bin/pg_ctl -D pg/data reload >/dev/null
pgbench -q -i -s "${scale:-10}" -h 127.0.0.1 -p 5432 -U app bench >/dev/null 2>&1

echo w0rd >password
echo '"app" "w0rd"' >users
chown postgres: users
declare -A port=([direct]=5432 [gate-off]=6001 [gate-on]=6002 [bouncer-off]=6003 [bouncer-on]=6004) pid
for tls in off on; do
  { printf 'listen: 127.0.0.1:%s\ncontrol: %s/gate-%s.sock\nlookup: { user: looker, password_file: %s/password }\nthreads: 2\n' "${port[gate-$tls]}" "$PWD" $tls "$PWD"
    [ $tls = off ] && printf 'server: { host: 127.0.0.1, port: 5432 }\n'
    [ $tls = on ] && printf 'server: { host: 127.0.0.1, port: 5432, tls: require }\ntls: { certificate_file: %s/crt, key_file: %s/key }\n' "$PWD" "$PWD"
    true
  } >gate-$tls.yaml
  "$program" gate gate-$tls.yaml >gate-$tls.log 2>&1 &
  pid[gate-$tls]=$!
  { printf '[databases]\nbench = host=127.0.0.1 port=5432\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %s\nunix_socket_dir =\n' "${port[bouncer-$tls]}"
    printf 'auth_type = scram-sha-256\nauth_file = %s/users\npool_mode = session\nmax_client_conn = 300\ndefault_pool_size = 200\n' "$PWD"
    [ $tls = on ] && printf 'client_tls_sslmode = require\nclient_tls_cert_file = %s/crt\nclient_tls_key_file = %s/key\nserver_tls_sslmode = require\n' "$PWD" "$PWD"
    true
  } >bouncer-$tls.ini
  setpriv --reuid=postgres --regid=postgres --init-groups pgbouncer -q bouncer-$tls.ini 2>bouncer-$tls.log &
  pid[bouncer-$tls]=$!
done

# tps, transactions and median latency (us) of one run: measure WAY TLS CLIENTS
measure() {
  local way=$1 tls=$2 clients=$3 name=$1
  [ $way = direct ] || name=$way-$tls
  rm -f log.*
  PGSSLMODE=$([ $tls = on ] && echo require || echo disable) pgbench -n -S -c "$clients" -j $((clients < 2 ? 1 : 2)) -T "$seconds" \
    $([ "$clients" = 1 ] && echo -l --log-prefix=log) -h 127.0.0.1 -p "${port[$name]}" -U app bench >out 2>err || { cat err >&2; return 1; }
  awk '/^number of transactions actually/ {n = $NF} /^tps/ {tps = $3} END {print tps, n}' out | tr '\n' ' '
  if [ "$clients" = 1 ]; then cut -d' ' -f3 log.* | median; else echo 0; fi
}
ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }
for name in gate-off gate-on bouncer-off bouncer-on; do
  for try in $(seq 100); do
    PGSSLMODE=$([[ $name = *-on ]] && echo require || echo disable) psql -X -q -h 127.0.0.1 -p "${port[$name]}" -U app -d bench -c '' 2>err && break
    [ "$try" = 100 ] && { cat err ${name%-*}-${name#*-}.log >&2; exit 1; }
    sleep 0.1
  done
done

hertz=$(getconf CLK_TCK)
for tls in off on; do
  for clients in 1 8 64; do
    [ -z "$only" ] || [[ "$tls $clients" = $only ]] || continue
    what="TLS $tls, $clients clients"
    ways="gate bouncer"
    [ $clients = 1 ] && ways="direct gate bouncer"
    for run in $(seq "$runs"); do
      [ $((run % 2)) = 0 ] && order=$(tac -s' ' <<<"$ways " | tr -d '\n') || order=$ways
      for way in $order; do
        before=$([ $way = direct ] && echo 0 || ticks "${pid[$way-$tls]}")
        read -r tps count p50 <<<"$(measure $way $tls $clients)"
        after=$([ $way = direct ] && echo 0 || ticks "${pid[$way-$tls]}")
        awk -v t=$tps -v c=$count -v l=$p50 -v d=$((after - before)) -v h=$hertz 'BEGIN {printf "%s %.3f %s\n", t, d * 1e6 / h / c, l}' >>"$way.$tls.$clients"
      done
    done
    column() { cut -d' ' -f"$2" "$1.$tls.$clients"; }
    figure "$what: throughput" "transactions/s" "$(column gate 1 | median)" "$(column bouncer 1 | median)" "PgBouncer" more "ratio 0.97"
    figure "$what: median of the runs' ratios" ratio "$(paste -d' ' <(column gate 1) <(column bouncer 1) | awk '{print $1 / $2}' | median)" 1 "PgBouncer" more "ratio 0.97"
    figure "$what: CPU of the proxy" "us/transaction" "$(column gate 2 | median)" "$(column bouncer 2 | median)" "PgBouncer" less ""
    [ $clients = 1 ] || continue
    straight=$(column direct 3 | median)
    figure "$what: added to the median latency of $straight us" us "$(column gate 3 | median | awk -v d=$straight '{print $1 - d}')" \
      "$(column bouncer 3 | median | awk -v d=$straight '{print $1 - d}')" "PgBouncer" less "ours 50"
  done
done
say "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
