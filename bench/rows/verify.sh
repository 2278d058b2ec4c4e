# Both sides of a database of `--scale` million rows compared by verify, against two bare full-table hash queries run at once with
# PostgreSQL's own parallel workers; and the planted faults, each to be found. `--only ratio` or `--only faults`. Data on this machine's disk.
row=verify
runs=5
. bench/lib.sh
island
programs=$PWD/build/release
rows=$((${scale:=10} * 1000000))
chmod 1777 "$BENCH_WORK"
mount --bind "$BENCH_WORK" /tmp  # where the test puts its servers
cd /tmp

run_test() {
  MIDSTREAM_VERIFY_ROWS=$rows MIDSTREAM_VERIFY_ROUNDS=$runs "$programs/test/mover_postgres_live_test" --gtest_filter="LiveVerify.$1" >log 2>&1
}
if [[ ratio = ${only:-ratio} ]]; then
  run_test 'TakesLittle*' || { grep -v ' info ' log | tail -n 30 >&2; exit 1; }
  read -r bare ours <<<"$(sed -n 's/^[0-9]* rows: two bare hashes at once \([0-9]*\) ms, verify \([0-9]*\) ms.*/\1 \2/p' log)"
  awk -v n="$rows" -v t="$ours" 'BEGIN {printf "rows a second and side: %.0f\n", n * 1000 / t}' >&2
  figure "$scale million rows on both sides" s "$(awk -v a="$ours" 'BEGIN {print a / 1000}')" "$(awk -v a="$bare" 'BEGIN {print a / 1000}')" "two bare hashes at once" less "ratio 0.769"
fi
if [[ faults = ${only:-faults} ]]; then
  runs=1
  run_test 'EachPlanted*' || say "$(grep -v ' info ' log | grep -A4 Failure)"
  figure "$scale million rows: planted faults not found" faults "$(grep -c ': Failure' log || true)" 0 "none" less "ours 0"
fi
say "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
