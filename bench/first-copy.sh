# A tree's first copy between two hosts, ours beside rsync over ssh, and where a disk counts beside two `cp -a`, the limit. Sourced
# after bench/hosts.sh by the rows that measure that.

run_ours() {
  local seen
  seen=$(drive copy) || { tail -n 20 old/log new/log >&2; return 1; }
  field seconds <<<"$seen"
  drive barrier >/dev/null
  [ -z "$(differences | tee different | head -n 3)" ] || { say "ours differs: $(head -n 3 different)"; return 1; }
  drive undo >/dev/null
}
run_rsync() {
  local begun=$EPOCHREALTIME
  rsync_tree
  sync -f new/tree
  seconds_since "$begun"
  [ -z "$(differences | head -n 3)" ] || { say "rsync differs"; return 1; }
  empty_new
}
# Half of what lies in the root each.
run_cp() {
  local begun=$EPOCHREALTIME
  (cd old/tree && find . -mindepth 1 -maxdepth 1 | sort | awk 'NR % 2 == 1' | tr '\n' '\0' | xargs -0 -n 100000 cp -a -t ../../new/tree) &
  (cd old/tree && find . -mindepth 1 -maxdepth 1 | sort | awk 'NR % 2 == 0' | tr '\n' '\0' | xargs -0 -n 100000 cp -a -t ../../new/tree)
  wait $!
  sync -f new/tree
  seconds_since "$begun"
  empty_new
}

# compare_copies WHAT MEDIUM GOAL: the tree is made, the agents serve.
compare_copies() {
  local run way order ways="ours rsync"
  [ "$2" = tmpfs ] || ways="ours rsync cp"
  rm -f times.*
  for run in $(seq "$runs"); do
    order=$ways
    [ $((run % 2)) = 1 ] || order=$(tr ' ' '\n' <<<"$ways" | tac | tr '\n' ' ')
    for way in $order; do
      settle
      run_$way >took
      say "$1, $2, run $run, $way: $(cat took) s"
      cat took >>times.$way
    done
  done
  figure "$1, first copy, $2" s "$(median <times.ours)" "$(median <times.rsync)" "$rsync_name" less "$3"
  [ "$2" = tmpfs ] || figure "$1, first copy, $2: the limit" s "$(median <times.ours)" "$(median <times.cp)" "two cp -a side by side" less "ratio 0.769"
}
