# Other ways to copy database bench from the cluster in ./old (port 5501) to that in ./new (5502), for the rows that copy one; each
# prints its seconds and leaves nothing on new. Sourced after bench/lib.sh; `from` and `to` say how the two are reached.
# Between runs nothing is under way, and nothing is left to be written.
calm() {
  sql old 5501 postgres "CHECKPOINT" && sql new 5502 postgres "CHECKPOINT"
  sync
}
seconds_since() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN {printf "%.3f\n", b - a}'; }

run_pgcopydb() {
  sql new 5502 postgres "CREATE DATABASE bench"
  rm -rf copydb
  mkdir copydb && chown postgres: copydb
  local begun
  begun=$(date +%s.%N)
  as_postgres env TMPDIR="$PWD/copydb" pgcopydb clone --dir "$PWD/copydb/work" --source "$from" --target "$to" >copydb.log 2>&1 || { tail -n 20 copydb.log >&2; return 1; }
  seconds_since "$begun"
  sql new 5502 postgres "DROP DATABASE bench"
}
run_builtin() {
  sql new 5502 postgres "CREATE DATABASE bench"
  local begun
  begun=$(date +%s.%N)
  as_postgres $bin/pg_dump --schema-only -d "$from" | as_postgres psql -q -X -d "$to" >/dev/null
  sql old 5501 bench "CREATE PUBLICATION everything FOR ALL TABLES"
  sql new 5502 bench "CREATE SUBSCRIPTION everything CONNECTION '$from' PUBLICATION everything" 2>/dev/null
  until [ "$(sql new 5502 bench "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'")" = 0 ]; do sleep 0.02; done
  seconds_since "$begun"
  sql new 5502 bench "DROP SUBSCRIPTION everything" 2>/dev/null
  sql old 5501 bench "DROP PUBLICATION everything"
  sql new 5502 postgres "DROP DATABASE bench"
}
